"""What rounding activations to few bits costs, after training: loss with fake-quantized activations less loss without.

A value x becomes s q(x / s). Integers are symmetric, q rounds to the nearest of -(2^(b-1) - 1) ... 2^(b-1) - 1, and s is the
largest magnitude over that last integer (Jacob et al., arXiv 1712.05877, without a zero point). fp8 is e4m3, whose largest
number is 448 (Micikevicius et al., arXiv 2209.05433). The largest magnitude is that of a token's row (``token``), or of a
channel on calibration text that is none of what is evaluated (``channel``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import torch
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from torch import Tensor, nn

from ..lab.results import Estimate
from ..model.norm_slots import NormedRowParallelLinear, norms_of
from .documents import Documents
from .losses import Losses, evaluate, hooked, on_input, on_output

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

    from ..model.language_model import LanguageModel

Format = Literal["int8", "int4", "int3", "fp8"]
Scaling = Literal["token", "channel"]
Place = Literal["norm", "linear"]

FORMATS: tuple[Format, ...] = get_args(Format)
SCALINGS: tuple[Scaling, ...] = get_args(Scaling)
PLACES: tuple[Place, ...] = get_args(Place)

#: The largest number of each format, in units of s.
_LARGEST: dict[Format, float] = {"int8": 127.0, "int4": 7.0, "int3": 3.0, "fp8": 448.0}


@dataclass(frozen=True)
class Quantized:
    """The price of one way to quantize.

    Attributes:
        place: norm: what norms give. linear: what matrix products are given, which in most places is the same, and besides
            attention's and the activation function's output.
        scaling, format: how.
        layer: of the only layer in which it was done; None for all of them at once.
        rise: nats a label by which the loss rises, with the document bootstrap's interval.
        error: root of the mean square error of the quantized values over their root mean square.
    """

    place: Place
    scaling: Scaling
    format: Format
    layer: int | None
    rise: Estimate
    error: float


def quantize(x: Tensor, largest: Tensor, kind: Format) -> Tensor:
    """x as it is after rounding; ``largest`` is the magnitude that the format's last number stands for, broadcast to x.

    Where it is 0, so is the result. Values beyond it are clipped. Computed in float32, returned as x is.
    """
    scale = largest.float() / _LARGEST[kind]
    whole = torch.where(scale > 0, x.float() / scale.clamp(min=torch.finfo(torch.float32).tiny), 0.0)
    whole = whole.clamp(-_LARGEST[kind], _LARGEST[kind])
    rounded = whole.to(torch.float8_e4m3fn).float() if kind == "fp8" else whole.round()
    return (rounded * scale).to(x.dtype)


def quantized_losses(
    module: LanguageModel, documents: Documents, calibration: Documents, plain: Losses, show: Callable[[], None] = lambda: None
) -> Iterator[Quantized]:
    """Every place, scaling and format in all layers at once, and norms by token in each layer alone.

    Args:
        module: to evaluate.
        documents: what the loss is of.
        calibration: what the channels' largest magnitudes are of.
        plain: the loss without quantization.
        show: called after every evaluation; :func:`evaluations` says how many there are.
    """
    for place in PLACES:
        tensors = _tensors(module, place)
        channels = _largest_by_channel(module, tensors, calibration)
        for scaling in SCALINGS:
            for kind in FORMATS:
                yield _measured(module, documents, plain, tensors, channels, (place, scaling, kind, None))
                show()
    tensors = _tensors(module, "norm")
    for layer in _layers(tensors):
        for kind in FORMATS:
            own = [one for one in tensors if one.layer == layer]
            yield _measured(module, documents, plain, own, {}, ("norm", "token", kind, layer))
            show()


def evaluations(module: LanguageModel) -> int:
    """How many evaluations :func:`quantized_losses` makes."""
    return len(FORMATS) * (len(PLACES) * len(SCALINGS) + len(_layers(_tensors(module, "norm"))))


@dataclass(frozen=True)
class _Tensor:
    """An activation that can be changed on its way: a module's output, or its first input."""

    name: str
    layer: int | None
    module: nn.Module
    hook: Callable[[nn.Module, Callable[[Tensor], Tensor]], RemovableHandle]


def _tensors(module: LanguageModel, place: Place) -> list[_Tensor]:
    """All activations of a place. A norm that stands within a linear layer gives what that one's product is given."""
    norms = [_Tensor(str(site), site.layer, norm, on_output) for site, norm in norms_of(module).items()]
    if place == "norm":
        return norms
    within = {id(child.norm) for child in module.modules() if isinstance(child, NormedRowParallelLinear)}
    found = [one for one in norms if id(one.module) in within]
    for name, child in module.logical_modules().items():
        if isinstance(child, ColumnParallelLinear | RowParallelLinear) and not isinstance(child, NormedRowParallelLinear):
            found.append(_Tensor(name, _layer_of(name), child, on_input))
    return found


def _layer_of(name: str) -> int | None:
    """The layer in a module's name, ``decoder.layers.3.mlp.linear_fc1``."""
    parts = name.split(".")
    return int(parts[2]) if parts[:2] == ["decoder", "layers"] else None


def _layers(tensors: list[_Tensor]) -> list[int]:
    return sorted({one.layer for one in tensors if one.layer is not None})


def _largest_by_channel(module: LanguageModel, tensors: list[_Tensor], calibration: Documents) -> dict[str, Tensor]:
    """Of every activation, the largest magnitude in each channel."""
    found: dict[str, Tensor] = {}

    def see(name: str) -> Callable[[Tensor], Tensor]:
        def look(x: Tensor) -> Tensor:
            here = x.detach().abs().flatten(0, -2).amax(dim=0).float()
            found[name] = torch.maximum(found[name], here) if name in found else here
            return x

        return look

    with hooked([one.hook(one.module, see(one.name)) for one in tensors]):
        evaluate(module, calibration)
    return found


def _measured(
    module: LanguageModel,
    documents: Documents,
    plain: Losses,
    tensors: list[_Tensor],
    channels: dict[str, Tensor],
    how: tuple[Place, Scaling, Format, int | None],
) -> Quantized:
    place, scaling, kind, layer = how
    squares = torch.zeros(2, dtype=torch.float64)

    def change(name: str) -> Callable[[Tensor], Tensor]:
        def rounded(x: Tensor) -> Tensor:
            largest = channels[name] if scaling == "channel" else x.detach().abs().amax(dim=-1, keepdim=True)
            y = quantize(x, largest, kind)
            squares.add_(torch.stack([(y - x).double().square().mean(), x.double().square().mean()]).cpu())
            return y

        return rounded

    with hooked([one.hook(one.module, change(one.name)) for one in tensors]):
        losses = evaluate(module, documents)
    error = float((squares[0] / squares[1]).sqrt()) if squares[1] > 0 else 0.0
    return Quantized(place, scaling, kind, layer, losses.minus(plain), error)
