"""Training runs whose speed was published, set beside the formula of ``ibnorm estimate``.

Sources, with what their tables say: Narayanan et al., arXiv 2104.04473, table 1 (A100, full recomputation, float16);
Korthikanti et al., arXiv 2205.05198, tables 3 and 5 (A100, selective recomputation with sequence parallelism; its 175B and
530B models interleave three runs of layers on every stage, which is not offered here and makes the bubble a third: the
formula's is divided likewise); the README of NVIDIA/Megatron-LM (GPT-3 on 96 H100 in bf16, 1,152 sequences a step: an MFU of
47 %; it does not say the layout, so this is the formula's quickest that fits).
"""

from __future__ import annotations

from dataclasses import dataclass

from ibnorm_megatron.config import Config
from ibnorm_megatron.estimate.speed import Cluster, speed
from ibnorm_megatron.model.config import ModelConfig
from ibnorm_megatron.parallel.config import Layout, Recompute
from ibnorm_megatron.train.config import TrainConfig
from ibnorm_megatron.train.gpus import GPUS


@dataclass(frozen=True)
class Published:
    """One run.

    Attributes:
        source, name: of the paper, and of the model.
        gpu, gpus: their kind and number.
        shape: layers, hidden size, attention heads.
        tensor, pipeline: ranks.
        batch, micro_batch: sequences of a step, and of a micro-batch.
        recompute: what is computed again.
        teraflops: of a GPU, as the source counts them: with what is computed again or without.
        again: whether it counts what is computed again.
        interleaved: runs of layers on a stage.
    """

    source: str
    name: str
    gpu: str
    gpus: int
    shape: tuple[int, int, int]
    tensor: int
    pipeline: int
    batch: int
    micro_batch: int
    recompute: Recompute
    teraflops: float
    again: bool
    interleaved: int = 1


_NARAYANAN, _KORTHIKANTI, _README = "2104.04473", "2205.05198", "Megatron-LM"


def _scaled(name: str, shape: tuple[int, int, int], tensor: int, pipeline: int, gpus: int, batch: int, tf: float) -> Published:
    micro = _micro(batch, gpus, tensor, pipeline)
    return Published(_NARAYANAN, name, "A100", gpus, shape, tensor, pipeline, batch, micro, "full", tf, True)


def _micro(batch: int, gpus: int, tensor: int, pipeline: int) -> int:
    """The paper does not say micro-batches of its table; 4 without pipeline stages, and 1 with them."""
    return min(4, batch * tensor * pipeline // gpus) if pipeline == 1 else 1


def _present(
    name: str, shape: tuple[int, int, int], pipeline: int, gpus: int, batch: int, micro: int, mfu: float, interleaved: int = 1
) -> Published:
    where = ("A100", gpus, shape, 8, pipeline)
    return Published(_KORTHIKANTI, name, *where, batch, micro, "selective", 312 * mfu, False, interleaved)


RUNS = [
    _scaled("GPT 1.7B", (24, 2304, 24), 1, 1, 32, 512, 137),
    _scaled("GPT 3.6B", (30, 3072, 32), 2, 1, 64, 512, 138),
    _scaled("GPT 7.5B", (36, 4096, 32), 4, 1, 128, 512, 142),
    _scaled("GPT 18B", (40, 6144, 48), 8, 1, 256, 1024, 135),
    _scaled("GPT 39B", (48, 8192, 64), 8, 2, 512, 1536, 138),
    _scaled("GPT 76B", (60, 10240, 80), 8, 4, 1024, 1792, 140),
    _scaled("GPT 146B", (80, 12288, 96), 8, 8, 1536, 2304, 148),
    _scaled("GPT 310B", (96, 16384, 128), 8, 16, 1920, 2160, 155),
    _scaled("GPT 530B", (105, 20480, 128), 8, 35, 2520, 2520, 163),
    _scaled("GPT 1T", (128, 25600, 160), 8, 64, 3072, 3072, 163),
    _present("GPT 22B", (48, 6144, 64), 1, 8, 4, 4, 0.415),
    _present("GPT 175B", (96, 12288, 96), 8, 64, 64, 1, 0.514, 3),
    _present("GPT 530B", (105, 20480, 128), 35, 280, 280, 1, 0.56, 3),
    _present("GPT 1T", (128, 25600, 160), 64, 512, 512, 1, 0.563),
    Published(_README, "GPT-3 175B", "H100", 96, (96, 12288, 96), 4, 6, 1152, 1, "selective", 0.47 * 989, False),
]


def gpt(layers: int, hidden: int, heads: int, dropout: float = 0.0) -> ModelConfig:
    """A GPT of these papers: GELU, biases, LayerNorm, 2,048 tokens, a vocabulary of 51,200."""
    return ModelConfig(
        num_layers=layers,
        hidden_size=hidden,
        num_attention_heads=heads,
        ffn_hidden_size=4 * hidden,
        vocab_size=51200,
        max_sequence_length=2048,
        position_embedding="learned",
        activation="gelu",
        linear_bias=True,
        tie_embeddings=True,
        norm="layernorm",  # type: ignore[arg-type]
        dropout=dropout,
    )


def config_of(run: Published) -> Config:
    """The run as a config of ours."""
    layout = Layout(
        tensor=run.tensor,
        sequence=run.tensor > 1 and run.source != _NARAYANAN,
        pipeline=run.pipeline,
        recompute=run.recompute,
        zero_stage=2 if run.pipeline > 1 else 1,
    )
    train = TrainConfig(
        steps=1, sequence_length=2048, global_batch_size=run.batch, micro_batch_size=run.micro_batch, precision="bf16", lr=1e-4
    )
    return Config(model=gpt(*run.shape), parallel=layout, train=train)


def formula_teraflops(run: Published) -> float:
    """TFLOP/s of a GPU by the formula, counted as the source counts them."""
    config = config_of(run)
    found = speed(config, run.gpus, Cluster(GPUS[run.gpu]))
    flops = found.flops
    if run.again:  # with a second forward pass of every layer: 8 of 6 parts of all but the head
        head = 6 * config.model.vocab_size * config.model.hidden_size * found.tokens
        flops = (flops - head) * 4 / 3 + head
    step = found.step - found.bubble * (1 - 1 / run.interleaved)
    return flops / step / run.gpus / 1e12


THROUGHPUT_HEADS = ["source", "model", "GPUs", "tensor x pipeline x data", "recompute", "TFLOP/s a GPU", "by formula", "error"]


def throughput_lines() -> list[list[str]]:
    """The table's cells."""
    lines = []
    for run in RUNS:
        reckoned = formula_teraflops(run)
        data = run.gpus // (run.tensor * run.pipeline)
        where = [run.source, run.name, f"{run.gpus} {run.gpu}", f"{run.tensor} x {run.pipeline} x {data}", run.recompute]
        lines.append([*where, f"{run.teraflops:.0f}", f"{reckoned:.0f}", f"{100 * (reckoned / run.teraflops - 1):+.0f} %"])
    return lines
