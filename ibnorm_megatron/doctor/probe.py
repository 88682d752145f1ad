"""What only torch can say, asked in a process of its own: ``python -m ibnorm_megatron.doctor.probe``.

It prints a line of JSON for each thing it learns, as it learns it, so that a crash or a hang in one spoils none before it.
Two processes take part, forked before anything touches a GPU: a sum over one process would prove nothing.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

#: Seconds that ranks wait for each other.
_PATIENCE = timedelta(seconds=12)


def _say(what: str, **values: Any) -> None:
    print(json.dumps({"what": what, **values}), flush=True)


def _attempt(what: str, act: Callable[[], dict[str, Any]]) -> None:
    """Do something and say what came of it, a failure included."""
    started = time.perf_counter()
    try:
        values = act()
    except Exception as error:
        line = next(iter(str(error).splitlines()), "")
        _say(what, error=f"{type(error).__name__}: {line}"[:300])
    else:
        _say(what, seconds=time.perf_counter() - started, **values)


def _torch() -> dict[str, Any]:
    import torch
    import torch.distributed as dist

    backends = {name: bool(getattr(dist, f"is_{name}_available")()) for name in ("gloo", "nccl", "mpi")}
    nccl = ".".join(map(str, torch.cuda.nccl.version())) if backends["nccl"] else None
    return {
        "version": torch.__version__,
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
        "backends": backends,
        "nccl": nccl,
    }


def _reduce(backend: str, rank: int, size: int, port: int, device: Any) -> dict[str, Any]:
    """Sum a few numbers over all ranks, and check what comes."""
    import torch
    import torch.distributed as dist

    store = dist.TCPStore("127.0.0.1", port, size, is_master=False, timeout=_PATIENCE)
    dist.init_process_group(
        backend, store=dist.PrefixStore(f"{backend}-{size}", store), rank=rank, world_size=size, timeout=_PATIENCE
    )
    try:
        numbers = torch.arange(1000, dtype=torch.float32, device=device) + rank
        dist.all_reduce(numbers)
        expected = torch.arange(1000, dtype=torch.float32) * size + sum(range(size))
        if not torch.equal(numbers.cpu(), expected):
            raise ArithmeticError("the sum over ranks is wrong")
    finally:
        dist.destroy_process_group()
    return {"ranks": size}


def _gpus() -> dict[str, Any]:
    import torch

    found = []
    for number in range(torch.cuda.device_count()):
        it = torch.cuda.get_device_properties(number)
        free, total = torch.cuda.mem_get_info(number)
        more = {"capability": f"{it.major}.{it.minor}", "free_bytes": free, "total_bytes": total}
        found.append({"name": it.name, **more, "processors": it.multi_processor_count})
    return {"gpus": found, "built_for": torch.cuda.get_arch_list()}


def _kernels() -> dict[str, Any]:
    """What the places that choose kernels answer: of norms, and of attention."""
    from ..model.attention_choice import flash_obstacle
    from ..norms.compression import compression_names, get_compression
    from ..norms.functional import fused_obstacle

    names = [*compression_names()]
    return {
        "norms": {name: fused_obstacle(get_compression(name)) for name in names},
        "learned": fused_obstacle(get_compression("log"), learned=True),
        "attention": {"cpu": flash_obstacle(False, 4), "gpu": flash_obstacle(True, 2)},
    }


def _fused_on_gpu() -> dict[str, Any]:
    """A norm on the first GPU beside the same on the CPU."""
    import torch

    from ..norms import ib_norm

    x = torch.randn(64, 512, generator=torch.Generator().manual_seed(0))
    off = (ib_norm(x.cuda()).cpu() - ib_norm(x)).abs().max().item()
    if off > 1e-3:
        raise ArithmeticError(f"it is off by {off:.2g}")
    return {"off_by": off}


def main() -> int:
    """Say everything, as the first of two processes; the second only takes part in sums."""
    _attempt("torch", _torch)
    import torch
    import torch.distributed as dist

    if not dist.is_gloo_available():
        return 0
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=_PATIENCE)
    sys.stdout.flush()
    other = os.fork()
    if other == 0:
        return _second(store.port)
    try:
        _attempt("gloo", lambda: _reduce("gloo", 0, 2, store.port, "cpu"))
        _attempt("kernels", _kernels)
        _attempt("gpus", _gpus)
        if torch.cuda.is_available() and dist.is_nccl_available():
            size = min(2, torch.cuda.device_count())
            _attempt("nccl", lambda: _reduce("nccl", 0, size, store.port, torch.device("cuda", 0)))
            _attempt("fused", _fused_on_gpu)
        else:
            os.kill(other, 15)
    finally:
        os.waitpid(other, 0)
    return 0


def _second(port: int) -> int:
    """Take part, and say nothing: the first process says how it went."""
    import torch

    code = 0
    try:
        _reduce("gloo", 1, 2, port, "cpu")
        if torch.cuda.device_count() > 1:
            torch.cuda.set_device(1)
            _reduce("nccl", 1, 2, port, torch.device("cuda", 1))
    except Exception:
        code = 1
    os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
