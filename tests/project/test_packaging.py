"""What is shipped: the sdist has every source and nothing that is generated, and pyproject.toml names every package."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import tomllib

import aioqemu_loop

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())
SOURCES = {".py", ".pyx", ".pxd", ".pyi", ".h", ".typed"}


def shipped_sources() -> set[str]:
    return {
        str(path.relative_to(ROOT))
        for path in (ROOT / "aioqemu_loop").rglob("*")
        if path.suffix in SOURCES or path.name == "py.typed"
    }


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """path -> content, of an sdist that is made from what a fresh clone has: no C, no modules, no egg-info."""
    clone = tmp_path_factory.mktemp("clone")
    for name in [*shipped_sources(), "pyproject.toml", "README.md", "LICENSE"]:
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, clone / name)
    made = subprocess.run(
        [sys.executable, "-c", "from setuptools import build_meta; print(build_meta.build_sdist('.'))"],
        cwd=clone,
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stderr
    with tarfile.open(clone / made.stdout.split()[-1]) as archive:
        files = [member for member in archive if member.isfile()]
        return {member.name.partition("/")[2]: archive.extractfile(member).read() for member in files}  # type: ignore[union-attr]


def test_the_sdist_has_every_source_and_nothing_generated(sdist: dict[str, bytes]) -> None:
    beside = {name for name in sdist if name in ("PKG-INFO", "setup.cfg") or ".egg-info/" in name}
    assert set(sdist) - beside == shipped_sources() | {"pyproject.toml", "README.md", "LICENSE"}


def test_metadata(sdist: dict[str, bytes]) -> None:
    metadata = sdist["PKG-INFO"].decode()
    header = metadata.partition("\n\n")[0].splitlines()
    assert f"Version: {aioqemu_loop.__version__}" in header
    assert "License-Expression: MIT" in header and "License-File: LICENSE" in header
    needed = [line for line in header if line.startswith("Requires-Dist:")]
    assert needed and all("extra ==" in line for line in needed), "something is needed without an extra"


def test_the_version_stands_in_one_place() -> None:
    assert SETTINGS["project"]["dynamic"] == ["version"]
    assert SETTINGS["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "aioqemu_loop._version.__version__"}


def test_every_package_and_every_compiled_module_is_named() -> None:
    packages = {".".join(path.parent.relative_to(ROOT).parts) for path in ROOT.glob("aioqemu_loop/**/__init__.py")}
    modules = {str(path.relative_to(ROOT)) for path in ROOT.glob("aioqemu_loop/**/*.pyx")}
    settings = SETTINGS["tool"]["setuptools"]
    assert sorted(settings["packages"]) == sorted(packages)
    assert sorted(source for module in settings["ext-modules"] for source in module["sources"]) == sorted(modules)


def test_cibuildwheel_builds_what_the_metadata_names() -> None:
    classifiers = [text.rpartition(" ")[2] for text in SETTINGS["project"]["classifiers"] if "Python :: 3." in text]
    built = [name.removesuffix("-*") for name in SETTINGS["tool"]["cibuildwheel"]["build"]]
    assert built == ["cp" + version.replace(".", "") for version in classifiers]
