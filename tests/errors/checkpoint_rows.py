"""Checkpoints: those that cannot be gone on from, and those that a command cannot use."""

from __future__ import annotations

from .mischief import cut, each, edited_record, file, flipped, saved, without
from .rows import Row

_OLDER = "restore it from a copy, or use an older checkpoint"
_FILE = "run/checkpoints/step-00000007/rank-00000.safetensors"

CHECKPOINT: tuple[Row, ...] = (
    Row(
        "another learning rate than the checkpoint's",
        "ibnorm train tiny.yaml train.lr=1e-3 train.steps=200 run.allow=[train.steps]",
        (
            "train.lr is 0.001: the run in run was begun with 0.003; set it back, allow it with run.allow=[train.lr], or choose "
            "another run.dir for a new run.",
        ),
        before=saved(),
    ),
    Row(
        "other data and another tokenizer than the checkpoint's",
        "ibnorm train tiny.yaml",
        (
            "data is its hash is <a hash>: the run in run was begun with 'other data'; set it back, allow it with "
            "run.allow=[data], or choose another run.dir for a new run.",
            "tokenizer is its hash is <a hash>: the run in run was begun with 'another tokenizer'; set it back, allow it with "
            "run.allow=[tokenizer], or choose another run.dir for a new run.",
        ),
        before=saved(hash="other data", tokenizer="another tokenizer"),
    ),
    Row(
        "fewer steps than were taken",
        "ibnorm train tiny.yaml train.steps=5 run.allow=[train.steps]",
        (
            "train.steps is 5: the run in run is at step 7 already; set more, or write the name of an older checkpoint into "
            "run/checkpoints/latest.",
        ),
        before=saved(),
    ),
    Row(
        "a checkpoint of nowhere",
        "ibnorm checkpoint verify nowhere/at/all",
        (
            "the folder is nowhere/at/all: it is no checkpoint, and no run with one; give a run's folder, or "
            "checkpoints/step-NNNNNNNN in it.",
        ),
    ),
    Row(
        "a field to allow that there is not",
        "ibnorm train tiny.yaml --allow train.learning_rate",
        ("run.allow is 'train.learning_rate': there is no such field; did you mean 'train.min_lr_ratio'?",),
        before=saved(),
    ),
    Row(
        "a pointer to no checkpoint",
        "ibnorm train tiny.yaml",
        (
            "run/checkpoints/latest is step-00000099: there is no such checkpoint; restore that folder, or write the name of "
            "another checkpoint into the file.",
        ),
        before=each(saved(), file("run/checkpoints/latest", "step-00000099")),
    ),
    Row(
        "a file that is cut, and no older checkpoint",
        "python -m ibnorm_megatron.train tiny.yaml",
        (f"the checkpoint file is {_FILE}: it has <a number> bytes and was written with <a number>; {_OLDER}.",),
        before=each(saved(), cut(_FILE, 10)),
        alone=True,
    ),
    Row(
        "a file with another bit, and no older checkpoint",
        "python -m ibnorm_megatron.train tiny.yaml",
        (f"the checkpoint file is {_FILE}: its bytes are not those that were written; {_OLDER}.",),
        before=each(saved(), flipped(_FILE)),
        alone=True,
    ),
    Row(
        "a record that says something else than was written",
        "ibnorm checkpoint inspect run",
        (
            "the checkpoint's record is run/checkpoints/step-00000007/checkpoint.json: it is damaged: its content is not what its "
            f"hash says; {_OLDER}.",
        ),
        before=each(saved(), edited_record),
    ),
    Row(
        "a checkpoint without its record",
        "ibnorm checkpoint inspect run",
        (
            "the checkpoint's record is run/checkpoints/step-00000007/checkpoint.json: it cannot be read (No such file or "
            f"directory); {_OLDER}.",
        ),
        before=each(saved(), without("run/checkpoints/step-00000007/checkpoint.json")),
    ),
    Row(
        "a checkpoint without a file of its own, to be written anew",
        "ibnorm checkpoint convert run --out whole",
        (f"the checkpoint file is {_FILE}: it cannot be read (<a reason>); {_OLDER}.",),
        before=each(saved(), without(_FILE)),
    ),
    Row(
        "a new folder that is there already",
        "ibnorm checkpoint convert run --out data",
        ("--out is data: it exists; give the name of a new folder.",),
        before=saved(),
    ),
    Row(
        "a new folder in none",
        "ibnorm checkpoint convert run --out a/b",
        ("--out is a/b: there is no folder a; make it first.",),
        before=saved(),
    ),
    Row(
        "files of no size",
        "ibnorm checkpoint convert run --out whole --file-size 0",
        ("--file-size is 0.0: it is no sensible size; give GiB, such as 4.",),
        before=saved(),
    ),
    Row(
        "a run without a checkpoint",
        "ibnorm checkpoint verify data",
        (
            "the folder is data: it is no checkpoint, and no run with one; give a run's folder, or "
            "checkpoints/step-NNNNNNNN in it.",
        ),
    ),
)
