"""What a layout gave beside what the reference gave: every number with the bound that it has to keep."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from statistics import median

import torch
from torch import Tensor

from ..parallel.config import Precision
from ..train.config import TrainConfig
from .bounds import UNIT_ROUNDOFF, Bounds, update_sensitivity, weight_rounding
from .measure import Measured, whole_norm
from .messages import Finding

#: What a weight is rounded to before the first step; masters begin with that.
_DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def compare(reference: Measured, measured: Measured, bounds: Bounds, train: TrainConfig) -> Iterator[Finding]:
    """Every comparison there is, the one nearest to a fault's cause first: weights, gradients, sums, and what follows.

    A parameter that one of the two lacks, or has in another shape, is only reported as such.
    """
    sites = reference.sites | measured.sites
    broken = set()
    for name in sorted(reference.initial.keys() ^ measured.initial.keys()):
        broken.add(name)
        yield Finding("a parameter that only one has", name, sites.get(name, ""), math.inf, 0.0)
    for name, tensor in reference.initial.items():
        if name not in broken and tensor.shape != measured.initial[name].shape:
            broken.add(name)
            what = f"shape {list(measured.initial[name].shape)} instead of {list(tensor.shape)}"
            yield Finding(what, name, sites[name], math.inf, 0.0)
    names = [name for name in reference.initial if name not in broken]
    for name in names:  # one process has whole rows of norms that are sharded elsewhere, but cuts matrices as all do
        if name in reference.cuts and name in measured.cuts:
            differs = tuple(reference.cuts[name]) != tuple(measured.cuts[name])
            yield Finding("cut over tensor ranks", name, sites[name], math.inf if differs else 0.0, 0.0)
    for name in names:
        initial = reference.initial[name].to(_DTYPES[train.precision]).float()
        # A vector was rounded before we changed it, and again after; so a learned lambda may be off by two roundings.
        bound = 2 * UNIT_ROUNDOFF[train.precision] if initial.dim() == 1 and train.precision != "fp32" else 0.0
        yield Finding(
            "weight at the start", name, sites[name], _relative(measured.initial[name], initial, _norm(initial)), bound
        )
    yield from _steps(reference, measured, bounds, names, sites)
    if reference.losses:
        yield from _updates(reference, measured, bounds, train, names, sites)
    yield from replicas(measured)


def replicas(measured: Measured) -> Iterator[Finding]:
    """Ranks that hold the same weight have to hold the same bits."""
    for name, equal in measured.copies.items():
        yield Finding("copies of a weight", name, measured.sites[name], 0.0 if equal else math.inf, 0.0)


def same(measured: Measured, again: Measured, what: str, bounds: Bounds | None) -> Iterator[Finding]:
    """Whether two runs that have to be the same are: bit for bit, or within bounds where those are given."""
    tolerances = (0.0, 0.0) if bounds is None else (bounds.loss, bounds.gradient)
    for step, (loss, repeated) in enumerate(zip(measured.losses, again.losses, strict=True), start=1):
        yield Finding(f"loss of step {step} {what}", "", "", _apart(repeated, loss), Bounds.at(tolerances[0], step))
    for name, gradient in measured.gradients[0].items():
        difference = _relative(again.gradients[0][name], gradient, _norm(gradient))
        yield Finding(f"gradient of step 1 {what}", name, measured.sites[name], difference, tolerances[1])


def _steps(
    reference: Measured, measured: Measured, bounds: Bounds, names: list[str], sites: Mapping[str, str]
) -> Iterator[Finding]:
    for step, (expected, found) in enumerate(zip(reference.gradients, measured.gradients, strict=True), start=1):
        scales = _scales(expected, reference.norms)
        for name in names:
            difference = _relative(found[name], expected[name], scales[name])
            yield Finding(f"gradient of step {step}", name, sites[name], difference, Bounds.at(bounds.gradient, step))
        loss, norm = reference.losses[step - 1], whole_norm(expected)
        yield Finding(f"loss of step {step}", "", "", _apart(measured.losses[step - 1], loss), Bounds.at(bounds.loss, step))
        difference = _apart(float(measured.grad_norms[step - 1]), norm)
        yield Finding(f"norm of the gradient of step {step}", "", "", difference, Bounds.at(bounds.norm, step))
    for step in measured.skipped:
        yield Finding(f"step {step}, which was skipped", "", "", math.inf, 0.0)


def _updates(
    reference: Measured,
    measured: Measured,
    bounds: Bounds,
    train: TrainConfig,
    names: list[str],
    sites: Mapping[str, str],
) -> Iterator[Finding]:
    """The change of every weight over all steps. Its bound is that of :mod:`.bounds`, point 9."""
    steps = len(reference.losses)
    clips = [_clipping(whole_norm(gradients), train.grad_clip) for gradients in reference.gradients]
    weighed = sum(lr * step * (2 if min(clips[:step]) < 1 else 1) for step, lr in enumerate(reference.lrs, start=1))
    response = update_sensitivity(train.beta1, train.beta2, steps) / reference.adam_eps * weighed * bounds.gradient
    scales = [_scales(gradients, reference.norms) for gradients in reference.gradients]
    for name in names:
        initial = reference.initial[name].double()
        update = reference.final[name].double() - initial
        own = measured.final[name].double() - measured.initial[name].double()
        size = float(update.norm()) or 1.0
        largest = max(clip * scale[name] for clip, scale in zip(clips, scales, strict=True))
        absolute = response * largest + weight_rounding(steps) * float(initial.norm())
        yield Finding(f"update after {steps} steps", name, sites[name], _relative(own, update, size), absolute / size)


def _clipping(norm: float, largest: float) -> float:
    return min(1.0, largest / norm) if largest > 0 and norm > 0 else 1.0


def _scales(gradients: Mapping[str, Tensor], norms: Mapping[str, str]) -> dict[str, float]:
    """What each gradient's difference is measured against: its norm, but for norm layers see :mod:`.bounds`, point 4."""
    scales = {name: _norm(gradient) for name, gradient in gradients.items()}
    largest: dict[str, float] = {}
    for name, norm in norms.items():
        largest[norm] = max(largest.get(norm, 0.0), scales.get(name, 0.0))
    with_vectors = {norms[name] for name in norms.keys() & scales.keys() if gradients[name].numel() > 1}
    typical = median(largest.values()) if largest else 0.0
    for name in norms.keys() & scales.keys():
        of_norm = largest[norms[name]]
        scales[name] = of_norm if norms[name] in with_vectors else max(of_norm, typical)
        if norms[name].endswith((".q", ".k")):
            matrix = gradients[f"{name.partition('self_attention.')[0]}self_attention.linear_qkv.weight"]
            per_element = _norm(matrix) / matrix.numel() ** 0.5
            scales[name] = max(scales[name], per_element * gradients[name].numel() ** 0.5)
    return scales


def _norm(tensor: Tensor) -> float:
    return float(tensor.double().norm())


def _relative(found: Tensor, expected: Tensor, scale: float) -> float:
    difference = _norm(found.double() - expected.double())
    if not math.isfinite(difference):
        return math.inf
    if scale > 0:
        return difference / scale
    return math.inf if difference > 0 else 0.0


def _apart(found: float, expected: float) -> float:
    if not (math.isfinite(found) and math.isfinite(expected)):
        return math.inf
    return abs(found - expected) / abs(expected) if expected else (math.inf if found else 0.0)
