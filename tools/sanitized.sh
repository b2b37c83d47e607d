#!/bin/sh
# Tests on compiled modules that check each access to memory: AddressSanitizer, UndefinedBehaviorSanitizer, and the
# assertions of Python's own headers.
#     tools/sanitized.sh PYTHON PYTEST-ARGUMENTS ...
# PYTHON is that of an environment with the tests' packages. All is copied to build/asan and built there, the modules in
# use stay as they are. Ends with the findings, also those of child processes whose output nobody reads; one is enough
# to fail. With CHECKS=1 (in build/asan-checks) Cython checks indices and None, too, for which all C is written anew.
set -eu

python=$(realpath -s "$1")
shift
tree=build/asan${CHECKS:+-checks}
sources="aioqemu_loop tests tools examples bench docs Makefile README.md CHANGELOG.md CONTRIBUTING.md SECURITY.md LICENSE pyproject.toml pytest_aioqemu_loop.py"
mkdir -p "$tree"
# shellcheck disable=SC2086
tar -c --exclude='*.so' --exclude=__pycache__ --exclude=bench/results ${CHECKS:+--exclude=aioqemu_loop/*.c} $sources \
    | tar -x -C "$tree"
cd "$tree"

# Python's own flags say -fwrapv, which makes overflows of signed numbers defined; ours shall not rely on it.
sanitizers="-fsanitize=address,undefined -fno-wrapv"
export CFLAGS="-O0 -g1 -fno-omit-frame-pointer $sanitizers -UNDEBUG" LDFLAGS="$sanitizers"
[ -z "${CHECKS:-}" ] || "$python" -W ignore tools/generate_c.py --checks
"$python" -W ignore -c "from setuptools import setup; setup()" -q build_ext --inplace -j"$(nproc)"
unset CFLAGS LDFLAGS

findings=$PWD/findings
rm -rf "$findings"
mkdir -m 777 "$findings" # some tests become other users
# What Python itself leaves unfreed at its end is no finding. A SIGSEGV is left to faulthandler, which has Python's
# stack, and to tests that mean it. Tests may preload something before the sanitizer.
export ASAN_OPTIONS="detect_leaks=0:handle_segv=0:allocator_may_return_null=1:verify_asan_link_order=0:log_path=$findings/asan"
# UBSan writes to stderr whatever one asks for, if it is not alone; so pytest leaves the fd alone, and the process ends.
export UBSAN_OPTIONS="print_stacktrace=1:halt_on_error=1"
export PYTHONMALLOC="${PYTHONMALLOC:-malloc}" # each object apart, so that what was freed is known
export PYTHONPATH="$PWD"                      # also for child processes: before the environment's own package
export AIOQEMU_TEST_PATIENCE="${AIOQEMU_TEST_PATIENCE:-60}"
compiler=${CC:-gcc}
# C++ as well: where a library brings that in later (matplotlib), the sanitizer gives up at its first exception.
preload="$("$compiler" -print-file-name=libasan.so) $("$compiler" -print-file-name=libstdc++.so.6)"
# Left out: what counts system calls, of which the sanitizer makes some.
LD_PRELOAD="$preload" "$python" -m pytest -q -p no:cacheprovider \
    --capture=sys --ignore=tests/fdmon/test_syscalls.py "$@" || failed=1
if [ -n "$(ls "$findings")" ]; then
    tail -n +1 "$findings"/*
    failed=1
fi
exit "${failed:-0}"
