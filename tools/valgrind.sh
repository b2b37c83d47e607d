#!/bin/sh
# Tests under valgrind's memcheck: tools/valgrind.sh PYTHON PYTEST-ARGUMENTS ...
# The reports go to build/valgrind, one of each process; fails where a test or memcheck finds something.
set -eu
python=$1
shift
reports=build/valgrind
rm -rf "$reports"
mkdir -p "$reports"
# Not io_uring: valgrind 3.19 does not know that io_uring_enter(2) may block, and lets no other thread run meanwhile; so
# whatever waits for a thread (an executor, call_soon_threadsafe) waits for ever.
export AIOQEMU_TEST_FDMON="${AIOQEMU_TEST_FDMON:-epoll,poll}" AIOQEMU_TEST_PATIENCE="${AIOQEMU_TEST_PATIENCE:-300}"
# Each object apart, so that what was freed is known.
PYTHONMALLOC=malloc PYTHONHASHSEED=0 valgrind --quiet --num-callers=30 --suppressions=tools/valgrind.supp \
    --log-file="$reports/%p" "$python" -m pytest -q -p no:cacheprovider -p no:xdist -o timeout=1800 \
    -o faulthandler_timeout=0 "$@" || failed=1
if [ -n "$(find "$reports" -type f -size +0)" ]; then
    cat "$reports"/*
    failed=1
fi
exit "${failed:-0}"
