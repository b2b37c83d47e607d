#!/bin/sh
# The path of the Python of a version (3.10, 3.11, ...) that is installed here, also by pyenv; nothing if there is none.
python=$(command -v "python$1" || true)
if [ -z "$python" ] || ! "$python" -c '' 2>/dev/null; then
    python=$(ls -d "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/python 2>/dev/null | tail -n 1 || true)
fi
echo "$python"
