#!/usr/bin/env bash
# Set up and run the whole test suite; arguments go to pytest (for example: bash tests/run.sh -k norms).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash launch/setup.sh
export PATH="$PWD/.venv/bin:$PATH"
ruff check .
exec python -m pytest "$@"
