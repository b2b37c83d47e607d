#!/bin/sh
# Tests under valgrind's memcheck: tools/valgrind.sh PYTHON PYTEST-ARGUMENTS ...
# The reports go to build/valgrind, one of each process; fails where a test or memcheck finds something.
set -eu
python=$1
shift
reports=build/valgrind
rm -rf "$reports"
mkdir -p "$reports"
# Not io_uring: under memcheck 3.19 the tests of the ring stood still after 37 of them; why has not been found out.
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
