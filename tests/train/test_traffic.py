"""The formula for what a rank sends, against what real processes really send: the same calls and the same bytes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ibnorm_megatron.config import Config, load_config
from ibnorm_megatron.model.shards import HeldModule, HeldParameter, held_elements, held_modules
from ibnorm_megatron.parallel.messages import Message, by_operation, sent_by_group
from ibnorm_megatron.train.traffic import bubble, step_messages
from ibnorm_megatron.train.zero_traffic import gathers

from ..conftest import VOCABULARY
from ..distributed import torchrun

LLAMA, GPT2 = "tiny_llama", "tiny_gpt2"
TENSOR, SEQUENCE, PIPELINE, CONTEXT = "parallel.tensor=2", "parallel.sequence=true", "parallel.pipeline=2", "parallel.context=2"
BF16, FP16, FULL = "train.precision=bf16", "train.precision=fp16", "parallel.recompute=full"
TO_ALL = "parallel.context_method=all_to_all"
SUB = "model.norm_placement=sub"
WHOLE = "train.micro_batch_size=4"
LEARNED = "model.norm={kind: ibnorm_log, scale: relative, strength: learnable}"
ZERO = [f"parallel.zero_stage={stage}" for stage in range(4)]


def _unlike(name: str, value: int) -> str:
    return f"parallel.deepspeed.zero_optimization.stage3_{name}={value}"


#: DeepSpeed keeps weights of up to 100,000 elements whole: the small models here would have no others.
SMALL_TOO = _unlike("param_persistence_threshold", 70)

#: Overrides by number of processes and name; two micro-batches, unless WHOLE.
CASES: dict[int, dict[str, list[str]]] = {
    2: {
        "tp": [LLAMA, TENSOR, ZERO[0], "model.qk_norm=true"],
        "tp-sp": [LLAMA, TENSOR, SEQUENCE, "model.qk_norm=true", "model.norm=ibnorm_log"],
        "tp-sp-gpt2": [GPT2, TENSOR, SEQUENCE, "model.norm_placement=peri"],
        "tp-sp-bf16": [LLAMA, TENSOR, SEQUENCE, BF16],
        "tp-bf16-whole": [LLAMA, TENSOR, BF16, WHOLE],
        "tp-full": [LLAMA, TENSOR, FULL],
        "tp-sp-full": [GPT2, TENSOR, SEQUENCE, FULL],
        "tp-sp-selective": [LLAMA, TENSOR, SEQUENCE, "parallel.recompute=selective"],
        "tp-sharded-norms": [LLAMA, TENSOR, SUB, "model.qk_norm=full", "model.norm=ibnorm_log"],
        "tp-sp-sharded-norms-full": [LLAMA, TENSOR, SEQUENCE, SUB, "model.qk_norm=full", LEARNED, FULL],
        "tp-sharded-derf": [LLAMA, TENSOR, SEQUENCE, SUB, "model.norm=derf"],
        "tp-sharded-normalnorm": [LLAMA, TENSOR, SUB, "model.norm=normalnorm"],
        "tp-sharded-l2norm": [LLAMA, TENSOR, SUB, "model.norm=l2norm"],
        "tp-sp-batchnorm": [LLAMA, TENSOR, SEQUENCE, SUB, "model.norm=batchnorm"],
        **{f"dp-zero{stage}": [LLAMA, setting] for stage, setting in enumerate(ZERO)},
        **{f"dp-zero{stage}-bf16": [GPT2, ZERO[stage], BF16] for stage in (1, 2, 3)},
        **{f"dp-zero{stage}-bf16-whole": [GPT2, ZERO[stage], BF16, WHOLE] for stage in (1, 2, 3)},
        **{f"dp-zero{stage}-fp16": [LLAMA, ZERO[stage], FP16] for stage in (2, 3)},
        "dp-zero1-fp16-whole": [LLAMA, ZERO[1], FP16, WHOLE],
        "dp-batchnorm": [LLAMA, "model.norm=batchnorm"],
        "dp-sent-in-bf16": [LLAMA, ZERO[2], BF16, "parallel.deepspeed.communication_data_type=bf16"],
        "dp-zero3-sharded": [LLAMA, ZERO[3], SMALL_TOO],
        "dp-zero3-sharded-gpt2": [GPT2, ZERO[3], SMALL_TOO, "model.tie_embeddings=false"],
        **{
            f"dp-zero3-reuse{reuse}{'-full' if full else ''}": [
                LLAMA, ZERO[3], SMALL_TOO, _unlike("max_reuse_distance", reuse), _unlike("prefetch_bucket_size", 0), *full
            ]
            for reuse in (0, 60_000, 130_000) for full in ([], [FULL])
        },
        **{f"pp-zero{stage}": [LLAMA, PIPELINE, ZERO[stage]] for stage in (1, 2)},
        "pp-tied-bf16": [GPT2, PIPELINE, ZERO[2], BF16],
        "cp": [LLAMA, CONTEXT],
        "cp-bf16-full": [LLAMA, CONTEXT, BF16, FULL],
        "cp-selective": [LLAMA, CONTEXT, "parallel.recompute=selective"],
        "cp-to-all": [LLAMA, CONTEXT, TO_ALL],
        "cp-to-all-selective": [LLAMA, CONTEXT, TO_ALL, "parallel.recompute=selective"],
    },
    4: {
        "tp-sp-pp": [LLAMA, TENSOR, SEQUENCE, PIPELINE],
        "tp-sp-pp-tied": [GPT2, TENSOR, SEQUENCE, PIPELINE, ZERO[2], FULL],
        "tp-sp-dp-zero3": [LLAMA, TENSOR, SEQUENCE, ZERO[3], SMALL_TOO],
        "tp-sp-dp-zero2-bf16": [LLAMA, TENSOR, SEQUENCE, ZERO[2], BF16],
        "tp-sp-dp-zero1-bf16": [LLAMA, TENSOR, SEQUENCE, ZERO[1], BF16],
        "tp-dp-zero0": [GPT2, TENSOR, ZERO[0]],
        "tp-sp-cp": [LLAMA, TENSOR, SEQUENCE, CONTEXT, "model.norm=batchnorm"],
        "tp-cp-to-all": [GPT2, TENSOR, CONTEXT, TO_ALL],
        "pp-dp": [LLAMA, PIPELINE, ZERO[2]],
        "pp-cp": [GPT2, PIPELINE, CONTEXT],
        "pp4": [GPT2, "parallel.pipeline=4", "model.num_layers=4"],
    },
}  # fmt: skip


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
        torchrun(processes, "-m", "tests.workers.traffic", path, folder, timeout=600)
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
        wanted = by_operation(step_messages(config, processes, found["stage"]))
        sent = by_operation(Message(**message) for message in found["messages"])
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
