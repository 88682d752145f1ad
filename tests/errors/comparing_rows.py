"""Commands that compare and verify: what they are told on their lines."""

from __future__ import annotations

from .mischief import each, file, finished, looked_into, replaced
from .rows import Row

COMPARE: tuple[Row, ...] = (
    Row(
        "no run",
        "ibnorm compare nowhere",
        (
            "the run folder's file is nowhere/config.yaml: it cannot be read (No such file or directory); give the folder of a run.",
        ),
    ),
    Row(
        "a run given twice",
        "ibnorm compare a ./a",
        ("the run is a: it is given twice; give every run once.",),
        before=finished("a"),
    ),
    Row(
        "a run that is not finished",
        "ibnorm compare a b",
        ("the run is b: it is not complete; run its command again to finish it.",),
        before=each(finished("a"), finished("b", status="stopped")),
    ),
    Row(
        "a run whose records are damaged",
        "ibnorm compare a",
        ("the run folder's file is a/summary.json: it is damaged; restore it or run again.",),
        before=each(finished("a"), file("a/summary.json", "{")),
    ),
    Row(
        "a run whose records lack something",
        "ibnorm compare a",
        ("the run is a: its records lack run_card.json's norm, run_card.json's tokens; run it again in a new folder.",),
        before=each(finished("a"), file("a/run_card.json", "{}")),
    ),
    Row(
        "runs that differ in more than a norm",
        "ibnorm compare a b",
        ("train.lr of b is 0.001: a has 0.003; compare runs that differ in their norm only.",),
        before=each(finished("a"), replaced("lr: 3e-3", "lr: 1e-3"), finished("b", norm="ibnorm_log")),
    ),
    Row(
        "an unknown kind of picture",
        "ibnorm compare a --picture curves.gif",
        ("--picture is curves.gif: its kind is not known; end its name in .png, .svg, .pdf.",),
        before=finished("a"),
    ),
    Row(
        "a folder for a picture",
        "ibnorm compare a --picture data.png",
        ("--picture is data.png: it is a folder; give the name of a file.",),
        before=each(finished("a"), file("data.png/x", "")),
    ),
    Row(
        "no run to look into",
        "ibnorm telemetry nowhere",
        (
            "the run folder's file is nowhere/run_card.json: it cannot be read (No such file or directory); give the folder of a run.",
        ),
    ),
    Row(
        "a run without telemetry",
        "ibnorm telemetry a",
        (
            "the run is a: nothing was measured inside its model yet; wait for the step that log.telemetry says, or train with log.telemetry above 0.",
        ),
        before=finished("a"),
    ),
    Row(
        "telemetry of something else",
        "ibnorm telemetry a",
        ("the run folder's file is a/telemetry.jsonl: it is damaged; restore it or run again.",),
        before=looked_into("a", {"step": 3, "loss": 1.0}),
    ),
    Row(
        "telemetry cut off",
        "ibnorm telemetry a",
        ("the run folder's file is a/telemetry.jsonl: it is damaged; restore it or run again.",),
        before=each(finished("a"), file("a/telemetry.jsonl", '{"step": 100, "si')),
    ),
    Row(
        "figures that no norm has",
        "ibnorm telemetry a --picture a.png --figures kurtsois contraction",
        (
            "--figures is kurtsois: there is no such figure; did you mean 'kurtosis'?",
            "--figures is contraction: no norm of a: rmsnorm has it; choose among std, kurtosis.",
        ),
        before=looked_into("a"),
    ),
    Row(
        "figures that nobody draws",
        "ibnorm telemetry a --figures kurtosis",
        ("--figures is kurtosis: it says what to draw, and nothing is drawn; add --picture FILE.",),
        before=looked_into("a"),
    ),
    Row(
        "an unknown kind of heatmap",
        "ibnorm telemetry a --picture a.gif",
        ("--picture is a.gif: its kind is not known; end its name in .png, .svg, .pdf.",),
        before=looked_into("a"),
    ),
    Row(
        "no steps to verify",
        "ibnorm verify tiny.yaml --steps 0",
        ("--steps is 0: bounds are for 1 to 100 steps; give such a number.",),
    ),
    Row(
        "no time to verify",
        "ibnorm verify tiny.yaml --timeout 0",
        ("--timeout is 0.0: it is no sensible time; give 1 to 86400 seconds.",),
    ),
    Row(
        "an unknown layout",
        "ibnorm verify tiny.yaml --layouts tp2-zero9",
        ("the layout is 'tp2-zero9': 'zero9' is no token of a layout's name; did you mean 'zero3'?",),
    ),
    Row(
        "a layout that says something twice",
        "ibnorm verify tiny.yaml --layouts tp2-tp4",
        ("the layout is 'tp2-tp4': tp2 and tp4 both set parallel.tensor; leave one of them out.",),
    ),
    Row(
        "a layout of too many processes",
        "ibnorm verify tiny.yaml --layouts tp2-dp64",
        ("the layout is 'tp2-dp64': it needs 128 processes; name a smaller one.",),
    ),
    Row(
        "a report in no folder",
        "ibnorm verify tiny.yaml --json reports/report.json",
        ("--json is 'reports/report.json': its folder does not exist; make it, or give another path.",),
    ),
    Row(
        "a report over something else",
        "ibnorm verify tiny.yaml --json data/manifest.json",
        ("--json is 'data/manifest.json': it holds something other than a report of verify; give another path.",),
    ),
    Row(
        "no steps to measure",
        "ibnorm overhead tiny.yaml --steps 0",
        ("--steps is 0: it is no sensible number of steps; give 1 to 10000.",),
    ),
    Row(
        "unknown norms to measure, with more that is wrong",
        "ibnorm overhead tiny.yaml train.lr=0 --norms rmsnrm '{kind: ibnorm_log, lamda: 2}'",
        (
            "train.lr is 0: input should be greater than 0; give it such a value.",
            "in --norms rmsnrm, model.norm is 'rmsnrm': there is no norm named 'rmsnrm'; did you mean 'rmsnorm'?",
            "in --norms {kind: ibnorm_log, lamda: 2}, model.norm is set so: ibnorm has no option 'lamda'; did you mean 'lambda'?",
        ),
    ),
    Row(
        "overheads of a model on several processes",
        "ibnorm overhead tiny.yaml parallel.tensor=2",
        (
            "the world size is 1: the layout needs a multiple of tensor 2 x pipeline 1 x context 1 = 2 processes; launch 2 or a multiple, or set parallel.tensor.",
        ),
    ),
    Row(
        "models too large to measure side by side",
        "ibnorm overhead tiny.yaml model.hidden_size=131072 model.ffn_hidden_size=524288 --norms layernorm",
        (
            "the config with its norms is 2 models of 515,531,276,288 parameters: side by side they take 16,497.0 GB at least, and <a number> GB are free; name fewer with --norms, or make the model smaller.",
        ),
    ),
    Row(
        "a report of overheads over something else",
        "ibnorm overhead tiny.yaml --json data/manifest.json",
        ("--json is 'data/manifest.json': it holds something other than a report of overhead; give another path.",),
    ),
    Row(
        "a report of the doctor over something else",
        "ibnorm doctor --json tiny.yaml",
        ("--json is 'tiny.yaml': it holds something other than a report of doctor; give another path.",),
    ),
    Row(
        "a report of the doctor nowhere",
        "ibnorm doctor --json nowhere/report.json",
        ("--json is 'nowhere/report.json': its folder does not exist; make it, or give another path.",),
    ),
)
