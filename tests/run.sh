#!/usr/bin/env bash
# Set up and run the whole test suite; arguments go to pytest (for example: bash tests/run.sh -k norms).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash launch/setup.sh
export PATH="$PWD/.venv/bin:$PATH"
ruff check .
# Two files of tests at a time: most of the time is one process's arithmetic, or waiting for its ranks.
exec python -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
