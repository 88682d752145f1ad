"""Config files: how they are read, which fields there are, what a field takes."""

from __future__ import annotations

from .mischief import file, grown, replaced
from .rows import Row

CONFIG: tuple[Row, ...] = (
    Row(
        "no such file",
        "ibnorm train nowhere.yaml",
        (
            "the config file is nowhere.yaml: it cannot be read (No such file or directory); give the path of a YAML file, such as configs/quickstart.yaml.",
        ),
    ),
    Row(
        "a folder for a file",
        "ibnorm train data",
        (
            "the config file is data: it cannot be read (Is a directory); give the path of a YAML file, such as configs/quickstart.yaml.",
        ),
    ),
    Row(
        "no text",
        "ibnorm train bad.yaml",
        (
            "the config file is bad.yaml: it cannot be read (it is not UTF-8 text); give the path of a YAML file, such as configs/quickstart.yaml.",
        ),
        before=file("bad.yaml", b"\xff\xfe"),
    ),
    Row(
        "no YAML",
        "ibnorm dry-run bad.yaml",
        (
            "the config file is bad.yaml: it is not valid YAML: expected the node content, but found '<stream end>'; mend it there.",
        ),
        before=file("bad.yaml", "model: ["),
    ),
    Row(
        "no mapping",
        "ibnorm dry-run bad.yaml",
        ("the config file is bad.yaml: it does not hold a mapping; start from one of configs/.",),
        before=file("bad.yaml", "- 1"),
    ),
    Row(
        "an empty file",
        "ibnorm dry-run bad.yaml",
        ("the config file is bad.yaml: it does not hold a mapping; start from one of configs/.",),
        before=file("bad.yaml", ""),
    ),
    Row(
        "a tab",
        "ibnorm dry-run bad.yaml",
        (
            "the config file is bad.yaml: it is not valid YAML: found character '\\t' that cannot start any token, in line 2; mend it there.",
        ),
        before=file("bad.yaml", "train:\n\tsteps: 1\n"),
    ),
    Row(
        "a key that stands twice",
        "ibnorm train tiny.yaml",
        ("the config file is tiny.yaml: it is not valid YAML: the key 'steps' stands twice, in line 14; mend it there.",),
        before=replaced("  steps: 100", "  steps: 100\n  steps: 200"),
    ),
    Row(
        "a key that is no name",
        "ibnorm train tiny.yaml",
        ("the config file is tiny.yaml: it is not valid YAML: a key is not a name, in line 28; mend it there.",),
        before=grown("evaluate: {[1, 2]: 3}"),
    ),
    Row(
        "an object of Python's",
        "ibnorm train tiny.yaml",
        (
            "the config file is tiny.yaml: it is not valid YAML: could not determine a constructor for the tag 'tag:yaml.org,2002:python/object/apply:os.system', in line 28; mend it there.",
        ),
        before=grown("plugins: !!python/object/apply:os.system [reboot]"),
    ),
    Row(
        "nested too deeply",
        "ibnorm dry-run bad.yaml",
        ("the config file is bad.yaml: it is not valid YAML: it is nested too deeply; mend it there.",),
        before=file("bad.yaml", "[" * 5000),
    ),
    Row(
        "a value that holds itself",
        "ibnorm train tiny.yaml",
        ("the config file is tiny.yaml: it is not valid YAML: it holds itself, in line 28; mend it there.",),
        before=grown("guard: &guard {spikes: *guard}"),
    ),
    Row(
        "a number of more than 64 bits",
        "ibnorm train tiny.yaml train.steps=99999999999999999999",
        (
            "train.steps is '99999999999999999999': it is not a YAML value: a number does not fit into 64 bits; mend or quote it.",
        ),
    ),
    Row(
        "an integer of YAML 1.1",
        "ibnorm train tiny.yaml train.steps=1_000",
        ("train.steps is '1_000': input should be a valid integer; give it such a value.",),
    ),
    Row(
        "a truth value of YAML 1.1",
        "ibnorm train tiny.yaml log.console=off",
        ("log.console is 'off': input should be a valid boolean; write true or false.",),
    ),
    Row(
        "a truth value for a number",
        "ibnorm train tiny.yaml train.seed=true",
        ("train.seed is True: input should be a valid integer; give it such a value.",),
    ),
    Row(
        "text for a number",
        "ibnorm train tiny.yaml train.steps=abc",
        ("train.steps is 'abc': input should be a valid integer; give it such a value.",),
    ),
    Row(
        "a fraction for a count",
        "ibnorm train tiny.yaml train.steps=2.5",
        ("train.steps is 2.5: input should be a valid integer; give it such a value.",),
    ),
    Row(
        "nothing for a number",
        "ibnorm train tiny.yaml train.lr=null",
        ("train.lr is None: input should be a valid number; give it such a value.",),
    ),
    Row(
        "not a number",
        "ibnorm train tiny.yaml train.lr=.nan",
        ("train.lr is nan: input should be a finite number; give it such a value.",),
    ),
    Row(
        "an infinite number",
        "ibnorm train tiny.yaml model.norm=layernorm model.norm.eps=.inf",
        ("model.norm.eps is inf: input should be a finite number; give it such a value.",),
    ),
    Row(
        "no steps",
        "ibnorm train tiny.yaml train.steps=0",
        ("train.steps is 0: input should be greater than 0; give it such a value.",),
    ),
    Row(
        "a negative rate",
        "ibnorm train tiny.yaml train.lr=-1e-3",
        ("train.lr is -0.001: input should be greater than 0; give it such a value.",),
    ),
    Row(
        "a probability of one",
        "ibnorm train tiny.yaml model.dropout=1.0",
        ("model.dropout is 1.0: input should be less than 1; give it such a value.",),
    ),
    Row(
        "a seed of more than 32 bits",
        "ibnorm train tiny.yaml train.seed=4294967296",
        ("train.seed is 4294967296: input should be less than 4294967296; give it such a value.",),
    ),
    Row(
        "an unknown choice",
        "ibnorm train tiny.yaml train.precision=fp8",
        ("train.precision is 'fp8': input should be 'fp32', 'bf16' or 'fp16'; give it such a value.",),
    ),
    Row(
        "an unknown room",
        "ibnorm train tiny.yaml modle.hidden_size=64",
        ("modle is {'hidden_size': 64}: there is no such part of a config; did you mean 'model'?",),
    ),
    Row(
        "an unknown field",
        "ibnorm train tiny.yaml train.stesp=3",
        ("train.stesp is 3: there is no such field here; did you mean 'steps'?",),
    ),
    Row(
        "a missing field",
        "ibnorm train tiny.yaml",
        ("train.steps is missing: it has no default; add it to the config file or pass train.steps=VALUE.",),
        before=replaced("  steps: 100\n", ""),
    ),
    Row(
        "a number for a room",
        "ibnorm train tiny.yaml",
        ("run is 3: this part of a config is a mapping of fields; write its fields below it.",),
        before=replaced("run:\n  dir: run", "run: 3"),
    ),
    Row(
        "an override without a room",
        "ibnorm train tiny.yaml steps=3",
        ("the override is 'steps=3': it is not of the form room.field=value; write it like train.steps=100.",),
    ),
    Row(
        "a field of a number",
        "ibnorm train tiny.yaml train.lr.peak=3e-4",
        ("train.lr is 0.003: it is no mapping, so there is no peak in it; mend one of the two.",),
    ),
    Row(
        "an override that is no YAML",
        "ibnorm train tiny.yaml 'train.lr=['",
        ("train.lr is '[': it is not a YAML value: expected the node content, but found '<stream end>'; mend or quote it.",),
    ),
    Row(
        "a path with a zero byte",
        "ibnorm train tiny.yaml 'run.dir=\"a\\0b\"'",
        ("run.dir is 'a\\x00b': it holds a zero byte, and no path does; take it out.",),
    ),
    Row(
        "the home of nobody",
        "ibnorm train tiny.yaml run.dir=~nobody-of-this-name/run",
        (
            "run.dir is '~nobody-of-this-name/run': there is no such user's home; write the path from / on, or ./~ for a folder of that name.",
        ),
    ),
    Row(
        "no list of plugins",
        "ibnorm train tiny.yaml plugins=3",
        ("plugins is 3: it is no list of Python files; write plugins: [my_norms.py].",),
    ),
    Row(
        "a plugin that is not there",
        "ibnorm train tiny.yaml plugins=[norms.py]",
        ("plugins is norms.py: there is no such Python file; give the path of a .py file.",),
    ),
    Row(
        "a plugin that is no Python",
        "ibnorm train tiny.yaml plugins=[tiny.yaml]",
        ("plugins is tiny.yaml: there is no such Python file; give the path of a .py file.",),
    ),
    Row(
        "a plugin that raises",
        "ibnorm train tiny.yaml plugins=[norms.py]",
        ("plugins is norms.py: it cannot be imported (ZeroDivisionError: division by zero); mend it.",),
        before=file("norms.py", "1 / 0"),
    ),
    Row(
        "a plugin with a slip",
        "ibnorm train tiny.yaml plugins=[norms.py]",
        ("plugins is norms.py: it cannot be imported (SyntaxError: invalid syntax (norms.py, line 1)); mend it.",),
        before=file("norms.py", "def norm(:"),
    ),
    Row(
        "a decay that does not fit",
        "ibnorm train tiny.yaml train.schedule=wsd train.decay_fraction=1.0",
        (
            "train.decay_fraction is 1.0: with train.warmup_fraction 0.1 it does not fit into the run; let the two add up to 1 at most.",
        ),
    ),
    Row(
        "a sequence longer than the model's",
        "ibnorm train tiny.yaml train.sequence_length=4096",
        (
            "train.sequence_length is 4096: the model takes at most model.max_sequence_length 128; shorten it or raise the model's.",
        ),
    ),
    Row(
        "heads that do not divide the width",
        "ibnorm train tiny.yaml model.num_attention_heads=5 model.num_key_value_heads=5",
        ("model is set so: hidden_size 64 is not divisible by num_attention_heads 5; change one of them.",),
    ),
    Row(
        "heads that cannot be shared",
        "ibnorm train tiny.yaml model.num_key_value_heads=3",
        ("model is set so: num_attention_heads 4 is not divisible by num_key_value_heads 3; change one of them.",),
    ),
    Row(
        "heads that cannot be rotated",
        "ibnorm train tiny.yaml model.hidden_size=60",
        ("model is set so: hidden_size / num_attention_heads = 15 is odd, and RoPE rotates pairs; change one of them.",),
    ),
    Row(
        "more layers than a slip allows",
        "ibnorm train tiny.yaml model.num_layers=100000",
        ("model.num_layers is 100000: input should be less than or equal to 10000; give it such a value.",),
    ),
    Row(
        "a negative interval",
        "ibnorm train tiny.yaml log.telemetry=-1",
        ("log.telemetry is -1: input should be greater than or equal to 0; give it such a value.",),
    ),
    Row(
        "a window of too few steps",
        "ibnorm train tiny.yaml guard.spike_window=2",
        ("guard.spike_window is 2: input should be greater than or equal to 16; give it such a value.",),
    ),
    Row(
        "a tag without letters",
        "ibnorm train tiny.yaml 'log.wandb_tags=[\"\"]'",
        ("log.wandb_tags.0 is '': string should have at least 1 character; give it such a value.",),
    ),
    Row(
        "artifacts that nobody knows",
        "ibnorm train tiny.yaml log.wandb_artifacts=all",
        ("log.wandb_artifacts is 'all': input should be 'none', 'records' or 'checkpoint'; give it such a value.",),
    ),
    Row(
        "a key in the config",
        "WANDB_API_KEY=c0ffee00c0ffee00 ibnorm train tiny.yaml log.wandb_project=c0ffee00c0ffee00",
        (
            "log.wandb_project is (hidden): a config is written into run folders and reports, and that looks like a secret; take it out, and leave it to the environment.",
        ),
    ),
    Row(
        "a field that would hold a key",
        "ibnorm train tiny.yaml log.wandb_key=c0ffee00c0ffee00",
        ("log.wandb_key is (hidden): there is no such field here; did you mean 'wandb'?",),
    ),
    Row(
        "a token deep inside",
        "ibnorm train tiny.yaml 'parallel.deepspeed={comms_logger: {token: abc}}'",
        (
            "parallel.deepspeed.comms_logger.token is (hidden): a config is written into run folders and reports, and that looks like a secret; take it out, and leave it to the environment.",
        ),
    ),
    Row(
        "a secret in a word that is no override",
        "ibnorm train tiny.yaml hf_token=c0ffee00c0ffee00",
        ("the override is 'hf_token=(hidden)': it is not of the form room.field=value; write it like train.steps=100.",),
    ),
    Row(
        "several at once",
        "ibnorm train tiny.yaml train.stesp=3 train.precision=fp8 model.dropout=2 data.path=nowhere",
        (
            "model.dropout is 2: input should be less than 1; give it such a value.",
            "train.precision is 'fp8': input should be 'fp32', 'bf16' or 'fp16'; give it such a value.",
            "train.stesp is 3: there is no such field here; did you mean 'steps'?",
            "data.path is nowhere: there is no prepared data there (no manifest.json); run: ibnorm prepare SOURCE --out nowhere --vocab-size N.",
        ),
    ),
)
