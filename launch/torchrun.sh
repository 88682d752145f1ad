#!/usr/bin/env bash
# Start this host's part of a run under torchrun. The same line on every host; the hosts meet at MASTER_ADDR:MASTER_PORT.
#
#   launch/torchrun.sh CONFIG [room.field=value ...]
#
# Variables, with what they are where nobody sets them:
#   NPROC_PER_NODE   ranks on this host: as many as it has GPUs, or 1
#   NNODES           hosts: 1; MIN:MAX lets the run go on with fewer (with MAX_RESTARTS)
#   MASTER_ADDR      name or address of the host at which all meet; needed for more than one host
#   MASTER_PORT      29500
#   NODE_RANK        0 on the host at MASTER_ADDR; only needed where its name does not tell
#   RDZV_ID          ibnorm: tells runs apart that meet at one address
#   MAX_RESTARTS     0: how often dead ranks are started again
#   JOIN_TIMEOUT     900: seconds that hosts wait for one another
#   CUT_OFF_AFTER    30: seconds without ranks and without an answer from MASTER_ADDR after which a host gives up
#   RDZV_CONF        more settings for torchrun's rendezvous, such as last_call_timeout=5
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
case ${1:-} in
-h | --help)
    sed -n '2,17s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
esac
[ -x "$root/.venv/bin/python" ] && export PATH="$root/.venv/bin:$PATH"
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
exec python -m ibnorm_megatron.cluster.agent "$@"
