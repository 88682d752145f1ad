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
# Tests of clusters (marked cluster) need root as well: hosts that are network namespaces and reach each other by ssh, a real Slurm,
# images. Where these programs are missing, those tests say so and are skipped.
if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
    packages=()
    for each in ip:iproute2 sysctl:procps ssh:openssh-client sshd:openssh-server pdsh:pdsh munged:munge slurmctld:slurm-wlm \
        buildah:buildah debootstrap:debootstrap docker-compose:docker-compose; do
        PATH=$PATH:/usr/sbin command -v "${each%%:*}" >/dev/null || packages+=("${each#*:}")
    done
    if [ ${#packages[@]} -gt 0 ]; then
        echo "installing ${packages[*]} for the tests of clusters ..."
        { apt-get install -qq -y --no-install-recommends "${packages[@]}" || { apt-get update -qq && apt-get install -qq -y --no-install-recommends "${packages[@]}"; }; } \
            >/dev/null 2>&1 || echo "these could not be installed: the tests that need them will be skipped" >&2
    fi
fi
# Two files of tests at a time: most of the time is one process's arithmetic, or waiting for its ranks.
exec python -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
