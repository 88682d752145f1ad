"""The command line: what it shows, what it refuses, and that refusing writes nothing."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ibnorm_megatron.cli import COMMANDS, main
from ibnorm_megatron.config import Config, load_config
from ibnorm_megatron.train import main as train

from ..data.making import documents, make
from ..distributed import ROOT, command

CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("*.yaml"))


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)


def _imported(*arguments: str) -> set[str]:
    code = f"import sys\nfrom ibnorm_megatron.cli import main\ntry: main({list(arguments)!r})\nexcept SystemExit: pass\n"
    code += "print('\\n'.join(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stderr.split())


def test_help_imports_next_to_nothing() -> None:
    heavy = {"torch", "numpy", "pydantic", "yaml", "rich", "deepspeed", "megatron", "datasets", "matplotlib", "sentencepiece"}
    assert not heavy & _imported("--help")


def test_dry_run_and_refusals_import_no_torch() -> None:
    for arguments in (["dry-run", "configs/llama_70b.yaml"], ["train", "configs/llama_130m.yaml", "train.stesp=3"]):
        assert not {"torch", "deepspeed", "megatron"} & _imported(*arguments)


def test_help_names_every_command() -> None:
    done = command("ibnorm", "--help")
    assert done.returncode == 0
    assert all(name in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", CONFIGS)
def test_dry_run_of_every_shipped_config(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dry-run", f"configs/{name}.yaml", "model.norm=ibnorm_log", "data.path=nowhere"]) == 0
    shown = capsys.readouterr().out
    config = load_config(f"configs/{name}.yaml", ["model.norm=ibnorm_log"])
    assert f"{sum(config.model.num_params().values()):,}" in shown
    assert f"{config.train.steps * config.train.tokens_per_step():,}" in shown
    for what in (
        "attn_in",
        "mlp_in",
        "final",
        "ibnorm_log",
        "tensor parallel",
        "ZeRO stage",
        f"schedule: {config.train.schedule}",
    ):
        assert what in shown


def test_dry_run_shows_what_is_sent_and_the_bubble(capsys: pytest.CaptureFixture[str]) -> None:
    layout = ["parallel.tensor=2", "parallel.sequence=true", "parallel.pipeline=2", "train.micro_batch_size=2"]
    assert main(["dry-run", "configs/tiny_llama.yaml", "data.path=nowhere", "--world-size", "8", *layout]) == 0
    shown = capsys.readouterr().out
    # Two data ranks, two micro-batches of 2 x 64 x 64 float32; one layer on each stage: 6 all-gathers in each.
    assert re.search(rf"activations of layers +│ +all-gather │ +{2 * 6} │ +{2 * 6 * 2 * 64 * 64 * 4 / 2 / 2**20:.2f} ", shown)
    assert all(re.search(rf"{group}, {ranks} ranks: +[\d.]+ %", shown) for group, ranks in (("tensor", 2), ("replicas", 2)))
    assert re.search(r"pipeline bubble, equal stages +│ +33.3 % of a step", shown)
    assert "context, " not in shown and "statistics of sharded norms" not in shown
    assert main(["dry-run", "configs/tiny_llama.yaml", "data.path=nowhere"]) == 0
    shown = capsys.readouterr().out
    assert "communication" not in shown and "bubble" not in shown


@pytest.mark.parametrize("name", CONFIGS)
def test_what_dry_run_prints_is_the_config(name: str) -> None:
    config = load_config(f"configs/{name}.yaml", ["model.norm={kind: ibnorm_tanh, lambda: 2.0}", "train.lr=1e-3"])
    assert Config.model_validate(config.to_dict()) == config
    assert (config.model.norm.default.lam, config.train.lr) == (2.0, 1e-3)


def test_the_issue_of_a_shorter_run_is_only_its_length() -> None:
    """A published config with the overrides that a launch line most often has."""
    overrides = [
        "model.norm=ibnorm_log",
        "train.steps=100",
        "parallel.tensor=2",
        "parallel.sequence=true",
        "train.precision=fp32",
    ]
    config = load_config("configs/llama_130m.yaml", overrides, world_size=4)
    assert config.train.steps == 100
    assert config.parallel.data(4) == 2


REFUSED = {
    "unknown field": (["train.stesp=3"], ["train.stesp is 3: there is no such field here; did you mean 'steps'?"]),
    "unknown room": (["modle.x=1"], ["modle is {'x': 1}", "did you mean 'model'?"]),
    "unknown norm": (["model.norm=rmsnrm"], ["there is no norm named 'rmsnrm'", "did you mean 'rmsnorm'?"]),
    "unknown option of a norm": (["model.norm=ibnorm_log", "model.norm.lamda=2"], ["did you mean 'lambda'?"]),
    "wrong type": (["train.steps=abc"], ["train.steps is 'abc': input should be a valid integer"]),
    "a truth value as number": (["train.seed=true"], ["train.seed is True"]),
    "unknown choice": (["train.precision=fp8"], ["train.precision is 'fp8'", "'fp32', 'bf16' or 'fp16'"]),
    "not an override": (["nonsense"], ["the override is 'nonsense'", "write it like train.steps=100"]),
    "heads over tensor ranks": (
        ["parallel.tensor=3"],
        ["model.num_attention_heads is 4: it is not divisible by parallel.tensor 3", "model.num_key_value_heads is 2"],
    ),
    "heads over width": (["model.num_attention_heads=5", "model.num_key_value_heads=5"], ["hidden_size 64 is not divisible"]),
    "missing data": (["data.path=nowhere"], ["data.path is nowhere: there is no prepared data there", "ibnorm prepare"]),
    "world size": (["parallel.tensor=2"], ["the world size is 1", "launch 2 or a multiple"]),
    "batch over ranks": (["train.global_batch_size=0"], ["train.global_batch_size is 0"]),
    "mixed precision at stage 0": (["parallel.zero_stage=0", "train.precision=bf16"], ["parallel.zero_stage is 0: bf16"]),
    "stages and weights sharded": (
        ["parallel.pipeline=2", "parallel.zero_stage=3"],
        ["parallel.zero_stage is 3: under parallel.pipeline 2 the stages would wait"],
    ),
    "stages without a ZeRO optimizer": (
        ["parallel.pipeline=2", "parallel.zero_stage=0"],
        ["parallel.zero_stage is 0: DeepSpeed cannot add up the micro-batches of parallel.pipeline 2"],
    ),
    "stages in low precision": (
        ["parallel.pipeline=2", "train.precision=bf16"],
        ["parallel.zero_stage is 1: under parallel.pipeline 2 DeepSpeed would add up micro-batches in bf16"],
    ),
    "layers over stages": (
        ["parallel.pipeline=2", "model.num_layers=3"],
        ["model.num_layers is 3: it is not divisible by parallel.pipeline 2"],
    ),
    "interleaved stages": (
        ["parallel.pipeline=2", "parallel.virtual_pipeline=2"],
        ["parallel.virtual_pipeline is 2: interleaved 1F1B is not offered: between two stages"],
    ),
    "noise that stages draw again": (
        ["parallel.pipeline=2", "parallel.recompute=full", "model.norm=normalnorm"],
        ["model.norm is normalnorm: it draws noise, and a stage of parallel.pipeline 2"],
    ),
    "a sequence over context ranks": (
        ["parallel.context=2", "parallel.tensor=2", "parallel.sequence=true", "train.sequence_length=60"],
        [
            "train.sequence_length is 60: sequence parallelism over parallel.tensor 2 and parallel.context 2, two runs of "
            "tokens each, shard it; use a multiple of 8"
        ],
    ),
    "heads over context ranks": (
        ["parallel.context=4", "parallel.context_method=all_to_all"],
        ["model.num_key_value_heads is 2: parallel.context_method all_to_all shares them among tensor x context = 4 ranks"],
    ),
    "nothing to exchange": (
        ["parallel.context_method=all_to_all"],
        ["parallel.context_method is all_to_all: parallel.context is 1"],
    ),
    "no way to compute again": (["parallel.recompute=some"], ["parallel.recompute is 'some'", "'none', 'selective' or 'full'"]),
    "an optimizer to keep on the CPU": (
        ["parallel.zero_stage=0", "parallel.offload_optimizer=true"],
        ["parallel.offload_optimizer is true: offloading needs an optimizer that ZeRO shards"],
    ),
    "sequence too long": (["train.sequence_length=4096"], ["train.sequence_length is 4096: the model takes at most"]),
    "decay too long": (["train.schedule=wsd", "train.decay_fraction=1.0"], ["train.decay_fraction is 1.0"]),
    "no steps": (["train.steps=0"], ["train.steps is 0"]),
    "literal form with a small lambda": (
        ["model.norm={kind: ibnorm, lambda: 0.5, form: literal}"],
        ["lambda 0.5 is below 1, where the literal form is unbounded"],
    ),
    "a required field, and the rest all the same": (
        ["model.num_layers=abc", "train.steps=x", "parallel.tensor=3", "data.path=nowhere"],
        [
            "model.num_layers is 'abc'",
            "train.steps is 'x'",
            "the world size is 1: the layout needs a multiple of tensor 3",
            "model.num_attention_heads is 4: it is not divisible by parallel.tensor 3",
            "data.path is nowhere",
        ],
    ),
    "a size that the data is checked against": (
        ["model.vocab_size=x", "train.lr=0"],
        ["model.vocab_size is 'x'", "train.lr is 0"],
    ),
    "no number": (
        ["train.lr=.nan", "model.norm.eps=.inf"],
        ["train.lr is nan: input should be a finite", "model.norm.eps is inf"],
    ),
    "a number of more than 64 bits": (["train.steps=99999999999999999999"], ["it is not a YAML value: a number does not fit"]),
    "a seed of more than 32 bits": (["train.seed=4294967296"], ["train.seed is 4294967296: input should be less than"]),
    "heads that cannot be rotated": (
        ["model.hidden_size=60"],
        ["hidden_size / num_attention_heads = 15 is odd, and RoPE rotates pairs"],
    ),
    "not a word for true": (["log.console=off"], ["log.console is 'off'", "write true or false"]),
    "keys that are no names": (
        ["model.norm={1: 2}", "train.x={null: 3}", "log={}"],
        ["model.norm is", "train.x is {'null': 3}"],
    ),
    "a field of a number": (["train.lr.x=3"], ["train.lr is 0.003: it is no mapping, so there is no x in it"]),
    "what another field decides": (
        ["parallel.deepspeed.optimizer.type=Adam", "parallel.deepspeed.bf16.enabled=true", "parallel.deepspeed.fp16=true"],
        [
            "parallel.deepspeed.optimizer is {'type': 'Adam'}: another part of the config decides it; set train.lr",
            "parallel.deepspeed.bf16.enabled is True: another part of the config decides it; set train.precision",
            "parallel.deepspeed.fp16 is True: DeepSpeed wants a mapping there",
        ],
    ),
    "not a key of DeepSpeed": (
        ["parallel.deepspeed.zero_optimisation.stage=2", "parallel.deepspeed.zero_optimization.stage=2"],
        [
            "DeepSpeed has no such key; did you mean 'zero_optimization'?",
            "parallel.deepspeed.zero_optimization.stage is 2: another part of the config decides it; set parallel.zero_stage",
        ],
    ),
    "several at once": (
        ["train.stesp=3", "parallel.tensor=3", "train.precision=fp8", "data.path=nowhere", "nonsense"],
        ["train.stesp", "parallel.tensor 3", "train.precision", "data.path is nowhere", "the override"],
    ),
}


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.replace(" ", "-"))
def test_bad_input_is_one_sentence_each_and_writes_nothing(
    case: str, tmp_path: Path, prepared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides, says = REFUSED[case]
    run = tmp_path / "run"
    given = ["configs/tiny_llama.yaml", f"data.path={prepared}", f"run.dir={run}", "model.vocab_size=512", *overrides]
    assert train(given) == 2
    errors = capsys.readouterr().err
    for text in says:
        assert text in errors, errors
    assert all(re.fullmatch(r"error: .* is .*: .*; .*[.?]", line) for line in errors.splitlines()), errors
    assert list(tmp_path.iterdir()) == []


def test_a_vocabulary_larger_than_the_models_is_refused(
    tmp_path: Path, prepared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(["configs/tiny_llama.yaml", f"data.path={prepared}", f"run.dir={tmp_path / 'r'}", "model.vocab_size=500"]) == 2
    assert "model.vocab_size is 500: the tokenizer of" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_a_run_is_left_alone(tmp_path: Path, prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    given = ["configs/tiny_llama.yaml", f"data.path={prepared}", f"run.dir={tmp_path}", "model.vocab_size=512"]
    assert train(given) == 2
    assert "it exists and is not a run's folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("model: [", "it is not valid YAML"),
        ("- 1\n", "it does not hold a mapping"),
        ("model: 3\n", "this part of a config is a mapping of fields"),
        ("train: {steps: 1, steps: 2}\n", "the key 'steps' stands twice"),
        ("model: !!python/object/apply:os.system ['true']\n", "it is not valid YAML"),
        ("{}\n", "train.steps is missing"),
        ("1: 2\nnull: 3\n2026-01-31: x\n", "2026-01-31 is 'x': there is no such part of a config"),
        ("train: {1: 2, null: 3}\n", "train.null is 3: there is no such field here"),
        ("train: {[1, 2]: 3}\n", "a key is not a name"),
        ("train: {steps: !!int abc}\n", "'abc' is no int"),
        ("train: {steps: !!timestamp abc}\n", "it is not valid YAML"),
        ("[" * 5000, "it is nested too deeply"),
    ],
)
def test_a_bad_config_file_is_named(tmp_path: Path, content: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(content)
    assert main(["dry-run", str(path)]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("content", [None, "model: [", "- 1\n", ""])
def test_of_a_file_that_holds_no_config_only_that_is_said(
    tmp_path: Path, content: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.yaml"
    if content is not None:
        path.write_text(content)
    for run in (main, lambda arguments: train(arguments[1:])):
        assert run(["dry-run", str(path), "train.lr=x"]) == 2
        assert re.fullmatch(r"error: the config file is .*\n", capsys.readouterr().err)


@pytest.mark.parametrize("size", ["0", "-2"])
def test_a_world_of_nobody_is_refused(size: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dry-run", "configs/tiny_llama.yaml", "data.path=nowhere", "--world-size", size]) == 2
    assert capsys.readouterr().err == f"error: the world size is {size}: a run needs at least one process; launch 1 or more.\n"


def test_dry_run_compares_with_prepared_data_as_train_does(
    tmp_path: Path, prepared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [
        "configs/tiny_llama.yaml",
        f"data.path={prepared}",
        f"run.dir={tmp_path / 'r'}",
        "model.vocab_size=500",
        "train.lr=0",
    ]
    assert main(["dry-run", *given]) == 2
    shown = capsys.readouterr().err
    assert "model.vocab_size is 500: the tokenizer of" in shown
    assert train(given) == 2
    assert capsys.readouterr().err == shown
    fitting = ["dry-run", *given[:3], "model.vocab_size=512"]
    assert main(fitting) == 0
    assert "epochs" in capsys.readouterr().out
    assert not {"torch", "deepspeed", "megatron"} & _imported(*fitting)


def test_dry_run_shows_every_corpus_with_its_weight_and_epochs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    contents = {"train": [documents(60, longest=40)], "validation": [documents(40, longest=40, seed=1)]}
    folders = [
        make(tmp_path / name, {name: {**contents, "train": [documents(60, first, 40)]}})
        for name, first in (("web", 1), ("code", 3000))
    ]
    given = ["dry-run", "configs/tiny_llama.yaml", f"data.path=[{folders[0]}, {folders[1]}]", "model.vocab_size=50000"]
    assert main(given) == 0
    assert "all documents are permuted together" in capsys.readouterr().out
    assert main([*given, "data.weights={web: 3, code: 1}"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"web +│ +60 │ +[\d,]+ │ +3 │ +75.00 % │ +[\d.]+", shown), shown
    assert re.search(r"code +│ +60 │ +[\d,]+ │ +1 │ +25.00 % │ +[\d.]+", shown), shown
    assert main([*given, "data.weights={web: 3}"]) == 2
    assert "data.weights is {'web': 3.0}: code has none" in capsys.readouterr().err


def test_overrides_may_follow_options(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["dry-run", "configs/tiny_llama.yaml", "data.path=nowhere", "--world-size", "2", "train.steps=77"]
    assert main(given) == 0
    assert "steps: 77" in capsys.readouterr().out
    assert main([*given, "--wolrd-size", "3"]) == 2
    assert re.fullmatch(
        r"error: the command line of ibnorm is not understood: unrecognized arguments: .*--wolrd-size 3; .*\n",
        capsys.readouterr().err,
    )


def test_a_missing_config_file_and_a_missing_argument(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dry-run", "configs/nope.yaml"]) == 2
    assert "the config file is configs/nope.yaml: it cannot be read" in capsys.readouterr().err
    assert train([]) == 2
    assert "the config file is missing" in capsys.readouterr().err


def test_commands_exit_with_2() -> None:
    for arguments in (
        ["ibnorm", "train", "configs/tiny_llama.yaml", "train.stesp=3"],
        ["ibnorm", "prepare", "nowhere", "--out", "nowhere", "--vocab-size", "400"],
        ["ibnorm", "compare", "nowhere"],
        [sys.executable, "-m", "ibnorm_megatron.train", "configs/tiny_llama.yaml", "parallel.tensor=2"],
    ):
        done = command(*arguments)
        assert done.returncode == 2, done.stderr
        assert done.stderr.startswith("error: ")
        assert "Traceback" not in done.stderr


def test_tags_are_added_to_those_of_the_config(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr("ibnorm_megatron.train.main", lambda given: started.append(given) or 0)
    monkeypatch.setattr("ibnorm_megatron.train.run.check_run", lambda *given: None)
    line = ["train", "configs/tiny_llama.yaml", "log.wandb=offline", "log.wandb_tags=[old, seed 1]", "--tags", "new, old"]
    assert main(line) == 0
    assert load_config(started[0][0], started[0][1:]).log.wandb_tags == ("old", "seed 1", "new")
    assert capsys.readouterr().err == ""
    assert main(["train", "configs/tiny_llama.yaml", "--tags", "new"]) == 0
    assert "warning: --tags: log.wandb is off" in capsys.readouterr().err
