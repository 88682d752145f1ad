"""Asking trained models: what cannot be opened, and text that does not fit."""

from __future__ import annotations

from .mischief import each, flipped, other_tokenizer, saved
from .rows import Row

ANALYSIS: tuple[Row, ...] = (
    Row(
        "no run, and one that is there twice",
        "ibnorm analyze run nowhere run/checkpoints/step-00000007",
        (
            "the folder is nowhere: it is no checkpoint, and no run with one; give a run's folder, or checkpoints/step-NNNNNNNN "
            "in it.",
            "the run is run/checkpoints/step-00000007: it is given twice; give every run once.",
        ),
        before=saved(),
    ),
    Row(
        "a damaged checkpoint",
        "ibnorm analyze run",
        (
            "the checkpoint file is run/checkpoints/step-00000007/rank-00000.safetensors: its bytes are not those that were written; "
            "restore it from a copy, or use an older checkpoint.",
        ),
        before=each(saved(), flipped("run/checkpoints/step-00000007/rank-00000.safetensors")),
    ),
    Row(
        "a model that its config does not describe",
        "ibnorm analyze run --only robustness",
        (
            "embedding.word_embeddings.weight in the checkpoint run/checkpoints/step-00000007 is missing: the model has it; go on "
            "with the model that was saved, or choose another run.dir.",
        ),
        before=saved(),
    ),
    Row(
        "text in another tokenizer, and none",
        "ibnorm analyze run --domain other=other --domain prose=nowhere",
        (
            "data.path is nowhere: there is no prepared data there (no manifest.json); run: ibnorm prepare SOURCE --out nowhere "
            "--vocab-size N.",
            "the data is other: it was prepared with another tokenizer than run was trained on; prepare it with that one: a recipe "
            "names it as tokenizer.path.",
        ),
        before=each(saved(), other_tokenizer),
    ),
    Row(
        "a run whose text has gone",
        "ibnorm analyze run",
        (
            "the data of run is missing: data.path is data: there is no prepared data there (no manifest.json); give prepared text "
            "by --data.",
        ),
        before=each(saved(), lambda here, patch: (here / "data").rename(here / "moved")),
    ),
    Row(
        "options that make no sense",
        "ibnorm analyze run --domain prose --domain own=data --tokens 1 --out data",
        (
            "--domain is 'prose': it is not of the form NAME=FOLDER; write --domain prose=data/prose.",
            "--domain is 'own': that is the runs' own text; give another name.",
            "--tokens is 1: a label needs a token before it; give a few thousand.",
            "--out is data: it exists; give the name of a new folder.",
        ),
        before=saved(),
    ),
    Row(
        "a name twice, and no folder for what is found",
        "ibnorm analyze run --domain a=data --domain a=data --out there/found",
        (
            "--domain is 'a': it is given twice; give another name.",
            "--out is there/found: there is no folder there; make it first.",
        ),
        before=saved(),
    ),
)
