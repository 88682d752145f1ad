"""Runs that begin at another run's checkpoint: what has to fit."""

from __future__ import annotations

from .mischief import begun, cut, each, file, flipped, saved, trunk, without
from .rows import Row

_POINT = "trunk/step-00000007"
_TYPED = f"ibnorm train tiny.yaml run.branch_from={_POINT}"
_WSD = ("train.schedule=wsd", "train.steps=200", "train.warmup_fraction=0.02")
_GIVEN = "train.schedule=wsd train.decay_fraction=0.25"
_FOLDER = "give the folder of a checkpoint, checkpoints/step-NNNNNNNN in a run's."
_OLDER = "restore it from a copy, or use an older checkpoint."

BRANCH: tuple[Row, ...] = (
    Row(
        "a branch from nowhere",
        "ibnorm train tiny.yaml run.branch_from=nowhere",
        (f"run.branch_from is nowhere: there is no such folder; {_FOLDER}",),
    ),
    Row(
        "a branch from a run, and not from one of its checkpoints",
        "ibnorm train tiny.yaml run.dir=own run.branch_from=run",
        (f"run.branch_from is run: it is no checkpoint; {_FOLDER}",),
        before=saved(),
    ),
    Row(
        "a branch from a damaged record",
        _TYPED,
        (f"the checkpoint's record is {_POINT}/checkpoint.json: it is damaged: it is no record of a checkpoint; {_OLDER}",),
        before=each(trunk(*_WSD), file(f"{_POINT}/checkpoint.json", "[]")),
    ),
    Row(
        "a branch from a checkpoint with another bit",
        f"python -m ibnorm_megatron.train tiny.yaml run.branch_from={_POINT} {_GIVEN} train.steps=20 train.warmup_fraction=0.2",
        (f"the checkpoint file is {_POINT}/rank-00000.safetensors: its bytes are not those that were written; {_OLDER}",),
        before=each(trunk(*_WSD), flipped(f"{_POINT}/rank-00000.safetensors")),
        alone=True,
    ),
    Row(
        "a branch from a checkpoint that is cut",
        f"python -m ibnorm_megatron.train tiny.yaml run.branch_from={_POINT} {_GIVEN} train.steps=20 train.warmup_fraction=0.2",
        (
            f"the checkpoint file is {_POINT}/rank-00000.safetensors: it has <a number> bytes and was written with <a number>; "
            f"{_OLDER}",
        ),
        before=each(trunk(*_WSD), cut(f"{_POINT}/rank-00000.safetensors", 10)),
        alone=True,
    ),
    Row(
        "a branch from a checkpoint without its file",
        f"python -m ibnorm_megatron.train tiny.yaml run.branch_from={_POINT} {_GIVEN} train.steps=20 train.warmup_fraction=0.2",
        (f"the checkpoint file is {_POINT}/rank-00000.safetensors: it cannot be read (<a reason>); {_OLDER}",),
        before=each(trunk(*_WSD), without(f"{_POINT}/rank-00000.safetensors")),
        alone=True,
    ),
    Row(
        "a branch of another model, seed, batch and optimizer",
        f"{_TYPED} {_GIVEN} train.steps=20 train.warmup_fraction=0.2 model.num_layers=3 train.seed=7 train.global_batch_size=16 "
        "train.lr=1e-3 train.beta2=0.99",
        (
            "model.num_layers is 3: the run that run.branch_from is of has 2; set it so, or allow it with "
            "run.allow=[model.num_layers].",
            "train.global_batch_size is 16: the run that run.branch_from is of has 8; set it so, or allow it with "
            "run.allow=[train.global_batch_size].",
            "train.seed is 7: the run that run.branch_from is of has 1234; set it so, or allow it with run.allow=[train.seed].",
            "train.lr is 0.001: the run that run.branch_from is of has 0.003; set it so, or allow it with run.allow=[train.lr].",
            "train.beta2 is 0.99: the run that run.branch_from is of has 0.95; set it so, or allow it with "
            "run.allow=[train.beta2].",
        ),
        before=trunk(*_WSD),
    ),
    Row(
        "a branch on other data",
        f"{_TYPED} {_GIVEN} train.steps=20 train.warmup_fraction=0.2",
        (
            "data is its hash is <a hash>: the run that run.branch_from is of has 'other data'; set it so, or allow it with "
            "run.allow=[data].",
        ),
        before=trunk(*_WSD, hash="other data"),
    ),
    Row(
        "a branch that ends before it begins",
        f"{_TYPED} train.schedule=wsd train.steps=7",
        ("train.steps is 7: run.branch_from is of step 7 already; set more, or choose an earlier checkpoint.",),
        before=trunk(*_WSD),
    ),
    Row(
        "a branch from where its own decay has begun",
        f"{_TYPED} {_GIVEN} train.steps=8 train.warmup_fraction=0.5",
        (
            f"run.branch_from is {_POINT}: it is of step 7, and with train.steps 8 and train.decay_fraction 0.25 the learning "
            "rate falls after step 6; choose a checkpoint of step 6 or before, or set more train.steps.",
        ),
        before=trunk(*_WSD),
    ),
    Row(
        "a branch from where its parent's decay has begun",
        f"{_TYPED} {_GIVEN} train.steps=20 train.warmup_fraction=0.1",
        (
            f"run.branch_from is {_POINT}: it is of step 7, and the learning rate of its run falls after step 5; choose a "
            "checkpoint of step 5 or before.",
        ),
        before=trunk("train.schedule=wsd", "train.steps=10", "train.decay_fraction=0.5", "train.warmup_fraction=0.2"),
    ),
    Row(
        "a branch from a cosine",
        f"{_TYPED} {_GIVEN} train.steps=20 train.warmup_fraction=0.2",
        (
            f"run.branch_from is {_POINT}: it is of step 7, and the learning rate of its run falls after step 4; choose a "
            "checkpoint of step 4 or before, or begin with a run of train.schedule=wsd.",
        ),
        before=trunk("train.schedule=cosine", "train.steps=200", "train.warmup_fraction=0.02"),
    ),
    Row(
        "a branch along a cosine",
        f"{_TYPED} train.schedule=cosine train.steps=20 train.warmup_fraction=0.2",
        (
            "train.schedule is cosine: its learning rate would have fallen since step 4, and run.branch_from is of step 7 at the "
            "peak; set train.schedule=wsd.",
        ),
        before=trunk(*_WSD),
    ),
    Row(
        "a branch with a longer warm-up, in the middle of it",
        f"{_TYPED} {_GIVEN} train.steps=20 train.warmup_fraction=0.5",
        (
            "train.warmup_fraction is 0.5: that is a warm-up of 10 steps, and run.branch_from is of step 7 of a run with 4; set "
            "train.warmup_fraction=0.2, or choose a checkpoint of step 10 or later.",
        ),
        before=trunk(*_WSD),
    ),
    Row(
        "a branch in the middle of a scheduled lambda's ramp",
        f"{_TYPED} {_GIVEN} train.steps=40 train.warmup_fraction=0.1 'model.norm={{kind: ibnorm_log, strength: scheduled}}'",
        (
            f"run.branch_from is {_POINT}: it is of step 7, and <a norm> changes until step 20, as a share of train.steps; "
            "choose a checkpoint of step 20 or later.",
        ),
        before=trunk(*_WSD, "model.norm={kind: ibnorm_log, strength: scheduled}"),
    ),
    Row(
        "a branch with a field to allow that there is not",
        f"{_TYPED} {_GIVEN} train.steps=20 train.warmup_fraction=0.2 run.allow=[train.rate]",
        ("run.allow is 'train.rate': there is no such field; did you mean 'train.lr'?",),
        before=trunk(*_WSD),
    ),
    Row(
        "a run that was no branch when it began",
        "ibnorm train tiny.yaml run.branch_from=elsewhere",
        (
            "run.branch_from is 'elsewhere': the run in run was begun with ''; set it back, allow it with "
            "run.allow=[run.branch_from], or choose another run.dir for a new run.",
        ),
        before=saved(),
    ),
    Row(
        "a branch that has not saved yet, and whose parent is gone",
        "ibnorm train tiny.yaml run.branch_from=elsewhere",
        (f"run.branch_from is elsewhere: there is no such folder; {_FOLDER}",),
        before=begun("run.branch_from=elsewhere"),
    ),
    Row(
        "a step to save after the last",
        "ibnorm train tiny.yaml train.steps=40 checkpoint.at=[12,50]",
        ("checkpoint.at is 50: the run ends after train.steps 40; take that step out or set more train.steps.",),
    ),
    Row(
        "a step to save before the first",
        "ibnorm train tiny.yaml checkpoint.at=[0]",
        ("checkpoint.at.0 is 0: input should be greater than 0; give it such a value.",),
    ),
)
