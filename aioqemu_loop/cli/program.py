"""Running a program in this process as `python script.py`, `-m module`, `-c code` and `-` would."""

from __future__ import annotations

import builtins
import io
import os
import runpy
import sys
import textwrap
from importlib.machinery import BuiltinImporter, SourceFileLoader, SourcelessFileLoader
from types import CodeType, ModuleType, TracebackType

RUNPY = runpy.run_module.__code__.co_filename

# What Python itself sets up to 3.14.
CACHED: dict[str, None] = {} if sys.version_info >= (3, 15) else {"__cached__": None}


def run_script(path: str, arguments: list[str]) -> None:
    """Run a script, or a directory or archive with a __main__.py."""
    sys.argv[:] = [path, *arguments]
    if os.path.isdir(path) or _is_archive(path):
        _set_first_path(os.path.abspath(path), always=True)
        _fresh_main()
        _start_module("__main__", alter_argv=False)  # from sys.path[0]
        return
    _set_first_path(os.path.dirname(os.path.realpath(path)))
    _start_script(os.path.abspath(path), _fresh_main())


def run_module(name: str, arguments: list[str]) -> None:
    """Run a module, or a package's __main__."""
    sys.argv[:] = ["-m", *arguments]
    _set_first_path(os.getcwd())
    _fresh_main()
    _start_module(name, alter_argv=True)


def run_code(code: str, arguments: list[str]) -> None:
    """Run what is given on the command line."""
    if sys.version_info >= (3, 14):
        code = textwrap.dedent(code)
    _run_text(code, "<string>", ["-c", *arguments], {})


def run_stdin(arguments: list[str]) -> None:
    """Run what comes from the standard input, to its end."""
    _run_text(sys.stdin.buffer.read(), "<stdin>", ["-", *arguments], {"__file__": "<stdin>", **CACHED})


def _run_text(text: str | bytes, name: str, argv: list[str], names: dict[str, object]) -> None:
    sys.argv[:] = argv
    _set_first_path("")
    module = _fresh_main()
    module.__dict__.update(names, __loader__=BuiltinImporter)
    try:
        exec(compile(text, name, "exec", dont_inherit=True), module.__dict__)
    except BaseException as exc:
        _leave_us_out(exc)
        raise


def _is_archive(path: str) -> bool:
    import zipfile

    return os.path.isfile(path) and zipfile.is_zipfile(path)  # a pipe can be read once only


def _set_first_path(first: str, always: bool = False) -> None:
    """In the place of what python put in front; with -P and -I it puts nothing there, unless `always`."""
    if not (sys.flags.isolated or getattr(sys.flags, "safe_path", False)):
        sys.path[0] = first
    elif always:
        sys.path.insert(0, first)


def _fresh_main() -> ModuleType:
    """A new __main__ that stays: threads, atexit functions and pickles look there after the program's last line."""
    module = ModuleType("__main__")
    names = vars(module)
    names["__builtins__"] = builtins
    if "__annotations__" in vars(sys.modules["__main__"]):  # up to 3.13
        names["__annotations__"] = {}
    sys.modules["__main__"] = module
    return module


def _start_module(name: str, alter_argv: bool) -> None:
    try:
        # What python itself calls for -m.
        runpy._run_module_as_main(name, alter_argv)  # type: ignore[attr-defined]
    except BaseException as exc:
        _leave_us_out(exc)
        raise


def _start_script(path: str, module: ModuleType) -> None:
    try:
        loader = (SourcelessFileLoader if path.endswith(".pyc") else SourceFileLoader)("__main__", path)
        module.__dict__.update(__file__=path, __loader__=loader, **CACHED)
        exec(_code_of(path, loader), module.__dict__)
    except BaseException as exc:
        _leave_us_out(exc)
        raise


def _code_of(path: str, loader: SourceFileLoader | SourcelessFileLoader) -> CodeType:
    if isinstance(loader, SourcelessFileLoader):
        code = loader.get_code("__main__")
        assert code is not None  # it raises ImportError
        return code
    with io.open_code(path) as file:
        return compile(file.read(), path, "exec", dont_inherit=True)


def _leave_us_out(exc: BaseException) -> None:
    """Python is about to print `exc`, which comes out of the program: it shall show the program's frames only."""
    if isinstance(exc, SystemExit):
        return
    hook = sys.excepthook  # maybe the program's

    def print_exception(kind: type[BaseException], value: BaseException, trace: TracebackType | None) -> None:
        if value is exc:
            trace = _below_us(trace)
            value.__traceback__ = trace
        hook(kind, value, trace)

    sys.excepthook = print_exception


def _below_us(trace: TracebackType | None) -> TracebackType | None:
    """What follows the frames by which the program was started."""
    while trace is not None and trace.tb_frame.f_code.co_filename != __file__:
        trace = trace.tb_next
    while trace is not None and trace.tb_frame.f_code.co_filename in (__file__, RUNPY):
        trace = trace.tb_next
    return trace
