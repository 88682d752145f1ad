"""Does a norm give the same when its rows or its columns are spread over two processes? Real processes, over gloo."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from ..norms.base import Norm
from ..norms.config import NormConfig, parse_norm
from ..plugins import load_plugins
from .finding import Finding

_RANKS, _ROWS, _WIDTH = 2, 6, 24
_BOUND = 1e-10
_FIRST_ERROR = "first_error.txt"


class RankError(Exception):
    """What the code under test raised on a rank, as text."""


_SAID = {
    "tokens": "the same with tokens spread over ranks (sequence parallel)",
    "columns": "the same with columns spread over ranks (inside a sub-layer)",
}


def check_sharding(configs: Sequence[NormConfig], plugins: Sequence[str] = ()) -> Iterator[list[Finding]]:
    """Output and every gradient with tokens, and then columns, spread over two ranks, against one rank with all of them.

    Yields:
        The findings of each config, in turn. All are checked by the same two processes.

    Raises:
        RankError: the code under test raised an error.
    """
    with tempfile.TemporaryDirectory() as folder:
        arguments = (folder, [config.model_dump(mode="json", by_alias=True) for config in configs], list(plugins))
        try:
            mp.spawn(_rank, args=arguments, nprocs=_RANKS)
        except (mp.ProcessRaisedException, mp.ProcessExitedException) as error:
            first = Path(folder) / _FIRST_ERROR
            if first.exists():
                raise RankError(first.read_text()) from error
            raise
        found: list[dict[str, dict[str, float]]] = json.loads((Path(folder) / "found.json").read_text())
    for of_config in found:
        yield [_finding(_SAID[name], errors) for name, errors in of_config.items()]


def _finding(what: str, errors: dict[str, float]) -> Finding:
    if not errors:
        return Finding(what, None, "not checked: the norm says that it cannot")
    worst = max(errors, key=errors.__getitem__)
    kept = all(error <= _BOUND for error in errors.values())
    return Finding(what, kept, f"{worst} is {errors[worst]:.1e} off, of {len(errors)} results")


def _rank(rank: int, folder: str, norms: list[dict[str, Any]], plugins: list[str]) -> None:
    try:
        _compare_all(rank, folder, norms, plugins)
    except Exception as error:
        # The other rank loses its peer for it, once this process ends, and may be the first whose error is fetched.
        with contextlib.suppress(FileExistsError), open(Path(folder) / _FIRST_ERROR, "x") as file:
            file.write(" ".join(f"{type(error).__name__}: {error}".split()))
        raise
    # Gloo's threads may drop the last collective's tensors only now. If Python ended by itself meanwhile they would abort: the
    # group outlives its destruction, since modules that PyTorch imports late have it as a default argument.
    os._exit(0)


def _compare_all(rank: int, folder: str, norms: list[dict[str, Any]], plugins: list[str]) -> None:
    torch.set_num_threads(1)
    assert not list(load_plugins(plugins))
    store = dist.FileStore(str(Path(folder) / "store"), _RANKS)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=_RANKS, timeout=timedelta(minutes=2))
    found = [
        {
            "tokens": _compare(config, rank, columns=False),
            "columns": _compare(config, rank, columns=True) if config.sharded_columns else {},
        }
        for config in map(parse_norm, norms)
    ]
    if rank == 0:
        (Path(folder) / "found.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def _compare(config: NormConfig, rank: int, *, columns: bool) -> dict[str, float]:
    """Largest relative error over the ranks of y, dx and every parameter's gradient."""
    generator = torch.Generator().manual_seed(0)
    x, dy = (torch.randn(_ROWS, _WIDTH, generator=generator, dtype=torch.float64) + 0.5 for _ in range(2))
    whole = config.build(_WIDTH).double().eval()
    with torch.no_grad():
        for parameter in whole.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    part = _WIDTH // _RANKS if columns else _ROWS // _RANKS
    mine = (slice(None), slice(rank * part, (rank + 1) * part)) if columns else (slice(rank * part, (rank + 1) * part),)
    place: dict[str, Any] = {"config": SimpleNamespace(params_dtype=torch.float64, sequence_parallel=not columns)}
    if columns:
        place["process_group"] = dist.group.WORLD
    split = config.build(_WIDTH, **place).double().eval()
    _copy(whole, split, mine)

    leaf, local = x.clone().requires_grad_(), x[mine].clone().requires_grad_()
    y, y_local = whole(leaf), split(local)
    y.backward(dy)
    y_local.backward(dy[mine])
    assert leaf.grad is not None
    assert local.grad is not None
    errors = {"y": _error(y_local, y[mine]), "dx": _error(local.grad, leaf.grad[mine])}
    for (name, ours), reference in zip(split.named_parameters(), whole.parameters(), strict=True):
        errors[f"the gradient of {name}"] = _error(_summed(ours), _slice(ours, reference.grad, mine))
    gathered = [None] * _RANKS
    dist.all_gather_object(gathered, errors)
    return {name: max(of_rank[name] for of_rank in gathered) for name in errors}  # type: ignore[index]


def _copy(whole: Norm, split: Norm, mine: tuple[slice, ...]) -> None:
    with torch.no_grad():
        for ours, reference in zip(split.parameters(), whole.parameters(), strict=True):
            ours.copy_(_slice(ours, reference, mine))


def _slice(parameter: Tensor, logical: Tensor | None, mine: tuple[slice, ...]) -> Tensor:
    assert logical is not None
    return logical[mine[-1]] if getattr(parameter, "tensor_model_parallel", False) else logical


def _summed(parameter: Tensor) -> Tensor:
    """The gradient as training sums it: over the ranks, where a mark says that each has a part."""
    assert parameter.grad is not None
    gradient = parameter.grad.clone()
    if getattr(parameter, "sequence_parallel", False) or getattr(parameter, "partial_over_tensor_parallel", False):
        dist.all_reduce(gradient)
    return gradient


def _error(ours: Tensor, reference: Tensor) -> float:
    if ours.shape != reference.shape:
        return float("inf")
    ours, reference = ours.detach(), reference.detach()
    error = float((ours - reference).norm() / reference.norm().clamp_min(1e-9))
    return error if error == error else float("inf")  # a NaN would be lost in the maximum over ranks
