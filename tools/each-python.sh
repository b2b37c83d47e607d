#!/bin/sh
# Run `make test-core` on every Python named (3.10 3.11 ...) that is installed here, in a .venv-3.x of its own; also
# those of pyenv that are not on PATH. All are run, also after a failure; the output is kept in build/test-3.x.log, too.
set -eu

failed=
mkdir -p build
for version in "$@"; do
    python=$(tools/find-python.sh "$version")
    if [ -z "$python" ]; then
        echo "== Python $version is not installed here"
        continue
    fi
    echo "== Python $version: $("$python" --version)"
    log="build/test-$version.log"
    # Between a whole run on 3.11 and two monitors on the newest, one will do for the others, and not the same: CI's time is limited.
    case $version in 3.10) monitors=epoll ;; 3.12) monitors=io_uring ;; *) monitors=io_uring,epoll ;; esac
    AIOQEMU_TEST_FDMON=${AIOQEMU_TEST_FDMON:-$monitors} make test-core VENV=".venv-$version" PYTHON="$python" \
        >"$log" 2>&1 || failed="$failed $version"
    cat "$log"
done
if [ -n "$failed" ]; then
    echo "== failed on Python$failed"
    exit 1
fi
