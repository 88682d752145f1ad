"""Commands: what they are told on their lines."""

from __future__ import annotations

from .mischief import each, file
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
