"""Have Cython write the C of all modules, in as many processes as there are processors; only what is out of date.

With that done a build may compile several modules at a time (build_ext's `parallel`), which it does in threads: Cython
itself, which a build would run in those threads, is not made for that.
"""

from __future__ import annotations

import os

from Cython.Build import cythonize
from setuptools.dist import Distribution

if __name__ == "__main__":
    package = Distribution()
    package.parse_config_files(["pyproject.toml"])
    options = package.get_option_dict("build_ext")
    cythonize(
        package.ext_modules,
        nthreads=os.cpu_count(),
        quiet=True,
        compiler_directives=options["cython_directives"][1],
    )
