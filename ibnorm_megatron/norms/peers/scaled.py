"""Norms that are LayerNorm or RMSNorm up to a factor."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from ..base import Norm
from ..functional import rms_norm
from ..modules import LayerNorm
from ..plan import wide


class LayerNormScaling(LayerNorm):
    """LayerNorm divided by sqrt(l) in layer l, counted from 1 (Sun et al., "The Curse of Depth", arXiv 2502.05795).

    With pre-norm the residual stream's variance grows with depth until deep layers change little; the factor slows that. The
    paper finds it worse together with scaled initialization. Its norms stand before the sub-layers. That every norm of a
    layer is scaled but those on queries and keys, where the factor would flatten the attention, is this project's reading.
    """

    def __init__(self, hidden_size: int, eps: float = 1e-5, *, bias: bool = True, center: bool = True, **place: Any) -> None:
        super().__init__(hidden_size, eps, bias=bias, center=center, **place)
        scaled = self.site is not None and self.site.layer is not None and self.site.name not in ("q", "k")
        self.factor = 1 / math.sqrt(self.site.layer + 1) if scaled else 1.0

    def forward(self, x: Tensor) -> Tensor:
        """x ``[..., d]`` to the same shape and type."""
        if self.factor == 1.0:
            return super().forward(x)
        bias = None if self.bias is None else wide(self.bias) * self.factor
        return self.standardize(wide(x), wide(self.weight) * self.factor, bias).to(x.dtype)

    def gain(self) -> Tensor:
        """gamma with the factor, ``[d]``."""
        return wide(self.weight) * self.factor

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, factor={self.factor:.3g}"


class L2Norm(Norm):
    """y = gamma x / sqrt(sum(x^2) + eps) + beta, a row of unit length with a gain for every column.

    ScaleNorm (Nguyen & Salazar, arXiv 1910.05895) has one gain g for all columns, sqrt(d) at the start; here every column has
    its own, and starts there too. So the first output is RMSNorm's, and what differs is how far a learning rate moves the
    gain: by 1 / sqrt(d) as much.

    Args:
        hidden_size: d, the width of a row.
        eps: added to the sum of squares.
        bias: whether there is a beta.
        place: the keywords of :class:`Norm`.
    """

    def __init__(self, hidden_size: int, eps: float = 1e-5, *, bias: bool = False, **place: Any) -> None:
        super().__init__(hidden_size, **place)
        self.eps = eps
        self.weight = self.vector(math.sqrt(hidden_size))
        self.bias = self.vector(0.0) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """x ``[..., d]`` to the same shape and type."""
        # sum(x^2) + eps = d (mean(x^2) + eps / d)
        gain = self.gain()
        bias = None if self.bias is None else wide(self.bias)
        return rms_norm(wide(x), gain, bias, self.eps / self.hidden_size, self.process_group).to(x.dtype)

    def gain(self) -> Tensor:
        """What a row of mean square 1 is multiplied by, ``[d]``."""
        return wide(self.weight) / math.sqrt(self.hidden_size)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, eps={self.eps}, bias={self.bias is not None}"
