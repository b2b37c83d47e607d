"""Have Cython write the C of all modules that is out of date, in as many processes as there are processors.

The C is the same for all Pythons. With it written a build may compile several modules at a time (build_ext's
`parallel`), which it does in threads: Cython itself, which a build would run in those threads, is not made for that.

With --checks the C raises where it would read beyond the end of something or use None as if it were an object: for
looking for mistakes (tools/sanitized.sh), not for use. Cython has no look for None in modules that do without the GIL,
and no `overflowcheck` where enums are computed; the sanitizers find the use of NULL, and overflow of signed numbers.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import Cython
from Cython.Build import cythonize
from setuptools.dist import Distribution

PACKAGE = Path("aioqemu_loop")
CHECKS = {"boundscheck": True, "initializedcheck": True}
WITHOUT_GIL = re.compile(r"^    cdef .* nogil:$|with nogil:", re.MULTILINE)


def keep_what_is_current() -> None:
    """Cython's own .pxd files count as sources, and those of an environment that was just made are always newer. What
    the same Cython wrote since our sources changed is given today's date; what it wrote before pyproject.toml changed,
    which has its directives, goes."""
    sources = [path for ending in ("pyx", "pxd", "h") for path in PACKAGE.rglob(f"*.{ending}")]
    directives_changed = Path("pyproject.toml").stat().st_mtime
    changed = max(directives_changed, *(path.stat().st_mtime for path in sources))
    for path in PACKAGE.rglob("*.c"):
        written = path.stat().st_mtime
        if written < directives_changed:
            path.unlink()
            continue
        with path.open() as file:
            if Cython.__version__ in file.readline().split() and written > changed:
                os.utime(path)


if __name__ == "__main__":
    keep_what_is_current()
    package = Distribution()
    package.parse_config_files(["pyproject.toml"])
    directives = package.get_option_dict("build_ext")["cython_directives"][1]
    groups = [(package.ext_modules, directives)]
    if "--checks" in sys.argv:
        without_gil, with_gil = [], []
        for module in package.ext_modules:
            found = WITHOUT_GIL.search(Path(module.sources[0]).read_text())
            (without_gil if found else with_gil).append(module)
        directives = directives | CHECKS
        groups = [(without_gil, directives), (with_gil, directives | {"nonecheck": True})]
    for modules, directives in groups:
        cythonize(modules, nthreads=os.cpu_count(), quiet=True, compiler_directives=directives)
