"""Matrix-based Renyi entropy: the entropy of a Gram matrix's spectrum.

Sanchez Giraldo, Rao and Principe, "Measures of entropy from data using infinitely divisible kernels", arXiv 1211.2459: for a
kernel matrix K [n, n] with ones on its diagonal and A = K / n, S_alpha(A) = log(sum of eigenvalues^alpha) / (1 - alpha), in
nats here, and the joint entropy of A and B is that of their entrywise product scaled to trace 1.
"""

from __future__ import annotations

import torch
from torch import Tensor


def entropy_of_spectrum(eigenvalues: Tensor, alpha: float) -> float:
    """S_alpha of nonnegative eigenvalues, which are scaled to sum 1; Shannon's (von Neumann's) for alpha = 1. In nats.

    Args:
        eigenvalues: ``[k]``; those that rounding made negative count as 0.
    """
    shares = eigenvalues.clamp(min=0)
    shares = shares[shares > 0] / shares.sum()
    if alpha == 1:
        return float(-(shares * shares.log()).sum())
    return float((shares**alpha).sum().log() / (1 - alpha))


def matrix_entropy(gram: Tensor, alphas: tuple[float, ...]) -> tuple[float, ...]:
    """S_alpha of a positive semidefinite matrix ``[n, n]`` for each alpha, in nats.

    For alpha = 2 alone it is -log of the sum of squares, without eigenvalues.
    """
    if alphas == (2,):
        return (float(-(gram / gram.trace()).square().sum().log()),)
    eigenvalues = torch.linalg.eigvalsh(gram)
    return tuple(entropy_of_spectrum(eigenvalues, alpha) for alpha in alphas)


def squared_distances(rows: Tensor) -> Tensor:
    """Of each pair of rows ``[n, d]``, in float64 ``[n, n]``."""
    wide = rows.double()
    wide = wide - wide.mean(0)  # distances stay, and rounding of large means does not enter
    squares = wide.square().sum(1)
    return (squares[:, None] + squares - 2 * wide @ wide.T).clamp(min=0).fill_diagonal_(0)


def median_square(squares: Tensor) -> Tensor:
    """The median over pairs of different rows of their squared distance: the rule that bandwidths are multiples of."""
    first, second = torch.triu_indices(*squares.shape, offset=1, device=squares.device)
    return squares[first, second].median()


def gaussian_gram(squares: Tensor, multiple: float, median: Tensor) -> Tensor:
    """exp(-|x - x'|^2 / (multiple^2 median)): at multiple 1 half of all pairs have a kernel above 1/e.

    Args:
        squares: squared distances ``[n, n]``.
        multiple: of the bandwidth.
    """
    if float(median) == 0:  # rows that are mostly equal have no scale: equal or not is all the kernel can say
        return (squares == 0).double()
    return (-squares / (multiple**2 * median)).exp()


def label_gram(classes: Tensor) -> Tensor:
    """1 where two rows have the same label, ``[n, n]``: its entropy is that of the labels' frequencies."""
    return (classes[:, None] == classes).double()
