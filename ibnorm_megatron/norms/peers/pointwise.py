"""Norms that are one function of each number: no statistics, so nothing to share between ranks but gradients."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..base import Norm
from ..plan import wide
from ..site import Site

#: DyT's best alpha at the start in LLaMA models, by their width: at attention, and elsewhere. From arXiv 2503.10622, its
#: section on initialization; the row of 5,120 is the one that its authors' code trains the 13B model with.
_ALPHA = {1024: (1.0, 1.0), 2048: (1.0, 0.5), 4096: (0.8, 0.2), 5120: (0.6, 0.15), 8192: (0.2, 0.05)}
_AT_ATTENTION = ("attn_in", "q", "k", "attn_sub", "attn_out")


def starting_alpha(width: int, site: Site | None) -> float:
    """Alpha at the start for a model of this width; log-log between the table's widths, constant beyond its ends."""
    at_attention = site is not None and site.name in _AT_ATTENTION
    known = sorted(_ALPHA)
    width = min(max(width, known[0]), known[-1])
    high = next(w for w in known if w >= width)
    low = max(w for w in known if w <= width)
    first, last = (_ALPHA[w][0 if at_attention else 1] for w in (low, high))
    share = 0.0 if low == high else math.log(width / low) / math.log(high / low)
    return first ** (1 - share) * last**share


class Scale(Norm):
    """y = g x with one learnable g, sqrt(d) at the start (DyT, arXiv 2503.10622, behind the embedding of its LLaMAs)."""

    def __init__(self, hidden_size: int, **place: Any) -> None:
        super().__init__(hidden_size, **place)
        self.weight = self.scalar(math.sqrt(hidden_size))

    def forward(self, x: Tensor) -> Tensor:
        """x ``[..., d]`` to the same shape and type."""
        return (wide(x) * wide(self.weight)).to(x.dtype)


class DyT(Norm):
    """Dynamic tanh (Zhu et al., "Transformers without Normalization", arXiv 2503.10622): y = gamma tanh(alpha x) + beta.

    alpha is one learnable scalar a site. A plain drop-in fails in language models: they need alpha by width and site, and
    :class:`Scale` behind the embedding.

    Args:
        hidden_size: d, the width of a row.
        alpha: at the start; None for the paper's value for the model's width (``config.hidden_size``, else d) and site.
        bias: whether there is a beta.
        place: the keywords of :class:`Norm`.
    """

    def __init__(self, hidden_size: int, *, alpha: float | None = None, bias: bool = True, **place: Any) -> None:
        super().__init__(hidden_size, **place)
        width = getattr(place.get("config"), "hidden_size", hidden_size)
        self.alpha = self.scalar(starting_alpha(width, self.site) if alpha is None else alpha)
        self.weight = self.vector(1.0)
        self.bias = self.vector(0.0) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """x ``[..., d]`` to the same shape and type."""
        y = self.squash(wide(x)) * wide(self.weight)
        return (y if self.bias is None else y + wide(self.bias)).to(x.dtype)

    def squash(self, x: Tensor) -> Tensor:
        """The bounded function, elementwise."""
        return torch.tanh(wide(self.alpha) * x)


class Derf(DyT):
    """Dynamic erf (Chen et al., "Stronger Normalization-Free Transformers", arXiv 2512.10938): gamma erf(alpha x + s) + beta.

    s is one learnable scalar a site, 0 at the start. That alpha starts where DyT's does, and that there is an embedding
    scale, is this project's reading: the paper's largest language model is GPT-2 of 124M.
    """

    def __init__(self, hidden_size: int, *, alpha: float | None = None, bias: bool = True, **place: Any) -> None:
        super().__init__(hidden_size, alpha=alpha, bias=bias, **place)
        self.shift = self.scalar(0.0)

    def squash(self, x: Tensor) -> Tensor:
        """The bounded function, elementwise."""
        return torch.erf(wide(self.alpha) * x + wide(self.shift))
