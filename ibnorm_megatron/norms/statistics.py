"""What goes into a norm and what its compression does to it, as float64 sums over rows, and the figures that follow from them.

Sums of blocks of rows, of micro-batches and of ranks add up, so a figure is of all rows, however they are spread. With d
columns, and c = x - mean(x) of a row for a norm that centres, c = x for one that does not (RMSNorm):

    sigma^2      mean over rows of mean(c^2)
    kurtosis     mean over rows of mean(c^4) / mean(c^2)^2
    crest        mean over rows of max|c| / sqrt(mean(c^2))
    contraction  mean over rows of Var(g(u)) over that of Var(u), where u = c, or c / sqrt(mean(c^2) + eps) on the relative
                 scale, g is the compression with slope 1 at 0, and Var is the mean square where the norm does not centre
    slope        mean of g'(u)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch
import torch.distributed as dist
from torch import Tensor

from .base import Norm
from .plan import Plan

#: A channel is an outlier if its second moment is above the square of this times the median channel's. In units of the
#: median channel, what LLM.int8() (Dettmers et al., arXiv 2208.07339) takes for a magnitude of an outlier.
OUTLIER = 6.0

#: A gain below this in size has nearly switched its column off.
SMALL_GAIN = 0.1

#: Elements of a block of rows in float64: on a CPU, what passes find in the core's cache again; elsewhere, a bound on memory.
_CPU_BLOCK, _BLOCK = 1 << 16, 1 << 22


@dataclass(frozen=True)
class Figures:
    """One site in numbers; None where a norm has no such thing, nan where there is none for these rows.

    Attributes:
        std: root of the rows' mean variance, whether the norm centres or not.
        sigma: root of the mean of c^2: std where the norm centres.
        lambda_: strength of the compression, in units of u.
        sigma_over_lambda: root of the mean of u^2 over lambda.
        beyond_lambda: share of elements with |u| > lambda.
        contraction, slope: as above; 1 where nothing is compressed away.
        kurtosis, crest: as above; 3 and about sqrt(2 ln d) for Gaussian rows.
        crest_max: the largest row's.
        outliers: number of outlier channels, see :data:`OUTLIER`.
        outlier_energy: their share of the sum of c^2.
        largest_channel: the channel with the largest second moment, from 0.
        gamma_mean, gamma_std, gamma_min, gamma_max: of the gain over columns.
        gamma_small: share of gains below :data:`SMALL_GAIN` in size.
    """

    std: float
    sigma: float
    lambda_: float | None
    sigma_over_lambda: float | None
    beyond_lambda: float | None
    contraction: float | None
    slope: float | None
    kurtosis: float
    crest: float
    crest_max: float
    outliers: int
    outlier_energy: float
    largest_channel: int
    gamma_mean: float | None
    gamma_std: float | None
    gamma_min: float | None
    gamma_max: float | None
    gamma_small: float | None

    def plain(self) -> dict[str, float | int | None]:
        """By name, as a record holds them: ``lambda`` without the underscore."""
        return {field.name.rstrip("_"): getattr(self, field.name) for field in fields(self)}


#: What is summed over rows, in this order.
_SUMS = ("rows", "shaped", "variance", "square", "kurtosis", "crest", "input", "output", "beyond", "slope", "gains")

#: What ranks take the largest of. Lambda is the same on all that have it, and 0 elsewhere.
_PEAKS = ("crest", "lambda")


class NormSums:
    """Sums over the rows of one norm's input, on one rank or, added up, on all of them.

    Args:
        width: columns of a whole row.
        sums: float64 ``[size(width)]``, to be added up over ranks; zeros to begin with.
        peaks: float64 ``[num_peaks()]``, of which ranks take the maximum; zeros to begin with.
    """

    def __init__(self, width: int, sums: Tensor, peaks: Tensor) -> None:
        assert sums.shape == (self.size(width),) and peaks.shape == (self.num_peaks(),)
        # The scalars, then a number for each channel, and for each column's gain.
        self.width, self.sums, self.peaks = width, sums, peaks

    @classmethod
    def zeros(cls, width: int, device: torch.device | None = None) -> NormSums:
        """Of no rows yet."""
        empty = [torch.zeros(size, dtype=torch.float64, device=device) for size in (cls.size(width), cls.num_peaks())]
        return cls(width, *empty)

    @staticmethod
    def size(width: int) -> int:
        """Numbers in ``sums``."""
        return len(_SUMS) + 2 * width

    @staticmethod
    def num_peaks() -> int:
        """Numbers in ``peaks``."""
        return len(_PEAKS)

    def _add(self, name: str, value: Tensor | float) -> None:
        self.sums[_SUMS.index(name)] += value

    def _raise(self, name: str, value: Tensor | float) -> None:
        place = self.peaks[_PEAKS.index(name)]
        torch.maximum(place, torch.as_tensor(value, dtype=place.dtype, device=place.device), out=place)

    @torch.no_grad()
    def add(self, norm: Norm, x: Tensor) -> None:
        """Take in x ``[..., d]``, or this rank's columns of it. Collective over the ranks that hold the other columns."""
        rows = x.detach().reshape(-1, x.shape[-1])
        elements = _CPU_BLOCK if x.device.type == "cpu" and norm.process_group is None else _BLOCK
        for block in rows.split(max(1, elements // norm.hidden_size)):
            self._add_block(norm, block.double())

    @torch.no_grad()
    def add_gain(self, norm: Norm) -> None:
        """Take in this rank's columns of the norm's gain; of ranks with the same columns one does it."""
        if (gain := norm.gain()) is not None:
            self.sums[len(_SUMS) + self.width :][_columns(norm)] += gain.detach().double()
            self._add("gains", norm.local_size)

    def _add_block(self, norm: Norm, x: Tensor) -> None:
        (mean,) = _row_means(norm, x.sum(-1))
        deviation = x - mean.unsqueeze(-1)
        c = deviation if norm.center else x
        square_of = c.square()
        sums = [_square_sum(deviation), square_of.sum(-1), _square_sum(square_of)]
        variance, square, fourth = _row_means(norm, *sums)
        largest = square_of.amax(-1)
        if norm.process_group is not None:
            dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=norm.process_group)
        if norm.counts_rows or norm.process_group is not None:
            self.sums[len(_SUMS) : len(_SUMS) + self.width][_columns(norm)] += square_of.sum(0)
        plan = norm.current_compression()
        compressed = None if plan is None else _compressed(norm, plan, c, square)
        if not norm.counts_rows:
            return
        shaped = square != 0  # a row of zeros has no shape, and what is not finite is to be seen
        crest = (largest[shaped] / square[shaped]).sqrt()
        self._add("rows", len(x))
        self._add("shaped", shaped.sum())
        self._add("variance", variance.sum())
        self._add("square", square.sum())
        self._add("kurtosis", (fourth[shaped] / square[shaped].square()).sum())
        self._add("crest", crest.sum())
        if len(crest):
            self._raise("crest", crest.max())
        for name, value in (compressed or {}).items():
            self._add(name, value.sum())
        if plan is not None and plan.compression.of_ratio:
            self._raise("lambda", plan.lam)

    def figures(self) -> Figures:
        """What follows from the sums over all ranks."""
        total = dict(zip(_SUMS, self.sums.tolist(), strict=False))
        crest_max, strength = self.peaks.tolist()
        crest = _quotient(total["crest"], total["shaped"])
        rows, shaped, compressed = total["rows"], total["shaped"], total["input"] != 0
        channels = self.sums[len(_SUMS) : len(_SUMS) + self.width].cpu()
        outlying = channels > OUTLIER**2 * torch.quantile(channels, 0.5)
        return Figures(
            std=_quotient(total["variance"], rows) ** 0.5,
            sigma=_quotient(total["square"], rows) ** 0.5,
            lambda_=strength or None,
            sigma_over_lambda=_quotient(total["input"], rows) ** 0.5 / strength if strength else None,
            beyond_lambda=_quotient(total["beyond"], rows) if strength else None,
            contraction=total["output"] / total["input"] if compressed else None,
            slope=_quotient(total["slope"], rows) if compressed else None,
            kurtosis=_quotient(total["kurtosis"], shaped),
            crest=crest,
            crest_max=crest_max if crest == crest else crest,  # ranks may lose a nan as they take the maximum
            outliers=int(outlying.sum()),
            outlier_energy=_quotient(float(channels[outlying].sum()), float(channels.sum())),
            largest_channel=int(channels.argmax()),
            **self._gain_figures(total["gains"]),
        )

    def _gain_figures(self, columns: float) -> dict[str, float | None]:
        if columns != self.width:
            return dict.fromkeys(("gamma_mean", "gamma_std", "gamma_min", "gamma_max", "gamma_small"))
        gain = self.sums[len(_SUMS) + self.width :].cpu()
        return {
            "gamma_mean": float(gain.mean()),
            "gamma_std": float(gain.std(correction=0)),
            "gamma_min": float(gain.min()),
            "gamma_max": float(gain.max()),
            "gamma_small": float((gain.abs() < SMALL_GAIN).double().mean()),
        }


def _columns(norm: Norm) -> slice:
    """Which columns of a whole row this rank holds."""
    first = 0 if norm.process_group is None else dist.get_rank(norm.process_group) * norm.local_size
    return slice(first, first + norm.local_size)


def _compressed(norm: Norm, plan: Plan, c: Tensor, square: Tensor) -> dict[str, Tensor]:
    """What compressing rows c ``[n, d]`` of mean square ``square`` makes of each, ``[n]`` by the name of its sum."""
    ratio = (square + plan.eps).rsqrt() if plan.relative else torch.ones_like(square)
    u = (c * ratio.unsqueeze(-1)).float()  # the curve in float32, as norms compute it, and its sums in float64
    size = u.abs()
    f = plan.compression.f(size, plan.lam)
    slope = plan.compression.slope(size, plan.lam).sum(-1, dtype=torch.float64)
    beyond = (size > plan.lam).sum(-1).double()
    g = torch.copysign(f, u).double()
    mean, of_square, of_slope, of_beyond = _row_means(norm, g.sum(-1), _square_sum(g), slope, beyond)
    variance = of_square - mean.square() if plan.center else of_square
    return {
        "input": square * ratio.square(),  # the mean of u is 0 where the norm centres
        "output": variance * plan.gain**2,
        "slope": of_slope * plan.gain,
        "beyond": of_beyond,
    }


def _square_sum(rows: Tensor) -> Tensor:
    """The sum of squares of each row ``[n, d]``."""
    return torch.linalg.vecdot(rows, rows)


def _row_means(norm: Norm, *sums: Tensor) -> Iterator[Tensor]:
    """Means over whole rows from several sums over this rank's columns, ``[n]`` each, in one message if columns are spread."""
    together = torch.stack(sums)
    if norm.process_group is not None:
        dist.all_reduce(together, group=norm.process_group)
    return iter(together / norm.hidden_size)


def _quotient(a: float, b: float) -> float:
    return a / b if b else float("nan")
