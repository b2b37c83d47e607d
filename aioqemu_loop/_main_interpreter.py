"""Refuses to be imported in a subinterpreter, before a compiled module is loaded there.

Compiled modules belong to the first interpreter that loads them: they would be lost to the main one. And threads with
loops would be there still when a subinterpreter ends, which ends the process.
"""

from __future__ import annotations

import importlib
import sys


def _here() -> bool:
    try:
        interpreters = importlib.import_module("_interpreters" if sys.version_info >= (3, 13) else "_xxsubinterpreters")
    except ImportError:  # a Python that was built without
        return True
    return bool(interpreters.get_current() == interpreters.get_main())


if not _here():
    raise ImportError(
        "aioqemu_loop works in the main interpreter only, and this is a subinterpreter"
        " (for mod_wsgi: WSGIApplicationGroup %{GLOBAL})"
    )
