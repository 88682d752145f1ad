#!/usr/bin/env bash
# Start this host's part of a run inside an Apptainer image. docs/containers.md says how to make one.
#
#   IMAGE=ibnorm.sif launch/apptainer.sh CONFIG [field=value ...]
#
# The image sees this folder; APPTAINER_BIND=/shared/data,/shared/runs names others, as Apptainer itself reads it. NPROC_PER_NODE,
# NNODES, MASTER_ADDR, MASTER_PORT, NODE_RANK, RDZV_ID and MAX_RESTARTS mean what they mean in launch/torchrun.sh.
set -euo pipefail
case ${1:-} in
-h | --help)
    sed -n '2,7s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
esac
if [ -z "${IMAGE:-}" ] || [ ! -r "$IMAGE" ]; then
    echo "error: IMAGE is ${IMAGE:-not set}: there is no such image to read; give its path: IMAGE=ibnorm.sif $0 CONFIG" >&2
    exit 2
fi
if ! command -v apptainer >/dev/null; then
    echo "error: apptainer is not on this host's PATH; install it, or load its module." >&2
    exit 2
fi
# GPUs where there are any; the host's environment comes along, but for what names its own Python.
[ -e /dev/nvidiactl ] && gpus=(--nv) || gpus=()
unset PYTHONPATH PYTHONHOME VIRTUAL_ENV
exec apptainer exec ${gpus[@]+"${gpus[@]}"} --bind "$PWD" --pwd "$PWD" "$IMAGE" python -m ibnorm_megatron.cluster.agent "$@"
