"""Run folders: what is there already."""

from __future__ import annotations

from .mischief import begun, file, held, read_only
from .rows import Row

RUN: tuple[Row, ...] = (
    Row(
        "somebody's files",
        "ibnorm train tiny.yaml",
        ("run.dir is run: it exists and is not a run's folder; choose another run.dir.",),
        before=file("run/thesis.txt", "years of work"),
    ),
    Row(
        "a file for a folder",
        "ibnorm train tiny.yaml run.dir=tiny.yaml",
        ("run.dir is tiny.yaml: it exists and is not a run's folder; choose another run.dir.",),
    ),
    Row(
        "a folder below a file",
        "ibnorm train tiny.yaml run.dir=tiny.yaml/run",
        ("run.dir is tiny.yaml/run: <the folder>/tiny.yaml is not a folder; choose another run.dir.",),
    ),
    Row(
        "no right to write",
        "ibnorm train tiny.yaml run.dir=shared/run",
        ("run.dir is shared/run: <the folder>/shared may not be written to; choose another run.dir.",),
        before=read_only("shared"),
        nobody=True,
    ),
    Row(
        "another run",
        "ibnorm train tiny.yaml train.lr=1e-3 train.seed=7",
        (
            "train.seed is 7: the run in run was begun with 1234; set it back, allow it with run.allow=[train.seed], or choose another run.dir for a new run.",
            "train.lr is 0.001: the run in run was begun with 0.003; set it back, allow it with run.allow=[train.lr], or choose another run.dir for a new run.",
        ),
        before=begun(),
    ),
    Row(
        "another norm",
        "ibnorm train tiny.yaml model.norm=ibnorm_log",
        (
            "model.norm.kind is 'ibnorm': the run in run was begun with 'rmsnorm'; set it back, allow it with run.allow=[model.norm.kind], or choose another run.dir for a new run.",
            "model.norm.bias is True: the run in run was begun with False; set it back, allow it with run.allow=[model.norm.bias], or choose another run.dir for a new run.",
            "model.norm.center is True: the run in run was begun with False; set it back, allow it with run.allow=[model.norm.center], or choose another run.dir for a new run.",
            "model.norm.unit_offset is None: the run in run was begun with False; set it back, allow it with run.allow=[model.norm.unit_offset], or choose another run.dir for a new run.",
            "model.norm.compression is 'log': the run in run was begun with None; set it back, allow it with run.allow=[model.norm.compression], or choose another run.dir for a new run.",
            "model.norm.lambda is 4.0: the run in run was begun with None; set it back, allow it with run.allow=[model.norm.lambda], or choose another run.dir for a new run.",
            "model.norm.scale is 'absolute': the run in run was begun with None; set it back, allow it with run.allow=[model.norm.scale], or choose another run.dir for a new run.",
            "model.norm.form is 'unit_slope': the run in run was begun with None; set it back, allow it with run.allow=[model.norm.form], or choose another run.dir for a new run.",
            "model.norm.strength is 'fixed': the run in run was begun with None; set it back, allow it with run.allow=[model.norm.strength], or choose another run.dir for a new run.",
            "model.norm.ramp is 0.1: the run in run was begun with None; set it back, allow it with run.allow=[model.norm.ramp], or choose another run.dir for a new run.",
        ),
        before=begun(),
    ),
    Row(
        "a run that is not to go on",
        "ibnorm train tiny.yaml run.resume=never",
        ("run.dir is run: it holds a run, and run.resume is never; choose another run.dir or set run.resume=auto.",),
        before=begun(),
    ),
    Row(
        "an unknown way to go on",
        "ibnorm train tiny.yaml run.resume=always",
        ("run.resume is 'always': input should be 'auto' or 'never'; give it such a value.",),
    ),
    Row(
        "a damaged config",
        "ibnorm train tiny.yaml",
        ("the run folder's file is run/config.yaml: it is damaged; restore it or run again.",),
        before=file("run/config.yaml", "model: ["),
    ),
    Row(
        "a run that is being trained",
        "python -m ibnorm_megatron.train tiny.yaml",
        ("run.dir is run: another process is training in it; wait for it, stop it, or choose another run.dir.",),
        before=held,
        alone=True,
    ),
    Row(
        "no time to live",
        "ibnorm train tiny.yaml run.dead_after=0",
        ("run.dead_after is 0: input should be greater than 0; give it such a value.",),
    ),
)
