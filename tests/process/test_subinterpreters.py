"""In a subinterpreter the import is refused, whatever its kind, and the main interpreter is none the worse.

It was not: a subinterpreter that imported first kept the compiled modules from the main one, and one that ended while
a thread of ours ran ended the process.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import asyncio, faulthandler, importlib, sys
faulthandler.enable()
first = sys.argv[1]
if first == "main":
    import aioqemu_loop
CODE = '''
for name in ("aioqemu_loop", "aioqemu_loop.fdmon.epoll", "aioqemu_loop.files"):
    for again in range(2):
        try:
            __import__(name)
        except ImportError as exc:
            assert str(exc).startswith("aioqemu_loop works in the main interpreter only"), exc
        else:
            raise AssertionError("imported")
'''
if sys.version_info >= (3, 13):
    interpreters = importlib.import_module("_interpreters")
    made = [interpreters.create(kind) for kind in ("isolated", "legacy")]
else:
    interpreters = importlib.import_module("_xxsubinterpreters")
    made = [interpreters.create(isolated=isolated) for isolated in (True, False)]
for made_one in made:
    failed = interpreters.run_string(made_one, CODE)
    assert failed is None, failed
    interpreters.destroy(made_one)
import aioqemu_loop
print(aioqemu_loop.run(asyncio.sleep(0.001, "main goes on")))
"""


@pytest.mark.parametrize("first", ["main", "sub"])
def test_the_import_is_refused(first):
    result = subprocess.run([sys.executable, "-c", PROGRAM, first], capture_output=True, text=True, timeout=50)
    assert (result.returncode, result.stdout, result.stderr) == (0, "main goes on\n", "")


@pytest.mark.skipif(sys.version_info < (3, 14), reason="concurrent.interpreters came with 3.14")
def test_by_the_standard_library_s_own_module():
    code = (
        "from concurrent import interpreters\n"
        "try:\n    interpreters.create().exec('import aioqemu_loop')\n"
        "except interpreters.ExecutionFailed as exc:\n    print(exc.excinfo.type.__name__, exc.excinfo.msg)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)
    assert result.stdout.startswith("ImportError aioqemu_loop works in the main interpreter only"), result.stderr
    assert result.returncode == 0
