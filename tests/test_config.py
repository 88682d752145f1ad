"""Configs as values: how YAML is read, what a field accepts, what numbers mean, what DeepSpeed is left to decide."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import ValidationError

from ibnorm_megatron import errors
from ibnorm_megatron.config import Config, load_config, parse_config
from ibnorm_megatron.errors import UserError
from ibnorm_megatron.norms import compression, parse_norm
from ibnorm_megatron.norms.config import IBNormConfig
from ibnorm_megatron.parallel.config import Layout
from ibnorm_megatron.parallel.deepspeed_keys import KNOWN, OWNED
from ibnorm_megatron.train.config import TrainConfig

from .distributed import ROOT

TINY = ROOT / "configs" / "tiny_llama.yaml"


@pytest.mark.parametrize("typed", ["007", "2026", "1e3", "2026-01-31", "1:30", "1_000", "0o17", "off", "1.50"])
def test_a_folder_is_named_as_it_was_typed(typed: str, tmp_path: Path) -> None:
    config = load_config(TINY, [f"run.dir={typed}", f"data.path={typed}"])
    assert (config.run.dir, config.data.path) == (typed, typed)
    written = tmp_path / "config.yaml"
    written.write_text(config.to_yaml())
    assert load_config(written) == config


@pytest.mark.parametrize(("text", "steps"), [("010", 10), ("0x10", 16), ("0o10", 8), ("+7", 7), (str(2**63 - 1), 2**63 - 1)])
def test_integers_are_those_of_yaml_1_2(text: str, steps: int) -> None:
    assert load_config(TINY, [f"train.steps={text}"]).train.steps == steps


@pytest.mark.parametrize("text", ["1_000", "1:30", "2026-01-31", "yes", "1.0", "0b1"])
def test_what_is_an_integer_in_yaml_1_1_only_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"train\.steps is"):
        load_config(TINY, [f"train.steps={text}"])


@pytest.mark.parametrize(("text", "lr"), [("3e-4", 3e-4), ("1.5E+1", 15.0), (".5", 0.5), ("2.", 2.0), ("1", 1.0)])
def test_floats_are_those_of_yaml_1_2(text: str, lr: float) -> None:
    assert load_config(TINY, [f"train.lr={text}"]).train.lr == lr


def test_only_true_and_false_are_truth_values() -> None:
    config = load_config(TINY, ["log.wandb=off", "log.console=False", "log.norm_cost=true"])
    assert (config.log.wandb, config.log.console, config.log.norm_cost) == ("off", False, True)


def test_an_override_changes_no_mapping_that_an_alias_shares(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(TINY.read_text() + "\nevaluate: &often {interval: 5}\ncheckpoint: *often\n")
    config = load_config(path, ["evaluate.interval=1"])
    assert (config.evaluate.interval, config.checkpoint.interval) == (1, 5)


def test_merge_keys_are_read(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(TINY.read_text() + "\nevaluate: &often {interval: 5}\ncheckpoint: {<<: *often, keep_last: 3}\n")
    config = load_config(path)
    assert (config.checkpoint.interval, config.checkpoint.keep_last) == (5, 3)


def test_a_room_that_is_no_mapping_is_reported_with_what_an_override_wanted_of_it(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(TINY.read_text() + "\nevaluate: 3\n")
    _, problems = parse_config(path, ["evaluate.interval=2"])
    assert {problem.where for problem in problems} == {"evaluate"}


def test_a_refused_field_says_so_to_whoever_reads_it() -> None:
    config, (problem,) = parse_config(TINY, ["model.num_layers=abc"])
    assert config is not None
    assert config.model.hidden_size == 64
    with pytest.raises(UserError) as raised:
        config.model.num_params()
    assert raised.value.problems == (problem,)


def test_a_wrong_number_of_heads_is_reported_once() -> None:
    config = "model.num_attention_heads=abc", "model.num_key_value_heads=0"
    assert [problem.where for problem in parse_config(TINY, config)[1]] == ["model.num_attention_heads"]


@pytest.mark.parametrize("value", ["false", "null", "''"])
def test_only_0_means_a_key_value_head_each(value: str) -> None:
    assert load_config(TINY, ["model.num_key_value_heads=0"]).model.num_key_value_heads == 4
    with pytest.raises(UserError, match=r"model\.num_key_value_heads is"):
        load_config(TINY, [f"model.num_key_value_heads={value}"])


@pytest.mark.parametrize("number", [float("inf"), float("nan")])
@pytest.mark.parametrize("field", ["lr", "weight_decay", "adam_eps", "grad_clip"])
def test_numbers_are_finite(field: str, number: float) -> None:
    tiny = load_config(TINY).train.model_dump()
    with pytest.raises(ValidationError, match="finite"):
        TrainConfig(**{**tiny, field: number})
    with pytest.raises(ValidationError, match="finite"):
        IBNormConfig(kind="ibnorm", lam=number)


def _train(**sizes: int) -> TrainConfig:
    return TrainConfig(**{**load_config(TINY).train.model_dump(), **sizes})


@pytest.mark.parametrize("data_parallel", [1, 2, 3])
@pytest.mark.parametrize("most", [1, 3, 8, 100])
def test_a_micro_batch_is_the_largest_divisor_of_a_ranks_share(data_parallel: int, most: int) -> None:
    for share in range(1, 40):
        train = _train(global_batch_size=share * data_parallel, micro_batch_size=most)
        wanted = max(size for size in range(1, most + 1) if share % size == 0)
        assert train.micro_batch(data_parallel) == wanted
        assert train.micro_batches(data_parallel) == share // wanted


def test_the_largest_batch_is_divided_at_once() -> None:
    train = _train(global_batch_size=10**12, micro_batch_size=10**12 - 1)
    assert train.micro_batch(1) == 10**12 // 2


@pytest.mark.parametrize(
    ("typed", "plain"), [("ibnorm_S", "ibnorm_softsign"), ("ibnorm_L", "ibnorm_log"), ("IBNorm_T", "ibnorm_tanh")]
)
def test_the_papers_letters_may_be_capitals(typed: str, plain: str) -> None:
    assert parse_norm(typed) == parse_norm(plain)
    assert parse_norm({"kind": "ibnorm", "compression": typed[-1]}) == parse_norm(plain)


def test_keys_of_a_norm_that_are_no_names_are_refused() -> None:
    with pytest.raises(ValueError, match="ibnorm has no option 1"):
        parse_norm({"kind": "ibnorm", 1: 2})


def test_the_two_copies_of_nearest_are_one() -> None:
    """``norms`` imports nothing of ours, and ``errors`` nothing at all, so each has its own."""
    assert inspect.getsource(errors.nearest) == inspect.getsource(compression.nearest)


class _Asked(dict[str, Any]):
    """A config that notes which of its keys DeepSpeed asks for. Class-wide, because DeepSpeed copies it."""

    names: ClassVar[set[str]] = set()

    def __contains__(self, key: object) -> bool:
        self.names.add(str(key))
        return super().__contains__(key)

    def __getitem__(self, key: str) -> Any:
        self.names.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.names.add(key)
        return super().get(key, default)

    def keys(self) -> Any:
        return self


def test_the_known_keys_are_those_that_deepspeed_reads() -> None:
    from deepspeed.runtime.config import _REMOVED_TOP_LEVEL_CONFIG_KEYS, DeepSpeedConfig

    DeepSpeedConfig(_Asked(train_micro_batch_size_per_gpu=1))
    assert _Asked.names - _REMOVED_TOP_LEVEL_CONFIG_KEYS.keys() == KNOWN
    assert {name.partition(".")[0] for name in OWNED} - KNOWN == {"amp"}  # refused by DeepSpeed too, with less to go on


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_our_own_deepspeed_config_has_known_keys_only(precision: str) -> None:
    from ibnorm_megatron.parallel.engine import deepspeed_config

    layout = Layout(
        offload_optimizer=True, deepspeed={"zero_optimization": {"overlap_comm": False}, "wall_clock_breakdown": True}
    )
    assert list(layout.problems(precision, 1)) == []
    built = deepspeed_config(layout, precision, micro_batch_size=1, micro_batches=2, grad_clip=1.0)
    assert built.keys() <= KNOWN
    assert built["zero_optimization"]["stage"] == 1


def test_a_config_of_values_is_the_config() -> None:
    config = load_config(TINY)
    assert Config.model_validate(config.to_dict()) == config


@pytest.mark.parametrize("what", ["norms", "layers"])
def test_nothing_is_compiled_under_zero_stage_3(what: str) -> None:
    options = [f"model.compile={what}", "parallel.zero_stage=3"]
    with pytest.raises(UserError, match=rf"model\.compile is {what}: ZeRO stage 3"):
        load_config(TINY, options)
    assert load_config(TINY, options[:1]).model.compile == what
