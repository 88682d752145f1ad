#!/usr/bin/env bash
# Set up, prepare real text, and train one small LLaMA three times, with RMSNorm, LayerNorm and IBNorm: same initial
# tensors, same data order. Ends with a table and a picture. About three minutes on two CPU cores after the installation.
#
#   bash launch/quickstart.sh [--data FILE_OR_FOLDER] [--out DIR]
#
#   --data   any local .txt, .jsonl or .parquet file, or a folder of them (default: the Python standard library's sources)
#   --out    where runs and the picture go (default: runs/quickstart)
set -euo pipefail

source=python-stdlib out=
while [ $# -gt 0 ]; do
    case $1 in
    --data | --out)
        if [ $# -lt 2 ]; then
            echo "error: $1 is missing its value; give a path." >&2
            exit 2
        fi
        if [ "$1" = --data ]; then
            source=$(realpath -m -- "$2")
        else
            out=$(realpath -m -- "$2")
        fi
        shift 2
        ;;
    -h | --help)
        sed -n '2,8s/^# \{0,1\}//p' "$0"
        exit 0
        ;;
    *)
        echo "error: $1 is not an argument of this script; see --help." >&2
        exit 2
        ;;
    esac
done

cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash launch/setup.sh
export PATH="$PWD/.venv/bin:$PATH" OMP_NUM_THREADS=1

# Data is prepared once for each source; another source gets a folder of its own.
if [ "$source" = python-stdlib ]; then
    data=data/stdlib name=quickstart
else
    name=quickstart-$(printf %s "$source" | sha256sum | cut -c1-12)
    data=data/$name
fi
out=${out:-runs/$name}
[ -d "$data" ] || ibnorm prepare "$source" --out "$data" --vocab-size 2048

runs=()
for norm in rmsnorm layernorm ibnorm_log; do
    torchrun --standalone --nproc-per-node 2 -m ibnorm_megatron.train configs/quickstart.yaml \
        data.path="$data" model.norm="$norm" run.dir="$out/$norm"
    runs+=("$out/$norm")
done
ibnorm compare "${runs[@]}" --picture "$out/curves.png"
