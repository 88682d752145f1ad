#!/usr/bin/env bash
# Start a run with DeepSpeed's launcher: on this machine, or, with a hostfile, on all hosts in it. One line, on one of them.
#
#   launch/deepspeed.sh CONFIG [room.field=value ...]
#
# Variables, with what they are where nobody sets them:
#   HOSTFILE         a line like "node1 slots=8" for each host; without it the run is on this machine alone
#   LAUNCHER         pdsh (DeepSpeed's own way), or openssh: one ssh a host, and nothing but ssh is needed
#   NPROC_PER_NODE   ranks on this machine, without a hostfile: as many as it has GPUs, or 1
#   MASTER_ADDR      the hostfile's first host
#   MASTER_PORT      29500
#   SSH_OPTIONS      options for ssh that go before ours, such as "-p 2222"
#
# Hosts need this folder, the Python in use and the run's folders under the same paths, and ssh without a password. Variables
# that begin with NCCL_, GLOO_, TORCH_, CUDA_, OMP_, IBNORM_ or HF_ go along. Keys and tokens do not: they would show in lists
# of processes; put them where each host's programs look for them, such as ~/.netrc.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
case ${1:-} in
-h | --help)
    sed -n '2,17s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
"" | -*)
    echo "error: the config file is missing: a run needs one; run: launch/deepspeed.sh CONFIG [room.field=value ...]." >&2
    exit 2
    ;;
esac
[ -x "$root/.venv/bin/python" ] && export PATH="$root/.venv/bin:$PATH"
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
port=${MASTER_PORT:-29500}
launcher=${LAUNCHER:-pdsh}
run=(--no_local_rank --module ibnorm_megatron.train)

if [ -z "${HOSTFILE:-}" ]; then
    # Where it is given a number, DeepSpeed takes the first GPUs and not those of CUDA_VISIBLE_DEVICES.
    if [ -z "${NPROC_PER_NODE:-}" ] && python -c 'from ibnorm_megatron.cluster.rendezvous import visible_gpus; raise SystemExit(not visible_gpus())'; then
        exec deepspeed --hostfile /dev/null --master_port "$port" "${run[@]}" "$@"
    fi
    exec deepspeed --hostfile /dev/null --num_accelerators "${NPROC_PER_NODE:-1}" --master_port "$port" "${run[@]}" "$@"
fi
if [ ! -r "$HOSTFILE" ]; then
    echo "error: HOSTFILE is $HOSTFILE: it cannot be read; give a file with a line like node1 slots=8 for each host." >&2
    exit 2
fi
HOSTFILE=$(realpath -- "$HOSTFILE")
mapfile -t hosts < <(sed 's/#.*//' "$HOSTFILE" | awk 'NF { print $1 }')
if [ ${#hosts[@]} = 0 ]; then
    echo "error: HOSTFILE is $HOSTFILE: it names no host; write a line like node1 slots=8 for each." >&2
    exit 2
fi
master=${MASTER_ADDR:-${hosts[0]}}

# Where a host does not answer any more, ssh ends within a minute, and not when TCP gives up.
keep=(-o BatchMode=yes -o ServerAliveInterval=10 -o ServerAliveCountMax=3)
read -r -a more <<<"${SSH_OPTIONS:-}"
mapfile -t travelling < <(compgen -e | grep -E '^(NCCL|GLOO|TORCH|CUDA|OMP|IBNORM|HF)_' | grep -vE 'KEY|TOKEN|SECRET|PASSWORD' || true)

case $launcher in
openssh)
    # What each host runs. A connection that closes is how it hears that this script was stopped or is gone: its ranks are
    # told to stop, finish their step and save, and their last words still come through.
    remote='cd "$1" || exit; shift; exec 3<&0
        env "$@" </dev/null & main=$!
        { cat <&3; for launcher in $(pgrep -P $main); do pkill -TERM -P $launcher; done; } >/dev/null 2>&1 & watcher=$!
        wait $main; code=$?; pkill -P $watcher; kill $watcher; exit $code'
    variables=("PATH=$PATH" "PYTHONPATH=$PYTHONPATH")
    for name in "${travelling[@]}"; do variables+=("$name=${!name}"); done
    folder=$(mktemp -d)
    mkfifo "$folder/open"
    exec 9<>"$folder/open"
    pids=()
    for rank in "${!hosts[@]}"; do
        words=(deepspeed --hostfile "$HOSTFILE" --no_ssh --node_rank "$rank" --master_addr "$master" --master_port "$port" "${run[@]}" "$@")
        # The remote shell reads one text: every word of it is quoted.
        text=$(printf '%q ' bash -c "$remote" deepspeed "$PWD" "${variables[@]}" "${words[@]}")
        ssh "${more[@]}" "${keep[@]}" "${hosts[$rank]}" "$text" <"$folder/open" 9>&- &
        pids+=($!)
    done
    rm -r "$folder"
    trap 'exec 9>&-' TERM INT HUP
    code=0
    for pid in "${pids[@]}"; do
        while :; do
            ended=0
            wait "$pid" || ended=$?
            kill -0 "$pid" 2>/dev/null || break # else it was this script that was interrupted
        done
        [ "$ended" = 0 ] || code=1
    done
    exit $code
    ;;
pdsh)
    if ! command -v pdsh >/dev/null; then
        echo "error: LAUNCHER is pdsh: there is no such program; install pdsh, or set LAUNCHER=openssh." >&2
        exit 2
    fi
    export PDSH_SSH_ARGS_APPEND="${SSH_OPTIONS:-} ${keep[*]}"
    # DeepSpeed hands words to a remote shell through pdsh, and quotes those with spaces only; pdsh itself reads %. A word with
    # anything else in it than letters, digits and a few signs is written so that it has no other meaning to either.
    words=()
    for word in "$@"; do
        if [[ $word =~ [^A-Za-z0-9_./=,:@+-] ]]; then
            word=$(python -c 'import sys; print("$'"'"'" + "".join(chr(c) if chr(c).isalnum() and c < 128 else f"\\x{c:02x}" for c in sys.argv[1].encode()) + "'"'"'")' "$word")
        fi
        words+=("$word")
    done
    # DeepSpeed passes on what a file says, one NAME=VALUE a line; yours is used if there is one.
    if [ ${#travelling[@]} -gt 0 ] && [ -z "${DS_ENV_FILE:-}" ] && [ ! -e ~/.deepspeed_env ] && [ ! -e .deepspeed_env ]; then
        DS_ENV_FILE=$(mktemp)
        export DS_ENV_FILE
        trap 'rm -f "$DS_ENV_FILE"' EXIT
        for name in "${travelling[@]}"; do printf '%s=%s\n' "$name" "${!name}"; done >"$DS_ENV_FILE"
    fi
    deepspeed --hostfile "$HOSTFILE" --force_multi --no_ssh_check --master_addr "$master" --master_port "$port" "${run[@]}" "${words[@]}"
    ;;
*)
    echo "error: LAUNCHER is $launcher: there is no such way to reach hosts; choose pdsh or openssh." >&2
    exit 2
    ;;
esac
