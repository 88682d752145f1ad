"""Reading the norm layers of others: what they norm over, with which gain, bias and eps.

PyTorch's own are known by the code that they run, and everything else by what it computes: a layer of any other class is
copied, given random weights, and run beside the formulas of LayerNorm and RMSNorm. No class is known by its name.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils.parametrize import is_parametrized

from .base import Norm
from .channels import IBBatchNorm
from .config import NormConfig
from .plan import accumulation_dtype

#: Where layers of other libraries hold what is added inside the root.
EPS_NAMES = ("eps", "variance_epsilon", "epsilon")

#: A copy's output and the formula's, relative to the output: float32 is exact to 1e-6, and another eps is seen far above.
_TOLERANCE = 1e-4


class Unreadable(Exception):
    """Why a layer cannot be replaced, and the mend, as the end of a sentence that begins with the layer."""


@dataclass(frozen=True)
class RowPlace:
    """A norm over the last dimension.

    Attributes:
        width: of a row, or of the channels where a subclass says so.
        eps: added inside the root.
        weight: the gain ``[width]``, or None.
        bias: beta ``[width]``, or None.
        center: whether the mean is subtracted.
        unit_offset: whether the gain is 1 + weight.
    """

    width: int
    eps: float
    weight: nn.Parameter | None
    bias: nn.Parameter | None
    center: bool = True
    unit_offset: bool = False

    def build(self, config: NormConfig) -> Norm:
        """The layer of ours that stands here, with weights and statistics of its own still.

        Raises:
            Unreadable: this kind of norm has no such layer.
            ValueError: the layer refuses its options.
        """
        return config.build(self.width)

    @torch.no_grad()
    def hand_over(self, layer: Norm) -> None:
        """Give a layer that :meth:`build` made what the old norm has gathered, besides its parameters."""


@dataclass(frozen=True, kw_only=True)
class BatchPlace(RowPlace):
    """A BatchNorm: a norm of every channel over batch and space.

    Attributes:
        old: it.
    """

    old: nn.modules.batchnorm._BatchNorm

    def build(self, config: NormConfig) -> Norm:
        """As RowPlace's."""
        layer = _class_or_refusal(config.batch_class(), config, "batch and space")
        tracks = self.old.running_mean is not None
        return layer(self.width, **config.options(), momentum=self.old.momentum, track_running_stats=tracks)

    @torch.no_grad()
    def hand_over(self, layer: Norm) -> None:
        """Running statistics: those of x as they are, that of the compressed numbers as if they were not compressed."""
        assert isinstance(layer, IBBatchNorm)
        layer.track_running_stats = self.old.track_running_stats
        if self.old.running_mean is None:
            return
        layer.running_mean, layer.num_batches_tracked = self.old.running_mean, self.old.num_batches_tracked
        layer.running_compressed_mean = torch.zeros_like(self.old.running_mean)
        layer.running_var = self.old.running_var
        if layer.scale == "relative":
            layer.running_square = self.old.running_var
            layer.running_var = self.old.running_var / (self.old.running_var + layer.eps)


@dataclass(frozen=True, kw_only=True)
class GroupPlace(RowPlace):
    """A GroupNorm: a norm of a sample's groups of channels over space.

    Attributes:
        groups: how many there are.
    """

    groups: int

    def build(self, config: NormConfig) -> Norm:
        """As RowPlace's."""
        layer = _class_or_refusal(config.group_class(), config, "groups of channels and space")
        return layer(self.width, **config.options(), groups=self.groups)


def read_place(module: nn.Module, eps_name: str | None = None) -> RowPlace:
    """What a norm layer of others holds and computes.

    Args:
        module: the layer.
        eps_name: the attribute that holds eps in classes that are not PyTorch's; None looks for :data:`EPS_NAMES`.

    Raises:
        Unreadable: it is no norm, or none that can be replaced without changing more than its formula.
    """
    _refuse_what_would_be_lost(module)
    reader = _READERS.get(type(module).forward)
    return reader(module) if reader else _by_trial(module, eps_name)


def _refuse_what_would_be_lost(module: nn.Module) -> None:
    if isinstance(module, LazyModuleMixin) and module.has_uninitialized_params():
        raise Unreadable("it has no weights before its first input; run the model once")
    if is_parametrized(module):
        raise Unreadable("its weights are computed by a parametrization, which would be lost; remove that first")
    hooks = [name for name, value in vars(module).items() if name.endswith("_hooks") and value]
    if hooks or "forward" in vars(module):
        raise Unreadable("it has hooks or a forward of its own, which would be lost; remove them first")


def _read_layer_norm(module: nn.Module) -> RowPlace:
    return RowPlace(_one_dimension(module), module.eps, module.weight, module.bias)


def _read_rms_norm(module: nn.Module) -> RowPlace:
    eps = module.eps
    if eps is None:  # PyTorch's choice in its place: the spacing of numbers at 1 in the type that it computes in
        kind = torch.get_default_dtype() if module.weight is None else module.weight.dtype
        eps = torch.finfo(accumulation_dtype(torch.empty(0, dtype=kind))).eps
    return RowPlace(_one_dimension(module), eps, module.weight, None, center=False)


def _one_dimension(module: nn.Module) -> int:
    shape = tuple(module.normalized_shape)
    if len(shape) != 1:
        raise Unreadable(f"it norms over the last {len(shape)} dimensions, and ours over one; leave it as it is")
    return shape[0]


def _read_batch_norm(module: nn.Module) -> RowPlace:
    return BatchPlace(width=module.num_features, eps=module.eps, weight=module.weight, bias=module.bias, old=module)


def _read_group_norm(module: nn.Module) -> RowPlace:
    holds = {"eps": module.eps, "weight": module.weight, "bias": module.bias}
    return GroupPlace(width=module.num_channels, **holds, groups=module.num_groups)


#: By the code that a layer runs, so that a subclass that runs other code is tried instead.
_READERS: dict[Callable[..., Tensor], Callable[[nn.Module], RowPlace]] = {
    nn.LayerNorm.forward: _read_layer_norm,
    nn.RMSNorm.forward: _read_rms_norm,
    nn.modules.batchnorm._BatchNorm.forward: _read_batch_norm,
    nn.GroupNorm.forward: _read_group_norm,
}


def _by_trial(module: nn.Module, eps_name: str | None) -> RowPlace:
    """Read a layer of an unknown class by what a copy of it computes from random numbers with random weights."""
    names = {name for name, parameter in module.named_parameters() if parameter is not None}
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    if not isinstance(weight, nn.Parameter) or weight.dim() != 1 or not names <= {"weight", "bias"}:
        found = ", ".join(sorted(names)) or "none"
        raise Unreadable(f"a norm has one vector 'weight' and perhaps 'bias' as parameters, and it has {found}; leave it out")
    if list(module.children()) or list(module.buffers()):
        raise Unreadable("it holds other modules or buffers, which would be lost; leave it out")
    parameters = inspect.signature(module.forward).parameters
    if len(parameters) != 1:
        raise Unreadable(f"its forward takes {', '.join(parameters) or 'nothing'}, and ours one tensor; leave it out")
    if weight.is_meta:
        raise Unreadable("its weights are on the meta device, where nothing can be tried; give the model memory first")
    eps = _eps(module, eps_name)
    x, y, gain, beta = _trial(module)
    for center, unit_offset in ((True, False), (False, False), (False, True), (True, True)):
        expected = _formula(x, 1 + gain if unit_offset else gain, beta, eps, center)
        if float((y - expected).norm()) <= _TOLERANCE * float(expected.norm()):
            return RowPlace(len(weight), eps, weight, bias, center, unit_offset)
    raise Unreadable(
        f"on a trial it computes neither LayerNorm nor RMSNorm over the last dimension with eps {eps:g}; leave it out, or "
        "name the attribute that holds its eps"
    )


def _eps(module: nn.Module, name: str | None) -> float:
    asked = EPS_NAMES if name is None else (name,)
    found = {name: getattr(module, name) for name in asked if isinstance(getattr(module, name, None), float)}
    if len(set(found.values())) != 1:
        seen = " and ".join(f"{name}={value:g}" for name, value in found.items()) or "no number"
        raise Unreadable(
            f"its eps is not clear, with {seen} among {', '.join(asked)}; name the attribute that holds it by eps_name"
        )
    return next(iter(found.values()))


@torch.no_grad()
def _trial(module: nn.Module) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """x ``[2, 3, d]``, what a float32 copy of the layer gives, its gain and its beta, ``[d]``: in float64 on the CPU.

    Three dimensions, so that a norm over the second one is told from one over the last; a mean, so that centring shows; rows
    as small as the root of a usual eps, so that eps shows. The layer itself, its mode and torch's generators stay untouched.
    """
    copied = copy.deepcopy(module).float()
    generator = torch.Generator().manual_seed(0)
    width, device = len(copied.weight), copied.weight.device
    for parameter in copied.parameters():
        parameter.copy_(torch.rand(width, generator=generator) + 0.5)
    x = torch.randn(2, 3, width, generator=generator) + 0.7
    x *= torch.tensor([1.0, 1e-2, 1e-4]).view(1, 3, 1)
    try:
        y = copied(x.to(device))
        assert y.shape == x.shape, f"it makes {tuple(y.shape)} of {tuple(x.shape)}"
    except Exception as error:  # whatever code of others does with numbers that it did not expect
        said = str(error).strip().partition("\n")[0]
        raise Unreadable(
            f"a copy of it cannot be tried with rows of {width} ({type(error).__name__}: {said}); leave it out"
        ) from error
    beta = getattr(copied, "bias", None)
    return x.double(), *_far(y, copied.weight), None if beta is None else next(_far(beta))


def _far(*tensors: Tensor) -> Iterator[Tensor]:
    return (tensor.detach().cpu().double() for tensor in tensors)


def _formula(x: Tensor, gain: Tensor, beta: Tensor | None, eps: float, center: bool) -> Tensor:
    c = x - x.mean(-1, keepdim=True) if center else x
    y = c * (c.square().mean(-1, keepdim=True) + eps).rsqrt() * gain
    return y if beta is None else y + beta


def _class_or_refusal(layer: type[Norm] | None, config: NormConfig, over: str) -> type[Norm]:
    if layer is None:
        raise Unreadable(f"it norms over {over}, and {config.kind} has no such form; map it to an ibnorm")
    return layer
