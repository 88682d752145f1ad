"""How much of the hardware a run uses, by the formula of the PaLM paper (arXiv 2204.02311, appendix B)."""

from __future__ import annotations

from functools import cache

from ..config import Config
from ..parallel.cpu_compat import on_gpu

#: Dense bf16/fp16 tensor-core peak in FLOP/s, without sparsity, from NVIDIA's data sheets (SXM parts).
_PEAK = {"A100": 312e12, "H100": 989e12, "H200": 989e12, "B200": 2250e12}


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

    name = torch.cuda.get_device_name()
    return next((peak for model, peak in _PEAK.items() if model in name), None)
