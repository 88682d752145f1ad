"""Figures on estimators that were noted before there was a validation: computed again, on the data they were noted of."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from ibnorm_megatron.information.audit import Audited, audit, audit_bottleneck
from ibnorm_megatron.information.estimator import measure
from ibnorm_megatron.information.ksg import Ksg
from ibnorm_megatron.information.observations import Observations
from ibnorm_megatron.information.probe import Probe
from ibnorm_megatron.information.renyi import Renyi
from ibnorm_megatron.norms import ib_norm

from .information_cases import DOCUMENT, Floats, gaussian

#: Maps of LayerNorm's rows: compression and lambda in units of the row's deviation.
BIJECTIONS = (("log", 0.5), ("log", 4.0), ("tanh", 1.0), ("tanh", 0.25))


@dataclass(frozen=True)
class Claim:
    """One noted figure.

    Attributes:
        what: what was computed.
        noted: what was noted of it.
        found: what comes out here.
    """

    what: str
    noted: str
    found: str


def claims() -> list[Claim]:
    """All of them; the same numbers every time."""
    return [*_probes(), *_wide_renyi(), *_bijection(), *_neighbours()]


def _probes() -> Iterator[Claim]:
    """Eight round Gaussian classes, means by chance on a sphere: the truth from 200,000 draws (deviation below 0.002)."""
    for d, separation, noted in ((2, 2.0, "0.82 of 0.82"), (32, 2.0, "1.12 of 1.26"), (32, 4.0, "1.99 of 2.03")):
        draw = np.random.default_rng(d)
        means = draw.standard_normal((8, d))
        means *= separation / np.linalg.norm(means, axis=1, keepdims=True)
        truth = math.log(8) - _conditional_entropy(means, 200_000, draw)
        labels = draw.integers(0, 8, 4000)
        rows = torch.from_numpy((means[labels] + draw.standard_normal((4000, d))).astype(np.float32))
        data = Observations(rows, labels=torch.from_numpy(labels), documents=torch.arange(4000) // DOCUMENT)
        found = [measure(probe, data, anywhere=True)[0] for probe in (Probe(), Probe(hidden=128))]
        said = ", ".join(f"{one.estimator} {one.value:.2f} ({one.low:.2f} to {one.high:.2f})" for one in found)
        yield Claim(f"probe, 8 classes, n 4000, d {d}, means {separation:g} from 0", noted, f"{said} of {truth:.2f}")


def _conditional_entropy(means: Floats, draws: int, draw: np.random.Generator) -> float:
    """H(Y | T) of round Gaussian classes: in the span of the means, which holds all that T says of Y."""
    basis = np.linalg.qr(means.T)[0]
    inside = means @ basis
    labels = draw.integers(0, len(means), draws)
    rows = inside[labels] + draw.standard_normal((draws, inside.shape[1]))
    logits = rows @ inside.T - 0.5 * (inside**2).sum(1)
    return float(np.mean(np.logaddexp.reduce(logits, axis=1) - logits[np.arange(draws), labels]))


def _wide_renyi() -> Iterator[Claim]:
    renyi = Renyi(alphas=(1.01,), multiples=(1.0,), permutations=3)
    for information, rank in ((0.0, 1), (2.0, 256), (5.0, 256)):
        (one,) = measure(renyi, gaussian(1000, 256, information, rank).data, anywhere=True)
        assert one.null
        what = f"Renyi, alpha 1.01, n 1000, d 256, I(X; T) = {information:g}"
        yield Claim(what, "3.07", f"{one.value:.3f}, permuted {one.null.mean:.3f}, excess {one.excess:+.4f}")


def _bijection() -> Iterator[Claim]:
    """Six hidden numbers, 64 columns with an outlier and a heavy tail behind LayerNorm, five labels from the first number."""
    draw = np.random.default_rng(1)
    hidden = draw.standard_normal((1000, 6))
    rows = hidden @ draw.standard_normal((6, 64)) / 2.4 + 0.3 * draw.standard_normal((1000, 64))
    rows[:, 3] *= 12
    rows[:, 7] = rows[:, 7] ** 3
    labels = np.digitize(hidden[:, 0] + 0.2 * draw.standard_normal(1000), [-0.8, -0.2, 0.2, 0.8])
    rows = (rows - rows.mean(1, keepdims=True)) / rows.std(1, keepdims=True)
    data = Observations(torch.from_numpy(rows), torch.from_numpy(hidden), torch.from_numpy(labels), torch.arange(1000) // 4)
    for compression, strength in BIJECTIONS:
        sides = []
        for renyi in (Renyi("labels", (1.01,), (1.0,), 3), Renyi("x", (1.01,), (1.0,), 0)):
            sides += audit(renyi, data, _norm(compression, strength), f"{compression} {strength:g}", anywhere=True)
        (probed,) = audit(Probe(hidden=128), data, _norm(compression, strength), compression, anywhere=True)
        before, after = audit_bottleneck(*sides, beta=0.1)
        found = f"{before:.3f} to {after:.3f} (I(T; Y) {_pair(sides[0])}, I(X; T) {_pair(sides[1])}); probe-mlp {_pair(probed)}"
        what = f"Renyi's I(T; Y) - 0.1 I(X; T) before and behind {compression}, lambda {strength:g}"
        yield Claim(what, "0.195 to 0.320", found)


def _norm(compression: str, strength: float):  # type: ignore[no-untyped-def]
    return lambda rows: ib_norm(rows.double(), compression=compression, lam=strength, eps=1e-12)


def _pair(one: Audited) -> str:
    return f"{one.before.value:.3f} to {one.after.value:.3f}"


def _neighbours() -> Iterator[Claim]:
    found = []
    for d in (2, 4, 8, 16, 32):
        (one,) = measure(Ksg(), gaussian(1000, d, 2.0, d).data, anywhere=True)
        found.append(f"{one.value:.2f} in {d}")
    yield Claim("KSG, n 1000, I(X; T) = 2 over all dimensions", "fine to 4, useless from 8", ", ".join(found))
