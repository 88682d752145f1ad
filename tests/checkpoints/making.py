"""Checkpoints of made-up tensors, written as ranks of any layout would write them."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ibnorm_megatron.checkpoints.reader import tensor_record
from ibnorm_megatron.checkpoints.record import Run
from ibnorm_megatron.checkpoints.writer import Part, write_part, write_whole
from ibnorm_megatron.parallel.optimizer_state import KINDS
from ibnorm_megatron.parallel.sharding import Sharding

HEAD: dict[str, Any] = {
    "format": "ibnorm_megatron checkpoint",
    "version": 1,
    "step": 7,
    "samples": 56,
    "tokens": 3584,
    "optimizer_steps": 7,
    "loss_scale": {},
    "kinds": list(KINDS),
    "config": {"train": {"steps": 10}},
    "card": {"norm": "ibnorm_log", "seed": 1},
    "callbacks": {"Summary": {"seconds": 1.5}},
}


def logical_tensors(shardings: dict[str, Sharding], seed: int = 0) -> dict[str, dict[str, Tensor]]:
    """By kind and name, tensors of random numbers."""
    generator = torch.Generator().manual_seed(seed)
    return {kind: {name: torch.randn(s.shape, generator=generator) for name, s in shardings.items()} for kind in KINDS}


def write_checkpoint(
    folder: Path,
    shardings: dict[str, Sharding],
    tensors: dict[str, dict[str, Tensor]],
    *,
    ranks: int = 1,
    replicas: int = 1,
    buffers: dict[str, tuple[Tensor, Sharding]] | None = None,
    seed: int = 0,
    **said: Any,
) -> None:
    """As ``ranks`` tensor ranks times ``replicas`` write it, which cut every shard at random places; ``said`` is recorded."""
    cuts = random.Random(seed)  # noqa: S311
    parts = [Part(rank=rank, tensor_rank=rank % ranks) for rank in range(ranks * replicas)]
    for name, sharding in shardings.items():
        for tensor_rank in range(ranks if sharding.dim is not None else 1):
            shards = {kind: sharding.take(tensors[kind][name], tensor_rank, ranks).reshape(-1) for kind in KINDS}
            elements = shards["weight"].numel()
            ends = [0, *sorted(cuts.randint(0, elements) for _ in range(replicas - 1)), elements]
            for replica, (start, end) in enumerate(itertools.pairwise(ends)):
                if start < end:
                    part = parts[replica * ranks + tensor_rank]
                    part.runs[name] = Run(start=start, length=end - start)
                    part.parameters[name] = tensor_record(sharding)
                    part.tensors |= {f"{kind}/{name}": shard[start:end].clone() for kind, shard in shards.items()}
    for name, (whole, sharding) in (buffers or {}).items():
        for tensor_rank in range(ranks if sharding.dim is not None else 1):
            part = parts[tensor_rank]
            part.buffers[name] = tensor_record(sharding)
            part.tensors[f"buffer/{name}"] = sharding.take(whole, tensor_rank, ranks).clone()
    for part in parts:
        part.tensors["random/torch"] = torch.full((3,), part.rank, dtype=torch.uint8)
        write_part(folder, part)
    layout = {"world_size": len(parts), "tensor": ranks, "pipeline": 1, "context": 1, "data": replicas}
    write_whole(folder, len(parts), {**HEAD, "layout": layout, **said})
