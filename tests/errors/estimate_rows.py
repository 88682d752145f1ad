"""Estimates: what they are asked for that cannot be."""

from __future__ import annotations

from .rows import Row

ESTIMATE: tuple[Row, ...] = (
    Row(
        "an unknown GPU",
        "ibnorm estimate tiny.yaml --gpu H10",
        ("--gpu is H10: its figures are not known; did you mean 'H100'?",),
    ),
    Row(
        "numbers that no cluster has",
        "ibnorm estimate tiny.yaml --gpus 0 --gpus-per-node 0 --efficiency 1.5 --memory -1 --network 0 --reserve -1",
        (
            "--gpus is 0: it is no number of processes; give 1 to 1000000.",
            "--gpus-per-node is 0: it is no number of GPUs of a node; give 1 to 1024.",
            "--efficiency is 1.5: it is no share of the peak; give a number from 0 to 1.",
            "--memory is -1.0: it is no sensible size; give a number above 0.",
            "--network is 0.0: it is no sensible size; give a number above 0.",
            "--reserve is -1.0: it is no sensible size; give 0 or more.",
        ),
    ),
    Row(
        "a refused config with a wrong option",
        "ibnorm estimate tiny.yaml train.lr=0 --efficiency 0",
        (
            "train.lr is 0: input should be greater than 0; give it such a value.",
            "--efficiency is 0.0: it is no share of the peak; give a number from 0 to 1.",
        ),
    ),
    Row(
        "no number of layouts",
        "ibnorm estimate tiny.yaml --top -1",
        ("--top is -1: it is no number of layouts; give 0 to 1000.",),
    ),
    Row(
        "a layout for other numbers of GPUs",
        "ibnorm estimate tiny.yaml parallel.tensor=2 --gpus 3 --top 0",
        (
            "the world size is 3: the layout needs a multiple of tensor 2 x pipeline 1 x context 1 = 2 processes; launch 2 or a multiple, or set parallel.tensor.",
        ),
    ),
    Row(
        "tensor ranks across nodes",
        "ibnorm estimate tiny.yaml parallel.tensor=2 --gpus 6 --gpus-per-node 3 train.global_batch_size=6 --top 0",
        (
            "parallel.tensor is 2: nodes have 3 GPUs, so that some of its groups would lie across two of them; use a divisor of 3, or set --gpus-per-node.",
        ),
    ),
    Row(
        "a model for larger GPUs",
        "ibnorm estimate tiny.yaml --gpus 2 --memory 1",
        (
            "--gpus is 2: no layout that the stack accepts fits into 1.0 GiB each; try 4, larger GPUs (--gpu, --memory), or another train.global_batch_size.",
        ),
    ),
    Row(
        "an estimate over something else",
        "ibnorm estimate tiny.yaml --json data/manifest.json",
        ("--json is 'data/manifest.json': it holds something other than a report of estimate; give another path.",),
    ),
)
