#!/bin/sh
# Run `make test-core` on every Python named (3.10 3.11 ...) that is installed here, in a .venv-3.x of its own; also
# those of pyenv that are not on PATH. As many at once as there are processors; each one's output comes when it is done.
set -eu

run_one() {
    version=$1
    python=$(command -v "python$version" || true)
    if [ -z "$python" ] || ! "$python" -c '' 2>/dev/null; then
        python=$(ls -d "${PYENV_ROOT:-$HOME/.pyenv}/versions/$version".*/bin/python 2>/dev/null | tail -n 1 || true)
    fi
    if [ -z "$python" ]; then
        echo "== Python $version is not installed here"
        return
    fi
    mkdir -p build
    log="build/test-$version.log"
    status=0
    make test-core VENV=".venv-$version" PYTHON="$python" >"$log" 2>&1 || status=$?
    echo "== Python $version: $("$python" --version)"
    cat "$log"
    return "$status"
}

if [ "$1" = --one ]; then
    run_one "$2"
else
    printf '%s\n' "$@" | xargs -P "$(nproc)" -I VERSION "$0" --one VERSION
fi
