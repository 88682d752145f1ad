#!/usr/bin/env bash
# Set up and run the whole test suite; arguments go to pytest (for example: bash tests/run.sh -k norms).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash launch/setup.sh
export PATH="$PWD/.venv/bin:$PATH"
ruff check .
# Reports are looked at in a browser. Where there is none and none may be installed, those tests say so and are skipped.
if ! command -v chromium chromium-browser google-chrome >/dev/null && command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
    echo "installing chromium for the tests of reports ..."
    { apt-get install -qq -y --no-install-recommends chromium || { apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium; }; } \
        >/dev/null 2>&1 || echo "chromium could not be installed: the tests that need a browser will be skipped" >&2
fi
# Tests of several hosts (marked cluster) make them of network namespaces, and go between them by ssh; they need root as well.
if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ] && ! { command -v ip && command -v pdsh && [ -x /usr/sbin/sshd ]; } >/dev/null; then
    echo "installing ssh, pdsh and iproute2 for the tests of several hosts ..."
    hosts=(openssh-server openssh-client pdsh iproute2 procps)
    { apt-get install -qq -y --no-install-recommends "${hosts[@]}" || { apt-get update -qq && apt-get install -qq -y --no-install-recommends "${hosts[@]}"; }; } \
        >/dev/null 2>&1 || echo "these could not be installed: tests of several hosts will be skipped" >&2
fi
# Two files of tests at a time: most of the time is one process's arithmetic, or waiting for its ranks.
exec python -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
