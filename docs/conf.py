"""How Sphinx builds these pages: `make docs`."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if importlib.util.find_spec("gi") is None:  # aioqemu_loop.glib shall be described where PyGObject cannot be had, too
    sys.modules["gi"] = MagicMock()
    sys.modules["gi.repository"] = MagicMock(GLib=MagicMock(Source=object))

# Imported here, so that autodoc sees the compiled modules and not their stubs, which have no docstrings.
import aioqemu_loop

# Pages of parts that may not be here.
OPTIONAL_PAGES = ("command-line", "monitor", "pytest", "opentelemetry", "reliability")

project = "aioqemu_loop"
author = copyright = "the aioqemu_loop authors, MIT licence"
version = release = aioqemu_loop.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
# Docstrings are plain text, in which `this` is code.
default_role = "literal"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"

html_theme = "furo"
html_title = "aioqemu_loop"
html_static_path = ["_static"]
html_css_files = ["style.css"]


@cache
def stub_of(module: str) -> dict[str, ast.FunctionDef | ast.AsyncFunctionDef]:
    """Qualified name -> definition, of a compiled module's stub; empty where there is none."""
    path = Path(str(importlib.import_module(module).__file__))
    stub = path.parent / f"{path.name.partition('.')[0]}.pyi"
    if not stub.exists():
        return {}
    found = {}
    for node in ast.parse(stub.read_text()).body:
        body = node.body if isinstance(node, ast.ClassDef) else [node]
        prefix = f"{node.name}." if isinstance(node, ast.ClassDef) else ""
        found.update(
            {prefix + each.name: each for each in body if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef))}
        )
    return found


def signature_from_stub(
    app: Any, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str | None, str | None] | None:
    """The signature with types that stands in the .pyi beside a compiled module; Cython's own knows no types."""
    if signature is None or inspect.isfunction(obj) or what not in ("class", "method", "function"):
        return None
    module = getattr(obj, "__module__", None) or getattr(getattr(obj, "__objclass__", None), "__module__", None)
    if not module or not module.startswith("aioqemu_loop"):
        return None
    definition = stub_of(module).get(f"{obj.__qualname__}.__init__" if what == "class" else obj.__qualname__)
    if definition is None:
        return None
    arguments = re.sub(r"^(self|cls)(, )?", "", ast.unparse(definition.args))
    result = ast.unparse(definition.returns) if definition.returns and what != "class" else None
    return f"({arguments})", result


def plain_text(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are no reStructuredText: outside of `code` nothing in them is markup."""
    for i, line in enumerate(lines):
        parts = re.split(r"(`[^`]*`)", line)
        parts[::2] = [re.sub(r"([*|]|(?<=\w)_(?!\w))", r"\\\1", text) for text in parts[::2]]
        lines[i] = "".join(parts)


def leave_out_missing_pages(app: Any, name: str, source: list[str]) -> None:
    """The index names them all."""
    if name == "index":
        missing = {f"{page}\n" for page in OPTIONAL_PAGES if not Path(app.srcdir, f"{page}.md").exists()}
        source[0] = "".join(line for line in source[0].splitlines(keepends=True) if line not in missing)


def setup(app: Any) -> None:
    app.connect("source-read", leave_out_missing_pages)
    app.connect("autodoc-process-signature", signature_from_stub)
    app.connect("autodoc-process-docstring", plain_text)
