"""Data whose information is known: correlated Gaussians by their covariances, Gaussian classes by quadrature."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import integrate, optimize, stats

from ibnorm_megatron.information.observations import Observations

Floats = NDArray[np.float64]

#: Rows that share a document.
DOCUMENT = 10


@dataclass(frozen=True)
class Case:
    """One distribution, drawn ``n`` times.

    Attributes:
        name: of its kind.
        n: rows.
        d: width of T, and of X where there is one.
        labels: different labels; 0 without labels.
        truth: its mutual information in nats.
        data: what is drawn.
    """

    name: str
    n: int
    d: int
    labels: int
    truth: float
    data: Observations


def gaussian(n: int, d: int, information: float, rank: int, *, fall: float = 0.0, noise: float = 0.0, seed: int = 0) -> Case:
    """X and T Gaussian, correlated along ``rank`` directions, each turned by chance.

    Args:
        information: I(X; T) in nats, before noise.
        rank: directions, which share it equally.
        fall: the k-th variance of X and of T is k^-fall: activations are not round.
        noise: what the estimator will add to T, in units of T's root mean square deviation; the truth is I(X; T + noise).
    """
    draw = np.random.default_rng([seed, n, d, rank, round(1000 * fall)])
    correlation = np.zeros(d)
    correlation[:rank] = math.sqrt(-math.expm1(-2 * information / rank))
    scales = np.arange(1, d + 1) ** (-fall / 2)
    mixing = [_rotation(d, draw) * scales @ _rotation(d, draw) for _ in range(2)]
    first, second = draw.standard_normal((2, n, d))
    second = correlation * first + np.sqrt(1 - correlation**2) * second
    x, t = first @ mixing[0], second @ mixing[1]
    added = noise**2 * float(np.mean(scales**2))
    covariances = mixing[0].T @ mixing[0], mixing[0].T * correlation @ mixing[1], mixing[1].T @ mixing[1] + added * np.eye(d)
    truth = gaussian_information(*covariances)
    kind = "independent" if information == 0 else f"{information:g} nats, rank {rank if rank < d else 'full'}"
    shape = "" if fall == 0 else f", variances k^-{fall:g}"
    data = Observations(_tensor(t), _tensor(x), documents=torch.arange(n) // DOCUMENT)
    return Case(f"Gaussian, {kind}{shape}", n, d, 0, truth, data)


def gaussian_information(xx: Floats, xt: Floats, tt: Floats) -> float:
    """I(X; T) of jointly Gaussian X and T in nats: half of log |xx| + log |tt| - log of the joint determinant."""
    joint = np.block([[xx, xt], [xt.T, tt]])
    logs = [float(np.linalg.slogdet(matrix)[1]) for matrix in (xx, tt, joint)]
    return 0.5 * (logs[0] + logs[1] - logs[2])


def classes(n: int, d: int, bits: int, information: float, *, fall: float = 0.0, seed: int = 0) -> Case:
    """2^bits equally likely labels; each bit moves T by plus or minus one mean along a direction of its own, in Gaussian noise.

    The classes share their covariance, so the best decoder is a softmax of a linear map; bits are independent given T, so the
    information is ``bits`` times that of one bit in one dimension.
    """
    draw = np.random.default_rng([seed, n, d, bits, round(1000 * fall)])
    shift = shift_of(information / bits) if information else 0.0
    signs = 2.0 * draw.integers(0, 2, (n, bits)) - 1
    rows = draw.standard_normal((n, d))
    rows[:, :bits] += shift * signs
    mixing = _rotation(d, draw) * np.arange(1, d + 1) ** (-fall / 2) @ _rotation(d, draw)
    labels = ((signs > 0) @ (1 << np.arange(bits))).astype(np.int64)
    kind = "independent labels" if information == 0 else f"classes, {information:g} nats"
    shape = "" if fall == 0 else f", variances k^-{fall:g}"
    data = Observations(_tensor(rows @ mixing), labels=torch.from_numpy(labels), documents=torch.arange(n) // DOCUMENT)
    return Case(f"{kind}{shape}", n, d, 2**bits, information, data)


def parity(n: int, d: int, shift: float, *, seed: int = 0) -> Case:
    """Two labels: whether two hidden bits, seen as in :func:`classes`, are equal. No linear decoder reads anything of it.

    With p the probability that a bit is 1 given T, the label's is p q + (1 - p)(1 - q): quadrature in two dimensions.
    """
    draw = np.random.default_rng([seed, n, d, 7])
    signs = 2.0 * draw.integers(0, 2, (n, 2)) - 1
    rows = draw.standard_normal((n, d))
    rows[:, :2] += shift * signs
    labels = (signs[:, 0] * signs[:, 1] > 0).astype(np.int64)
    data = Observations(
        _tensor(rows @ _rotation(d, draw)), labels=torch.from_numpy(labels), documents=torch.arange(n) // DOCUMENT
    )
    return Case("parity of two bits", n, d, 2, parity_information(shift), data)


@cache
def bit_information(shift: float) -> float:
    """I(bit; t) for t normal around plus or minus ``shift``: log 2 minus the mean entropy of the bit given t."""
    return (
        math.log(2)
        - integrate.quad(
            lambda t: stats.norm.pdf(t - shift) * np.logaddexp(0, -2 * shift * t),
            shift - 12,
            shift + 12,
            epsabs=1e-12,
            limit=200,
        )[0]
    )


@cache
def shift_of(information: float) -> float:
    """The shift at which one bit gives so many nats (below log 2)."""
    return float(optimize.brentq(lambda shift: bit_information(shift) - information, 1e-6, 8, xtol=1e-12))


@cache
def parity_information(shift: float) -> float:
    """I(parity; T) by Gauss-Hermite quadrature with 200 x 200 nodes."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(200)
    weights = weights / weights.sum()
    tanh = np.tanh(shift * (nodes + shift))  # the mean of a bit given t, where the bit is 1; the others follow by symmetry
    even = (1 + tanh[:, None] * tanh[None]) / 2 + np.finfo(float).tiny  # its log meets weights that are 0 where it is
    # Bits are (1, 1) without loss of generality: other pairs mirror t, and the parity's posterior with it.
    return math.log(2) + float((weights[:, None] * weights[None] * np.log(even)).sum())


def _rotation(d: int, draw: np.random.Generator) -> Floats:
    turned, upper = np.linalg.qr(draw.standard_normal((d, d)))
    return turned * np.sign(np.diag(upper))


def _tensor(rows: Floats) -> torch.Tensor:
    return torch.from_numpy(rows.astype(np.float32))
