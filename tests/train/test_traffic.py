"""The formula for what a rank sends, against what real processes really send: the same calls and the same bytes."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ibnorm_megatron.config import Config, load_config
from ibnorm_megatron.model.shards import HeldModule, HeldParameter, held_elements, held_modules
from ibnorm_megatron.parallel.messages import Message, Operation, sent_by_group
from ibnorm_megatron.train.traffic import bubble, step_messages
from ibnorm_megatron.train.zero_traffic import gathers

from ..conftest import VOCABULARY
from ..distributed import run_ranks

LLAMA, GPT2 = "tiny_llama", "tiny_gpt2"
TENSOR, SEQUENCE, PIPELINE, CONTEXT = "parallel.tensor=2", "parallel.sequence=true", "parallel.pipeline=2", "parallel.context=2"
BF16, FP16, FULL = "train.precision=bf16", "train.precision=fp16", "parallel.recompute=full"
OFFLOAD = "parallel.offload_optimizer=true"
TO_ALL = "parallel.context_method=all_to_all"
SUB = "model.norm_placement=sub"
WHOLE = "train.micro_batch_size=4"
LEARNED = "model.norm={kind: ibnorm_log, scale: relative, strength: learnable}"
ZERO = [f"parallel.zero_stage={stage}" for stage in range(4)]


def _unlike(name: str, value: int) -> str:
    return f"parallel.deepspeed.zero_optimization.stage3_{name}={value}"


def _no_further_than(elements: int) -> list[str]:
    return [_unlike("max_reuse_distance", elements), _unlike("prefetch_bucket_size", 0)]


#: DeepSpeed keeps weights of up to 100,000 elements whole: the small models here would have no others.
SMALL_TOO = _unlike("param_persistence_threshold", 70)

#: Every norm that says what it exchanges on sharded columns.
MANY_NORMS = (
    "model.norm={default: rmsnorm, layers.0.attn_sub: l2norm, layers.0.mlp_sub: normalnorm, layers.1.attn_sub: derf, "
    "layers.1.mlp_sub: layernorm_scaling, q: {kind: ibnorm_log, scale: relative, strength: learnable}, k: ibnorm_tanh}"
)

#: Overrides by number of processes and name; two micro-batches, unless WHOLE.
CASES: dict[int, dict[str, list[str]]] = {
    2: {
        "tp": [LLAMA, TENSOR, ZERO[0], "model.qk_norm=true"],
        "tp-sp": [LLAMA, TENSOR, SEQUENCE, "model.qk_norm=true", "model.norm=ibnorm_log"],
        "tp-sp-gpt2": [GPT2, TENSOR, SEQUENCE, "model.norm_placement=peri"],
        "tp-sp-bf16": [LLAMA, TENSOR, SEQUENCE, BF16],
        "tp-bf16-whole-full": [LLAMA, TENSOR, BF16, WHOLE, FULL],
        "tp-many-norms": [LLAMA, TENSOR, SUB, "model.qk_norm=full", MANY_NORMS, "model.scale_residual_init=false"],
        "tp-sp-learned-full": [GPT2, TENSOR, SEQUENCE, SUB, "model.qk_norm=full", LEARNED, FULL],
        "tp-sp-batchnorm": [LLAMA, TENSOR, SEQUENCE, SUB, "model.norm=batchnorm"],
        **{f"dp-zero{stage}": [LLAMA, setting] for stage, setting in enumerate(ZERO)},
        **{f"dp-zero{stage}-bf16": [GPT2, ZERO[stage], BF16] for stage in (1, 2, 3)},
        "dp-zero1-bf16-whole": [GPT2, ZERO[1], BF16, WHOLE],
        "dp-zero2-fp16-batchnorm": [LLAMA, ZERO[2], FP16, "model.norm=batchnorm"],
        "dp-zero3-fp16": [LLAMA, ZERO[3], FP16],
        "dp-zero1-unguarded": [LLAMA, ZERO[1], "guard.stop_after=0", "guard.spikes=off"],
        "dp-sent-in-bf16": [LLAMA, ZERO[2], BF16, "parallel.deepspeed.communication_data_type=bf16"],
        "dp-zero2-offload-bf16": [LLAMA, ZERO[2], BF16, OFFLOAD],
        "dp-zero3-offload": [LLAMA, ZERO[3], OFFLOAD],
        "dp-zero3-sharded": [GPT2, ZERO[3], SMALL_TOO, "model.tie_embeddings=false"],
        "dp-zero3-reuse0": [LLAMA, ZERO[3], SMALL_TOO, *_no_further_than(0)],
        "dp-zero3-reuse60k": [LLAMA, ZERO[3], SMALL_TOO, *_no_further_than(60_000)],
        "dp-zero3-reuse60k-full": [LLAMA, ZERO[3], SMALL_TOO, *_no_further_than(60_000), FULL],
        "pp": [LLAMA, PIPELINE, ZERO[1]],
        "pp-tied-bf16": [GPT2, PIPELINE, ZERO[2], BF16],
        "cp-bf16-full": [LLAMA, CONTEXT, BF16, FULL],
        "cp-to-all-selective": [LLAMA, CONTEXT, TO_ALL, "parallel.recompute=selective"],
    },
    4: {
        "tp-sp-pp": [LLAMA, TENSOR, SEQUENCE, PIPELINE],
        "tp-sp-pp-tied": [GPT2, TENSOR, SEQUENCE, PIPELINE, ZERO[2], FULL],
        "tp-sp-dp-zero3": [LLAMA, TENSOR, SEQUENCE, ZERO[3], SMALL_TOO],
        "tp-sp-dp-zero2-bf16": [LLAMA, TENSOR, SEQUENCE, ZERO[2], BF16],
        "tp-sp-cp": [LLAMA, TENSOR, SEQUENCE, CONTEXT, "model.norm=batchnorm"],
        "tp-cp-to-all": [GPT2, TENSOR, CONTEXT, TO_ALL],
        "pp-dp": [LLAMA, PIPELINE, ZERO[2]],
        "pp4": [GPT2, "parallel.pipeline=4", "model.num_layers=4"],
    },
}  # fmt: skip


def _by_operation(messages: Iterable[Message]) -> dict[tuple[str, Operation], Message]:
    """The messages of each group and operation as one, whatever they carry."""
    together: dict[tuple[str, Operation], list[Message]] = defaultdict(list)
    for message in messages:
        together[message.group, message.operation].append(message)
    return {key: _sum(of_key) for key, of_key in together.items()}


def _sum(messages: list[Message]) -> Message:
    calls = [message.calls for message in messages]
    known = None if None in calls else sum(call for call in calls if call is not None)
    first = messages[0]
    return Message(first.group, "", first.operation, first.ranks, known, sum(message.payload for message in messages))


def _arguments(data: Path | str, runs: Path | str, case: list[str]) -> list[str]:
    model, *overrides = case
    sizes = [f"model.vocab_size={VOCABULARY}", "train.sequence_length=32", "train.global_batch_size=8", "train.steps=3"]
    quietly = [f"data.path={data}", f"run.dir={runs}", "log.console=false"]
    micro = [] if any("micro_batch_size" in override for override in overrides) else ["train.micro_batch_size=2"]
    return [f"configs/{model}.yaml", *sizes, *quietly, *micro, *overrides]


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory, prepared: Path) -> dict[str, list[dict[str, Any]]]:
    """What each rank sent and holds, by case."""
    folder = tmp_path_factory.mktemp("traffic")
    found = {}
    for processes, of_size in CASES.items():
        path = folder / f"cases{processes}.json"
        path.write_text(json.dumps({name: _arguments(prepared, folder / "run", case) for name, case in of_size.items()}))
        run_ranks(processes, "tests.workers.traffic", path, folder, timeout=600)
        for name in of_size:
            found[name] = [json.loads((folder / f"{name}-{rank}.json").read_text()) for rank in range(processes)]
    return found


def _every_case() -> Iterator[Any]:
    for processes, of_size in CASES.items():
        for name in of_size:
            yield pytest.param(processes, name, id=f"{processes}-{name}")


def _config(processes: int, name: str) -> Config:
    return load_config(*_split(_arguments("nowhere", "nowhere", CASES[processes][name])), world_size=processes)


def _split(arguments: list[str]) -> tuple[str, list[str]]:
    return arguments[0], arguments[1:]


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "name"), _every_case())
def test_what_is_sent_is_what_the_formula_says(counted: dict[str, list[dict[str, Any]]], processes: int, name: str) -> None:
    config = _config(processes, name)
    for rank, found in enumerate(counted[name]):
        wanted = _by_operation(step_messages(config, processes, found["stage"]))
        sent = _by_operation(Message(**message) for message in found["messages"])
        for key in wanted.keys() | sent.keys():
            assert key in wanted and key in sent, f"rank {rank}: {key} is {sent.get(key)}, the formula says {wanted.get(key)}"
            assert sent[key].payload == wanted[key].payload, f"rank {rank}: {key}"
            assert sent[key].ranks == wanted[key].ranks
            assert wanted[key].calls in (None, sent[key].calls), f"rank {rank}: {key}"


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "name"), _every_case())
def test_a_rank_holds_what_it_is_said_to(counted: dict[str, list[dict[str, Any]]], processes: int, name: str) -> None:
    config = _config(processes, name)
    for found in counted[name]:
        assert held_elements(held_modules(config.model, config.parallel, found["stage"])) == found["held"]


def test_a_ring_passes_on_all_but_its_own_share() -> None:
    def sent(operation: Any, ranks: int = 4) -> float:
        return Message("tensor", "", operation, ranks, 1, 1000).sent

    assert (sent("all_reduce"), sent("all_gather"), sent("reduce_scatter"), sent("all_to_all")) == (1500, 750, 750, 750)
    assert (sent("send"), sent("all_reduce", 2)) == (1000, 1000)


def test_messages_are_added_up_by_operation_and_group() -> None:
    messages = [Message("model", "a", "all_reduce", 2, 1, 10), Message("tensor", "b", "all_gather", 2, 3, 20)]
    messages += [Message("tensor", "c", "all_gather", 2, None, 4), Message("tensor", "d", "all_reduce", 2, 1, 0)]
    assert _by_operation(messages)["tensor", "all_gather"] == Message("tensor", "", "all_gather", 2, None, 24)
    assert list(sent_by_group(messages).items()) == [("tensor", 12.0), ("model", 10.0)]


def test_sizes_of_a_published_model_by_hand() -> None:
    """LLaMA 7B on 8 GPUs, tensor and sequence parallel over 2, micro-batches of 1 x 2048 tokens, ZeRO 1 over 4 replicas."""
    overrides = ["parallel.tensor=2", "parallel.sequence=true", "train.global_batch_size=8", "train.micro_batch_size=1"]
    config = load_config("configs/llama_7b.yaml", [*overrides, "train.sequence_length=2048"], world_size=8)
    hidden = 2048 * 4096 * 2  # bytes of a micro-batch's hidden states in bf16
    found = {(message.what, message.operation): message for message in step_messages(config, 8)}
    assert config.train.micro_batches(4) == 2
    assert found["activations of layers", "all_gather"].payload == 2 * 32 * 6 * hidden
    assert found["activations of layers", "reduce_scatter"].payload == 2 * 32 * 4 * hidden
    partial = found["partial gradients", "all_reduce"]
    assert (partial.calls, partial.payload) == (2 * 65, 2 * 65 * 4096 * 4)
    held = (6_738_415_616 - 65 * 4096) // 2 + 65 * 4096
    assert found["gradients", "all_reduce"].payload == 4 * held
    assert found["gradients", "all_reduce"].sent == 2 * 3 / 4 * 4 * held
    assert found["updated weights", "all_gather"].payload == 2 * held


def test_the_stage_that_sends_most_is_shown() -> None:
    """Of four stages an inner one sends both ways."""
    overrides = ["parallel.pipeline=4", "model.num_layers=4", "model.tie_embeddings=false"]
    config = load_config("configs/tiny_gpt2.yaml", overrides, world_size=4)
    whats = {message.what for message in step_messages(config, 4) if message.group == "pipeline"}
    assert whats == {"hidden states", "gradients of hidden states"}
    assert bubble(config, 4) == pytest.approx(3 / 5)


def test_nothing_is_sent_by_one_process() -> None:
    assert step_messages(load_config("configs/tiny_llama.yaml", world_size=1), 1) == []


def test_weights_are_gathered_anew_where_too_much_lies_between() -> None:
    """Four modules of 10 elements, there and back: the first is used again after 60 others, the last at once."""
    modules = [HeldModule(str(n), n if n < 3 else None, (HeldParameter(10),)) for n in range(4)]
    assert gathers(modules, False, 0) == [2, 2, 2, 2]
    assert gathers(modules, False, 1) == [2, 2, 2, 1]
    assert gathers(modules, False, 61) == [1, 1, 1, 1]
    assert gathers(modules, False, 60) == [2, 1, 1, 1]
    assert gathers(modules, True, 0) == [3, 3, 3, 2]
