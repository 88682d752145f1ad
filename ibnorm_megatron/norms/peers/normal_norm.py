"""Normality normalization: a row is standardized, made more Gaussian by a power transform, and in training made noisy."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..base import Norm
from ..plan import wide
from .noise import draw_seed, gaussian
from .rows import row_means


class NormalNorm(Norm):
    """Normality normalization (Eftekhari & Papyan, "On the Importance of Gaussianizing Representations", arXiv 2505.00685).

    h is the standardized row, psi(h; lambda) its Yeo-Johnson transform, with lambda from one Newton step from 1 on the
    Gaussian negative log-likelihood of the row (:func:`likelihood_slopes`), and

        y = gamma (psi + noise mad z) + beta,  z standard normal, mad = mean|psi - mean(psi)|, which gets no gradient.

    Evaluation adds no noise. psi is not standardized again, and lambda is differentiated through; both as the authors' code
    has it. Their layer form, for vision transformers, has noise 1, which is large for a language model; the default is
    the 0.4 of their batch form. Over sharded columns
    there are three all-reduces forward and as many backward, and two more forward for noise.

    Args:
        hidden_size: d, the width of a row.
        eps: added to the variance inside the root; its square root to the curvature that Newton's step divides by.
        noise: in mean absolute deviations.
        bias: whether there is a beta.
        place: the keywords of :class:`Norm`.
    """

    center = True

    def __init__(self, hidden_size: int, eps: float = 1e-5, *, noise: float = 0.4, bias: bool = True, **place: Any) -> None:
        super().__init__(hidden_size, **place)
        self.eps, self.noise = eps, noise
        self._seed: int | None = None
        self.weight = self.vector(1.0)
        self.bias = self.vector(0.0) if bias else None

    @property
    def draws(self) -> bool:
        """Whether there is noise."""
        return self.noise > 0

    def set_seed(self, seed: int) -> None:
        """The seed of the coming pass. Where nobody sets one, every pass draws its own."""
        self._seed = seed

    def forward(self, x: Tensor) -> Tensor:
        """x ``[..., d]`` to the same shape and type."""
        h = self._standardized(wide(x))
        first, second = likelihood_slopes(h, self._means)
        psi = yeo_johnson(h, 1 - first / (second + math.sqrt(self.eps)))
        if self.training and self.draws:
            psi = psi + self._noise(psi.detach())
        y = psi * wide(self.weight)
        return (y if self.bias is None else y + wide(self.bias)).to(x.dtype)

    def _means(self, *values: Tensor) -> list[Tensor]:
        return row_means(values, self.hidden_size, self.process_group)

    def _standardized(self, x: Tensor) -> Tensor:
        (mean,) = self._means(x)
        c = x - mean
        (variance,) = self._means(c * c)
        return c * (variance + self.eps).rsqrt()

    @torch.compiler.disable  # Inductor's C++ of the hash has crashed the process (torch 2.13, x86)
    @torch.no_grad()
    def _noise(self, psi: Tensor) -> Tensor:
        (mean,) = self._means(psi)
        (deviation,) = self._means((psi - mean).abs())
        seed = draw_seed() if self._seed is None else self._seed
        z = gaussian(seed, self.row_numbers(psi), self.column_numbers(psi.device)).view(psi.shape)
        return z.to(psi.dtype) * (self.noise * deviation)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, eps={self.eps}, noise={self.noise}, bias={self.bias is not None}"


def likelihood_slopes(h: Tensor, means: Callable[..., list[Tensor]]) -> tuple[Tensor, Tensor]:
    """First and second derivative, at lambda = 1, of a row's negative log-likelihood under a Gaussian of fitted variance.

    With L(lambda) = log(var psi) / 2 - (lambda - 1) mean(sign(h) log a), a = 1 + |h|, psi the transform of h, psi1 and psi2
    its derivatives in lambda at 1, and a row of mean 0 and variance 1:

        psi1 = a log a - |h|                L'  = mean(h psi1) - mean(sign(h) log a)
        psi2 = sign(h) (a log^2 a - 2 psi1) L'' = mean(psi1^2) - mean(psi1)^2 + mean(h psi2) - 2 mean(h psi1)^2

    Args:
        h: standardized rows ``[..., d]``.
        means: gives the rows' means of several tensors of h's shape, ``[..., 1]`` each.

    Returns:
        L' and L'', ``[..., 1]`` each. L'' is positive but for rows of nearly one value.
    """
    size, sign = h.abs(), h.sign()
    log = size.log1p()
    psi1 = (1 + size) * log - size
    psi2 = sign * ((1 + size) * log * log - 2 * psi1)
    slope, jacobian, mean1, square1, curvature = means(h * psi1, sign * log, psi1, psi1 * psi1, h * psi2)
    return slope - jacobian, square1 - mean1 * mean1 + curvature - 2 * slope * slope


def yeo_johnson(h: Tensor, exponent: Tensor) -> Tensor:
    """The power transform of Yeo & Johnson (Biometrika 87, 2000), elementwise: h where the exponent is 1.

    sign(h) ((1 + |h|)^e - 1) / e with e the exponent where h >= 0 and 2 - exponent elsewhere; sign(h) log(1 + |h|) at e = 0.
    """
    log = h.abs().log1p()
    power = (1 + h.sign() * (exponent - 1)) * log
    return h.sign() * log * _relative_growth(power)


def _relative_growth(t: Tensor) -> Tensor:
    """(exp(t) - 1) / t, by its series near 0, where the quotient has no value and its gradient no digits."""
    small = t.abs() < 0.1
    near = torch.where(small, t, 0.0)
    series = torch.zeros_like(t)
    for k in range(9, 0, -1):
        series = (series + 1) * near / (k + 1)
    far = torch.where(small, 1.0, t)
    return torch.where(small, 1 + series, far.expm1() / far)
