"""Fitting a small module by minibatches, stopped where held-out rows get worse. What probes and critics share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .observations import CHUNK, Rows

#: Bytes in float32 up to which the rows of a fit are kept in memory; beyond they are read batch by batch.
RESIDENT_BYTES = 1 << 28


@dataclass(frozen=True)
class Schedule:
    """How long and how fast.

    Attributes:
        rate: Adam's first learning rate; it falls to 0 as a cosine.
        epochs: passes over the training rows, at most.
        least_steps: as many steps as this are taken where epochs would give fewer.
        batch: rows a step.
        looks: how often the rows to choose by are evaluated.
        patience: looks without a new best after which the fit ends.
    """

    rate: float
    epochs: int = 20
    least_steps: int = 400
    batch: int = 256
    looks: int = 40
    patience: int = 8


class Whitened:
    """Rows in coordinates in which some of them have mean 0 and no two columns correlate.

    It is an affine map, so what a linear map or a network can read stays the same; gradient descent takes steps of one size
    in all directions, and activations differ by orders of magnitude from one to another.

    Args:
        rows: all rows.
        of: numbers of the rows that mean and covariance are computed from.
        add: noise that is added to rows with these numbers before anything else.
    """

    def __init__(self, rows: Rows, of: Tensor, add: Callable[[Tensor, Tensor], Tensor] | None = None) -> None:
        self._rows, self._add = rows, add
        self.n, self.d, self.device = rows.n, rows.d, rows.device
        self._kept: Tensor | None = None
        if rows.n * rows.d * 4 <= RESIDENT_BYTES:
            self._kept = self._read(torch.arange(rows.n))
        self._mean, self._map = self._moments(of)
        if self._kept is not None:
            self._kept = (self._kept - self._mean) @ self._map

    def take(self, index: Tensor) -> Tensor:
        """The whitened rows of these numbers ``[len(index), d]``."""
        if self._kept is not None:
            return self._kept[index.to(self.device)]
        return (self._read(index) - self._mean) @ self._map

    def _read(self, index: Tensor) -> Tensor:
        rows = self._rows.take(index)
        return self._add(index, rows) if self._add else rows

    def _moments(self, of: Tensor) -> tuple[Tensor, Tensor]:
        """The mean ``[d]`` and the map ``[d, d]``."""
        total = torch.zeros(self.d, dtype=torch.float64, device=self.device)
        for part in self._parts(of):
            total += part.sum(0)
        mean = total / len(of)
        square = torch.zeros(self.d, self.d, dtype=torch.float64, device=self.device)
        for part in self._parts(of):
            square += (part - mean).T @ (part - mean)
        # Columns to variance 1 first: an outlier column is a thousand times the others. One that never changes stays at 0.
        deviations = (square.diagonal() / len(of)).sqrt()
        scales = torch.where(deviations > 1e-6 * mean.abs(), 1 / deviations, torch.zeros_like(deviations))
        variances, directions = torch.linalg.eigh(square / len(of) * torch.outer(scales, scales))
        # Directions without variance hold rounding errors, which must not be blown up to the size of the others.
        variances = variances.clamp(min=0) + 1e-6 * variances[-1] + torch.finfo(torch.float64).tiny
        return mean.float(), (scales[:, None] * directions / variances.sqrt()).float()

    def _parts(self, of: Tensor) -> Iterator[Tensor]:
        for index in of.split(max(1, CHUNK // self.d)):
            yield (self._kept[index.to(self.device)] if self._kept is not None else self._read(index)).double()


def fit(
    module: nn.Module,
    loss: Callable[[Tensor], Tensor],
    judge: Callable[[], float],
    train: Tensor,
    schedule: Schedule,
    seed: int,
) -> float:
    """Train a module in place and leave it as it was at its best look; the look before the first step is one of them.

    Args:
        loss: of the rows with these numbers, to descend.
        judge: the loss on rows that are held out for it, by the module as it is now, in evaluation mode.
        train: numbers of the rows to train on.
        seed: of the order of rows.

    Returns:
        The best judgement.
    """
    generator = torch.Generator().manual_seed(seed)
    batch = min(schedule.batch, len(train))
    each = max(1, len(train) // batch)
    steps = max(schedule.least_steps, schedule.epochs * each)
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=schedule.rate)
    best, kept, since = judge(), _copy(module), 0
    order = train[torch.randperm(len(train), generator=generator)]
    for step in range(1, steps + 1):
        place = (step - 1) % each
        if place == 0 and step > 1:
            order = train[torch.randperm(len(train), generator=generator)]
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate * 0.5 * (1 + math.cos(math.pi * (step - 1) / steps))
        optimizer.zero_grad(set_to_none=True)
        loss(order[place * batch : (place + 1) * batch]).backward()
        optimizer.step()
        if step % max(1, steps // schedule.looks) == 0 or step == steps:
            found = judge()
            since += 1
            if found < best:
                best, kept, since = found, _copy(module), 0
            if since >= schedule.patience:
                break
    module.load_state_dict(kept)
    return best


def _copy(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}
