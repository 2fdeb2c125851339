#!/bin/sh
# Find a Python that the pinned packages support, and let it make the virtual environment.
# Usage: make_venv.sh VENV STAMP REQUIREMENTS...
suits() {
    "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null
}
for python in ${PYTHON:+"$PYTHON"} python3 python3.12 python3.11 python3.10; do
    if [ -n "$python" ] && suits "$python"; then
        exec "$python" scripts/make_venv.py "$@"
    elif [ -n "$PYTHON" ]; then
        echo "error: PYTHON='$PYTHON' is no Python 3.10 to 3.12; name another interpreter" >&2
        exit 2
    fi
done
echo "error: no Python 3.10 to 3.12 on the PATH; install one, or name one with PYTHON=" >&2
exit 2
