#!/usr/bin/env bash
# How long a newcomer waits: from `git clone` to the first loss of the README's first command, in a new folder with a new
# virtual environment. Prints one line of seconds, by part, and ends the run there. Nothing else should run meanwhile.
#
#   bash tests/first_try.sh [SECONDS]     give up after so many, 900 by default: exit code 1, with what it was doing
#
# What is cloned is the last commit. pip's own variables and caches are used as they are:
# a machine that has installed the same before does not download it again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
limit=${1:-900}

if ! git rev-parse --verify --quiet HEAD >/dev/null; then
    echo "first try: skipped, for there is no git repository to clone" >&2
    exit 0
fi
folder=$(mktemp -d)
runner=
finish() {
    # The run has a process group of its own, so that all of it ends.
    if [ -n "$runner" ]; then
        kill -TERM -- "-$runner" 2>/dev/null || true
        for _ in $(seq 100); do
            kill -0 -- "-$runner" 2>/dev/null || break
            sleep 0.1
        done
        kill -KILL -- "-$runner" 2>/dev/null || true
    fi
    rm -rf "$folder"
}
trap finish EXIT
trap 'exit 130' INT TERM

now() { date +%s.%N; }
took() { awk -v from="$1" -v to="$2" 'BEGIN { printf "%.1f", to - from }'; }

begun=$(now)
git clone --quiet . "$folder/clone"
cloned=$(now)
cd "$folder/clone"

# Whatever environment this script was started in, a newcomer has none.
unset VIRTUAL_ENV PYTHONPATH
set -m
bash launch/quickstart.sh >"$folder/said" 2>&1 &
runner=$!
set +m

# Until a file is there, or holds a word.
await() {
    local what=$1 file=$2 word=${3:-}
    until if [ -n "$word" ]; then grep -qs -- "$word" "$file"; else [ -e "$file" ]; fi; do
        if ! kill -0 "$runner" 2>/dev/null; then
            echo "first try: FAILED: the quickstart ended while $what" >&2
            tail -n 40 "$folder/said" >&2
            exit 1
        fi
        if awk -v from="$begun" -v to="$(now)" -v limit="$limit" 'BEGIN { exit !(to - from > limit) }'; then
            echo "first try: FAILED: not done after $limit s, while $what" >&2
            tail -n 40 "$folder/said" >&2
            exit 1
        fi
        sleep 0.1
    done
}
await "installing" .venv/.installed
installed=$(now)
await "preparing data" data/stdlib/manifest.json
prepared=$(now)
await "starting the first run" runs/quickstart/rmsnorm/metrics.jsonl '"loss"'
lost=$(now)

line="first try: $(took "$begun" "$lost") s from git clone to the first loss"
line+=" = clone $(took "$begun" "$cloned") + installation $(took "$cloned" "$installed")"
line+=" + data $(took "$installed" "$prepared") + first loss $(took "$prepared" "$lost")"
echo "$line ($(nproc) cores, load $(cut -d' ' -f1 /proc/loadavg))"
