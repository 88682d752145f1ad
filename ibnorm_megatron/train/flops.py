"""How much of the hardware a run uses, by the formula of the PaLM paper (arXiv 2204.02311, appendix B)."""

from __future__ import annotations

from functools import cache

from ..config import Config
from ..parallel.cpu_compat import on_gpu
from .gpus import gpu_of


def model_flops_utilization(config: Config, tokens_per_second: float, ranks: int) -> dict[str, float | None]:
    """``tflops_per_rank`` and ``mfu`` of a run at this speed.

    tflops_per_rank = tokens/s * ModelConfig.flops_per_token / ranks / 1e12, counting what the model needs and nothing
    that recomputation adds; mfu divides it by the peak of one rank's GPU. mfu is None where the peak is not known: on a
    CPU, on other GPUs, and in fp32.
    """
    flops = tokens_per_second * config.model.flops_per_token(config.train.sequence_length) / ranks
    peak = _peak_flops() if config.train.precision != "fp32" else None
    return {"tflops_per_rank": flops / 1e12, "mfu": flops / peak if peak else None}


@cache
def _peak_flops() -> float | None:
    if not on_gpu():
        return None
    import torch

    found = gpu_of(torch.cuda.get_device_name())
    return found and found.half
