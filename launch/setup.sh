#!/usr/bin/env bash
# Make .venv at the root of the repository and install the package into it, or do nothing if that is done already.
# PYTHON names another interpreter (3.11 to 3.13); pip's own variables (PIP_INDEX_URL, PIP_FIND_LINKS ...) are respected.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${PYTHON:-python3}
if ! "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
    echo "error: $python is not Python 3.11, 3.12 or 3.13; install one and name it: PYTHON=python3.11 bash $0" >&2
    exit 2
fi

stamp=.venv/.installed
wanted=$(cat launch/constraints.txt pyproject.toml | sha256sum)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
    exit 0
fi

echo "installing into .venv (once; a few minutes) ..."
"$python" -m venv .venv
pip=(.venv/bin/python -m pip install --quiet --constraint launch/constraints.txt)
"${pip[@]}" torch numpy
"${pip[@]}" --editable '.[dev]'
echo "$wanted" >"$stamp"
