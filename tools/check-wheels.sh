#!/bin/sh
# Install each wheel of dist/ that fits one of the Pythons named (3.10 3.11 ...) as a user would, with pip in a new venv,
# but with nothing on PATH that could compile and without an index to fetch anything from; then run an echo server.
set -eu

here=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp "$here/examples/echo.py" "$work" # not run in the clone: its aioqemu_loop would be found first
cd "$work"
for version in "$@"; do
    python=$("$here/tools/find-python.sh" "$version")
    [ -n "$python" ] || continue
    ls "$here"/dist/*-cp"$(echo "$version" | tr -d .)"-*.whl >/dev/null 2>&1 || continue
    "$python" -m venv "$work/$version"
    (
        PATH=$work/$version/bin CC=/nowhere/cc
        export PATH CC
        pip install -q --no-index --only-binary :all: --find-links "$here/dist" aioqemu-loop
        python -X dev -W error echo.py --once
        python -c 'import aioqemu_loop as a; print(a.__version__, a.__file__, a.fdmons())'
    )
    echo "== Python $version: ok"
done
