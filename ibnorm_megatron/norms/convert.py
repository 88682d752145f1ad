"""Norms of ours in the places of the norms of any PyTorch model, with their weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from .base import Norm
from .config import NormConfig, parse_norm
from .modules import StandardizingNorm
from .places import RowPlace, Unreadable, read_place

#: What says which norms are meant: their class, a shell pattern for their names in the model, or a function of name and module.
Key = type[nn.Module] | str | Callable[[str, nn.Module], bool]


@dataclass(frozen=True)
class Converted:
    """One norm that was replaced.

    Attributes:
        names: where it stands in the model; more than one where the model shares it.
        old: the norm that was there, as it prints itself.
        new: the norm that is there now.
    """

    names: tuple[str, ...]
    old: str
    new: str

    def __str__(self) -> str:
        return f"{', '.join(self.names)}: {self.old} -> {self.new}"


def convert_norms(model: nn.Module, mapping: Mapping[Key, Any], *, eps_name: str | None = None) -> list[Converted]:
    """Replace norm layers of a model, in place, by norms of ours with the same weights.

    LayerNorm, RMSNorm, BatchNorm (1d, 2d, 3d) and GroupNorm of torch.nn are known; a class of another library is tried on
    random numbers, and taken where it computes LayerNorm or RMSNorm. A norm over rows becomes the norm that the config builds
    for rows of that width; in the place of a BatchNorm stands :class:`~ibnorm_megatron.norms.channels.IBBatchNorm`, in that of
    a GroupNorm :class:`~ibnorm_megatron.norms.channels.IBGroupNorm`.

    The new norm holds the old one's parameters, the same objects, under the same names: so type, device, ``requires_grad``,
    ties and optimizers that hold them stay, and state dicts of the old model fit. It is in the same mode. What a config leaves
    open is the old norm's: eps, whether there is a beta and, for ibnorm, whether it centres; ``{"kind": "ibnorm_log",
    "bias": True}`` gives an RMSNorm's place a beta that starts at 0. With ``ibnorm_identity`` the model computes what it did.

    A BatchNorm's running mean and momentum stay too, and its running variance until training follows that of the compressed
    activations, which is smaller. For evaluation right after the conversion of a trained model with any compression, let some
    batches through it in training mode first.

    Args:
        model: any module; norms anywhere in it, but not the model itself.
        mapping: which norms become what. A key is a class, a shell pattern (``*`` stands for dots too) for names as
            ``named_modules`` has them, or a function of name and module; the first that fits counts. A value is what
            ``model.norm`` takes: a name, a mapping with a kind, or a NormConfig.
        eps_name: the attribute that holds eps in classes that are not PyTorch's; None looks for eps, variance_epsilon, epsilon.

    Returns:
        What was replaced, in the model's order. ``print(*convert_norms(...), sep="\\n")`` shows it.

    Raises:
        ValueError: something cannot be converted, or a key fits nothing: a sentence for each, and nothing is changed.
    """
    configs, problems = _parsed(mapping)
    names: dict[nn.Module, list[str]] = {}
    chosen: dict[nn.Module, dict[Key, None]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        key = next((key for key in configs if _fits(key, name, module)), None)
        if key is not None:
            names.setdefault(module, []).append(name)
            chosen.setdefault(module, {})[key] = None
    used = {key for keys in chosen.values() for key in keys}
    problems += [
        f"the key {_named(key)} fits nothing in the model that an earlier key leaves; mend it, or take it out"
        for key in configs
        if key not in used
    ]
    made: dict[nn.Module, Norm] = {}
    for module, keys in chosen.items():
        where = f"{names[module][0] or 'the model itself'} is {_shown(module)}"
        try:
            if not names[module][0]:
                raise Unreadable("there is nothing around it in which it could be replaced; put it into a module")
            if len({configs[key] for key in keys}) > 1:
                raise Unreadable(f"it stands at {' and '.join(names[module])} too, with another norm; give both the same")
            made[module] = _replacement(module, configs[next(iter(keys))], eps_name)
        except (Unreadable, ValueError) as error:
            problems.append(f"{where}: {error}")
    if problems:
        raise ValueError("\n".join(f"{problem}." for problem in problems))
    converted = [Converted(tuple(names[old]), _shown(old), _shown(new)) for old, new in made.items()]
    for old, new in made.items():
        for name in names[old]:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, new)
    return converted


def _parsed(mapping: Mapping[Key, Any]) -> tuple[dict[Key, NormConfig], list[str]]:
    configs, problems = {}, []
    for key, value in mapping.items():
        if not isinstance(key, str) and not callable(key):
            problems.append(f"the key {key!r} is none; give a class, a pattern for names, or a function of name and module")
            continue
        try:
            configs[key] = parse_norm(value)
        except ValueError as error:
            said = " ".join(str(error).split())
            problems.append(f"the norm for {_named(key)} is {value!r}: {said.rstrip('.')}")
    return configs, problems


def _fits(key: Key, name: str, module: nn.Module) -> bool:
    if isinstance(key, type):
        return isinstance(module, key)
    return fnmatchcase(name, key) if isinstance(key, str) else bool(key(name, module))


def _replacement(old: nn.Module, config: NormConfig, eps_name: str | None) -> Norm:
    place = read_place(old, eps_name)
    config = config.in_place_of(eps=place.eps, bias=place.bias is not None, center=place.center)
    if getattr(config, "eps", 1.0) <= 0:
        raise Unreadable(f"its eps is {place.eps:g}, and ours have to be positive; say eps in the norm's config")
    new = place.build(config)
    _refuse_another_gain(new, place, config)
    like = next(old.parameters(), next(old.buffers(), None))
    if like is not None:
        new.to(like.device, like.dtype)
    new.weight = place.weight
    if new.bias is not None and place.bias is not None:
        new.bias = place.bias
    elif new.bias is not None and place.weight is not None:
        new.bias.requires_grad_(place.weight.requires_grad)
    place.hand_over(new)
    return new.train(old.training)


def _refuse_another_gain(new: Norm, place: RowPlace, config: NormConfig) -> None:
    """Only a gain that starts where the old one would is one that means the same."""
    weight = getattr(new, "weight", None)
    if place.weight is None:
        if not isinstance(new, StandardizingNorm) or getattr(new, "unit_offset", False):
            raise Unreadable(f"it has no gain, and {config.kind} always has one; map it to an ibnorm, layernorm or rmsnorm")
    elif weight is None or weight.shape != place.weight.shape:
        raise Unreadable(f"its gain of one number a column has no place in {config.kind}; choose a norm with such a gain")
    elif not torch.equal(weight, torch.full_like(weight, 0.0 if place.unit_offset else 1.0)):
        if place.unit_offset:
            raise Unreadable("its gain is 1 + weight, and that of the new norm weight; map it to rmsnorm with unit_offset")
        raise Unreadable(f"its gain would mean something else in {config.label()}; choose a norm whose gain starts at 1")


def _named(key: Key) -> str:
    return repr(key) if isinstance(key, str) else getattr(key, "__qualname__", repr(key))


def _shown(module: nn.Module) -> str:
    return " ".join(repr(module).split())
