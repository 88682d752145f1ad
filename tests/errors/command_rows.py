"""Commands: what they are told on their lines."""

from __future__ import annotations

from .mischief import each, file, finished, looked_into, replaced
from .rows import Row

COMMANDS: tuple[Row, ...] = (
    Row(
        "no command",
        "ibnorm",
        (
            "the command line of ibnorm is not understood: the following arguments are required: <some words>; see: ibnorm --help.",
        ),
    ),
    Row(
        "an unknown command",
        "ibnorm trian tiny.yaml",
        (
            "the command line of ibnorm is not understood: argument COMMAND: invalid choice: 'trian' (choose from <a list>); see: ibnorm --help.",
        ),
    ),
    Row(
        "no config",
        "ibnorm train",
        (
            "the command line of ibnorm train is not understood: the following arguments are required: <some words>; see: ibnorm train --help.",
        ),
    ),
    Row(
        "no config under a launcher",
        "python -m ibnorm_megatron.train",
        (
            "the config file is missing: a run needs one; run: torchrun --nproc-per-node N -m ibnorm_megatron.train CONFIG [room.field=value ...].",
        ),
    ),
    Row(
        "an unknown option",
        "ibnorm train tiny.yaml --nproc 2 --wolrd-size 2",
        ("the command line of ibnorm is not understood: unrecognized arguments: --wolrd-size 2; see: ibnorm --help.",),
    ),
    Row(
        "a number that is none",
        "ibnorm dry-run tiny.yaml --world-size two",
        (
            "the command line of ibnorm dry-run is not understood: argument --world-size: invalid int value: 'two'; see: ibnorm dry-run --help.",
        ),
    ),
    Row(
        "a world of nobody",
        "ibnorm dry-run tiny.yaml --world-size 0",
        ("the world size is 0: a run needs at least one process; launch 1 or more.",),
    ),
    Row(
        "no folder to inspect",
        "ibnorm data inspect nowhere",
        ("the folder is nowhere: there is no prepared data there (no manifest.json); give a folder that ibnorm prepare made.",),
    ),
    Row(
        "a negative number of samples",
        "ibnorm data inspect data --samples -1",
        ("--samples is -1: it is no number of documents; give 0 or more.",),
    ),
    Row(
        "an unknown split",
        "ibnorm data inspect data --split dev",
        (
            "the command line of ibnorm data inspect is not understood: argument --split: invalid choice: 'dev' (choose from <a list>); see: ibnorm data inspect --help.",
        ),
    ),
    Row(
        "an unknown kind of picture",
        "ibnorm data inspect data --picture lengths.gif",
        ("--picture is lengths.gif: its kind is not known; end its name in .png, .svg, .pdf.",),
    ),
    Row(
        "a picture in no folder",
        "ibnorm data inspect data --picture pictures/lengths.png",
        ("--picture is pictures/lengths.png: there is no folder pictures; make it, or choose another.",),
    ),
    Row(
        "no folder to verify",
        "ibnorm data verify nowhere",
        ("the folder is nowhere: there is no prepared data there (no manifest.json); give a folder that ibnorm prepare made.",),
    ),
    Row(
        "an unknown norm to check",
        "ibnorm check-norm rmsnrm",
        ("the norm is 'rmsnrm': there is no norm named 'rmsnrm'; did you mean 'rmsnorm'?",),
    ),
    Row(
        "no norm to check",
        "ibnorm check-norm '{lambda: 2}'",
        (
            "the norm is '{lambda: 2}': a norm is a name or a mapping with a kind; choose one of none, layernorm, rmsnorm, ibnorm, scale, dyt, derf, normalnorm, layernorm_scaling, l2norm, batchnorm, ibnorm_identity, ibnorm_linear, ibnorm_log, ibnorm_tanh, ibnorm_softsign, ibnorm_asinh, ibnorm_s, ibnorm_l, ibnorm_t.",
        ),
    ),
    Row(
        "no YAML for a norm",
        "ibnorm check-norm '{kind: ibnorm'",
        ("the norm is '{kind: ibnorm': expected ',' or '}', but got '<stream end>'; change it.",),
    ),
    Row(
        "a value that a norm does not take",
        "ibnorm check-norm '{kind: ibnorm_log, lambda: 0}'",
        ("the norm is '{kind: ibnorm_log, lambda: 0}': lambda: Input should be greater than 0; change it.",),
    ),
    Row(
        "a plugin that is not there",
        "ibnorm check-norm mine --plugin mine.py",
        ("plugins is mine.py: there is no such Python file; give the path of a .py file.",),
    ),
)

PREPARE: tuple[Row, ...] = (
    Row(
        "no source",
        "ibnorm prepare --out out --vocab-size 400",
        ("the sources is empty: there is nothing to read; name a file, a folder or python-stdlib.",),
    ),
    Row(
        "no vocabulary",
        "ibnorm prepare text.txt --out out",
        (
            "recipe.tokenizer is set so: there is neither vocab_size nor file; give vocab_size to train one, or the file of one.",
        ),
        before=file("text.txt", "text " * 999),
    ),
    Row(
        "no folder to make",
        "ibnorm prepare text.txt --vocab-size 400",
        (
            "the command line of ibnorm prepare is not understood: the following arguments are required: <some words>; see: ibnorm prepare --help.",
        ),
        before=file("text.txt", "text " * 999),
    ),
    Row(
        "a folder that is there",
        "ibnorm prepare text.txt --out data --vocab-size 400",
        ("--out is data: it exists and is never overwritten; choose another folder or remove it.",),
        before=file("text.txt", "text " * 999),
    ),
    Row(
        "a source that is not there",
        "ibnorm prepare nowhere.txt --out out --vocab-size 400",
        (
            "the source is nowhere.txt: <the folder>/nowhere.txt cannot be opened (No such file or directory); mend it or leave it out.",
        ),
    ),
    Row(
        "a source of no known kind",
        "ibnorm prepare data/tokenizer.model --out out --vocab-size 400",
        (
            "the source is data/tokenizer.model: it is neither python-stdlib nor a file, folder or glob of .txt, .md, .rst, .py, .html, .htm, .jsonl, .parquet; give existing files of these kinds, not empty.",
        ),
    ),
    Row(
        "a source that is empty",
        "ibnorm prepare text.txt --out out --vocab-size 400",
        (
            "the source is text.txt: it is neither python-stdlib nor a file, folder or glob of .txt, .md, .rst, .py, .html, .htm, .jsonl, .parquet; give existing files of these kinds, not empty.",
        ),
        before=file("text.txt", ""),
    ),
    Row(
        "a source given twice",
        "ibnorm prepare text.txt ./text.txt --out out --vocab-size 400",
        ("the source is <the folder>/text.txt: it is given twice and would be trained on twice; name it once.",),
        before=file("text.txt", "text " * 999),
    ),
    Row(
        "a source that is no text",
        "ibnorm prepare text.txt --out out --vocab-size 400 --workers 1",
        (
            "byte 0 of <the folder>/text.txt is 0xff: it is not UTF-8; convert the file, leave it out, or give --encoding-errors replace.",
        ),
        before=file("text.txt", b"\xff\xfe" * 999),
    ),
    Row(
        "rows that are no JSON",
        "ibnorm prepare rows.jsonl --out out --vocab-size 400 --workers 1",
        ("row 2 of <the folder>/rows.jsonl is not JSON: Expecting value at column 10 (char 9); mend or remove the line.",),
        before=file("rows.jsonl", '{"text": "a"}\n{"text": '),
    ),
    Row(
        "rows without text",
        "ibnorm prepare rows.jsonl --out out --vocab-size 400 --workers 1",
        (
            "the field 'text' in row 1 of <the folder>/rows.jsonl is missing: a document's text is a string; name the right text field (there are body).",
        ),
        before=file("rows.jsonl", '{"body": "a"}\n'),
    ),
    Row(
        "too small a vocabulary",
        "ibnorm prepare text.txt --out out --vocab-size 100",
        ("recipe.tokenizer is set so: vocab_size is 100, and 261 entries are taken by bytes and symbols; use more than 261.",),
        before=file("text.txt", "text " * 999),
    ),
    Row(
        "too large a vocabulary",
        "ibnorm prepare text.txt --out out --vocab-size 100000000",
        ("recipe.tokenizer is set so: vocab_size is 100000000, and no text fills so many entries; use 32000, for example.",),
        before=file("text.txt", "text " * 999),
    ),
    Row(
        "everything held out",
        "ibnorm prepare text.txt --out out --vocab-size 400 --validation-fraction 0.6 --test-fraction 0.5",
        ("recipe is set so: validation_fraction and test_fraction leave nothing to train on; lower one of them.",),
        before=file("text.txt", "text " * 999),
    ),
    Row(
        "no workers",
        "ibnorm prepare text.txt --out out --vocab-size 400 --workers 0",
        ("--workers is 0: somebody has to work; give 1 or more.",),
        before=file("text.txt", "text " * 999),
    ),
    Row(
        "a share that is no number",
        "ibnorm prepare text.txt --out out --vocab-size 400 --task x",
        ("--task is 'x': it is no number from 0; give a number, or auto.",),
        before=file("text.txt", "text " * 999),
    ),
    Row(
        "a share outside",
        "ibnorm prepare text.txt --out out --vocab-size 400 --stage encode --task 3 --tasks 2",
        ("--task is 3: there are 2 tasks, numbered from 0; give --task a number below --tasks.",),
        before=file("text.txt", "text " * 999),
    ),
    Row(
        "shares of what has none",
        "ibnorm prepare text.txt --out out --vocab-size 400 --tasks 2",
        ("--tasks is 2: only the stages scan and encode have pieces to share; give --stage scan or --stage encode.",),
        before=file("text.txt", "text " * 999),
    ),
    Row(
        "shares of no scheduler",
        "ibnorm prepare text.txt --out out --vocab-size 400 --stage encode --task auto",
        ("--task is auto: neither a Slurm array's variables nor torchrun's are set; give a number.",),
        before=file("text.txt", "text " * 999),
    ),
    Row(
        "a stage before its turn",
        "ibnorm prepare text.txt --out out --vocab-size 400 --stage finish --workers 1",
        ("the tokenizer is missing: the stage tokenizer is not done; run the same command with --stage tokenizer first.",),
        before=file("text.txt", "text " * 999),
    ),
    Row(
        "no recipe",
        "ibnorm prepare --recipe nowhere.yaml --out out",
        (
            "the recipe is nowhere.yaml: it cannot be read (No such file or directory); give the path of a YAML file; docs/data.md shows one.",
        ),
    ),
    Row(
        "a recipe and more",
        "ibnorm prepare text.txt --recipe r.yaml --vocab-size 400 --out out",
        (
            "--recipe is given with SOURCE, --vocab-size: the recipe says everything that decides what the folder holds; say it in the recipe.",
        ),
    ),
    Row(
        "a recipe that is no YAML",
        "ibnorm prepare --recipe r.yaml --out out",
        ("the recipe is r.yaml: it is not valid YAML: expected the node content, but found '<stream end>'; mend it there.",),
        before=file("r.yaml", "sources: ["),
    ),
    Row(
        "a recipe with an unknown field",
        "ibnorm prepare --recipe r.yaml --out out",
        ("recipe.clening is {}: there is no such field here; did you mean 'cleaning'?",),
        before=file("r.yaml", "sources: [{path: x.txt}]\ntokenizer: {vocab_size: 400}\nclening: {}\n"),
    ),
    Row(
        "a recipe without sources",
        "ibnorm prepare --recipe r.yaml --out out",
        ("recipe.sources is []: list should have at least 1 item after validation, not 0; give it such a value.",),
        before=file("r.yaml", "sources: []\ntokenizer: {vocab_size: 400}\n"),
    ),
    Row(
        "a tokenizer that is none",
        "ibnorm prepare text.txt --out out --tokenizer tokenizer.json --workers 1",
        (
            "recipe.tokenizer.file is tokenizer.json: it cannot be read (Model missing. at <a place>); give the file of a tokenizer.",
        ),
        before=each(file("text.txt", "text " * 999), file("tokenizer.json", "{}")),
    ),
    Row(
        "a tokenizer of no known kind",
        "ibnorm prepare text.txt --out out --tokenizer tiny.yaml --workers 1",
        ("recipe.tokenizer.file is tiny.yaml: its kind is told by its suffix; give a .model or a tokenizer.json.",),
        before=file("text.txt", "text " * 999),
    ),
)

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
