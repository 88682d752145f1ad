"""The bounded compressions: which function pulls a deviation toward the mean, and how hard.

A compression is a function f of the size r >= 0 of a deviation from the mean, with a strength lambda.
IBNorm extends it oddly, g(c) = sign(c) f(|c|). It is *bounded* when, for all r >= 0,

    f(0) = 0,    f is nondecreasing,    0 <= f(r) <= r.

Every built-in one below is phi(r / lambda) with phi concave, phi(0) = 0 and phi'(0) = 1 (identity apart, which
ignores lambda). Concavity gives phi(u) <= u, so f(r) <= r / lambda <= r for lambda >= 1 in the literal form, and
lambda * phi(r / lambda) <= r for every lambda > 0 in the unit-slope form, which divides f by its slope at zero.

Source: "IBNorm: Information-Bottleneck Inspired Normalization for Representation Learning", arXiv 2510.25262, gives the
idea and three variants S, L and T. The formulas are this project's own reading, named by their function;
:data:`ALIASES` maps the paper's letters to them and has not been checked against the paper's printed text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the functions use tensor methods only, so a config can name a compression without importing torch
    from torch import Tensor

Elementwise = Callable[["Tensor", float], "Tensor"]


@dataclass(frozen=True)
class Odd:
    """A compression of the ratio v = c / lambda, extended oddly, in as few passes over memory as it takes.

    Attributes:
        value: ``value(v)`` gives sign(v) phi(|v|), of v's shape, and whatever :attr:`chain` can use again. v stays as it is.
        chain: ``chain(dg, v, kept)`` gives dg * phi'(|v|), and may overwrite ``dg`` and ``kept``, but not v.
    """

    value: Callable[[Tensor], tuple[Tensor, Tensor | None]]
    chain: Callable[[Tensor, Tensor, Tensor | None], Tensor]


@dataclass(frozen=True)
class Compression:
    """One bounded compression.

    Attributes:
        name: what a config calls it; also the norm ``ibnorm_<name>``.
        f: ``f(r, lam)`` for a tensor r >= 0 of any shape; same shape back.
        slope: ``slope(r, lam)``, the derivative of f in r. At r = 0 it is the one-sided derivative, not 0: that is the
            value the gradient needs where an activation equals its row's mean exactly.
        slope_at_zero: ``slope_at_zero(lam)``; the unit-slope form divides by it.
        bounded: why 0 <= f(r) <= r holds, in a sentence.
        of_ratio: f(r, lam) is a function of r / lam alone. Only then can lambda be learned or scheduled.
        odd: the same function for speed, or None to go without; f is then f(r, lam) = odd(r / lam), or, for a compression
            that ignores lambda and says ``of_ratio=False``, odd(r).
        operations: what it costs an element, to be counted only: of sign(c) f(|c|) with the product by 1 / lambda, and of
            its slope from what that left; (0, 0) where f is a multiple of r. None where nobody has said.
    """

    name: str
    f: Elementwise
    slope: Elementwise
    slope_at_zero: Callable[[float], float]
    bounded: str
    of_ratio: bool = True
    odd: Odd | None = None
    operations: tuple[int, int] | None = None

    def of_ratio_odd(self) -> Odd:
        """The function of v = c / lambda, for a lambda that is a tensor; ``of_ratio`` must hold."""
        assert self.of_ratio, self.name
        return self.odd or self._from_f(1.0)

    def fixed_odd(self, lam: float) -> tuple[Odd, float]:
        """The function for one lambda, and by which factor a deviation goes into it."""
        if self.odd is None:
            return self._from_f(lam), 1.0
        return self.odd, 1.0 / lam if self.of_ratio else 1.0

    def _from_f(self, lam: float) -> Odd:
        def value(v: Tensor) -> tuple[Tensor, Tensor]:
            size = v.abs()
            return self.f(size, lam).copysign(v), size

        return Odd(value, lambda dg, v, size: dg.mul_(self.slope(size, lam)))


_REGISTRY: dict[str, Compression] = {}

#: The paper's letters, by our reading (S: softsign, L: log, T: tanh); not checked against the paper's text.
ALIASES = {"s": "softsign", "l": "log", "t": "tanh"}


def register_compression(compression: Compression) -> Compression:
    """Make a compression known by its name, so that ``model.norm=ibnorm_<name>`` builds it.

    Raises:
        ValueError: the name is taken, or is one of the letters in :data:`ALIASES`.
    """
    if compression.name in _REGISTRY or compression.name.lower() in ALIASES:
        raise ValueError(f"a compression named {compression.name!r} exists already; give yours another name")
    _REGISTRY[compression.name] = compression
    return compression


def get_compression(name: str) -> Compression:
    """Look a compression up by its name or alias.

    Raises:
        ValueError: no such compression; the message names the nearest one.
    """
    found = _REGISTRY.get(ALIASES.get(name.lower(), name))
    if found is None:
        raise ValueError(f"there is no compression named {name!r}: {nearest(name, compression_names())}")
    return found


def nearest(name: str, known: Iterable[str]) -> str:
    """A mend for an unknown name: the nearest known one, or all of them."""
    known = list(known)
    near = get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(known)}"


def compression_names() -> list[str]:
    """Names of all registered compressions, in order of registration."""
    return list(_REGISTRY)


def _log(v: Tensor) -> tuple[Tensor, Tensor]:
    size = v.abs()
    return size.log1p().copysign_(v), size


def _tanh_chain(dg: Tensor, v: Tensor, kept: Tensor | None) -> Tensor:
    # 1 - tanh^2 cancels in the tail. 4 p (1 - p) with p = 1 / (1 + exp(2 |v|)) is the same, and precise everywhere.
    p = v.abs().mul_(-2).sigmoid_()
    return dg.mul_(p).mul_(p.neg_().add_(1)).mul_(4)


def _softsign(v: Tensor) -> tuple[Tensor, Tensor]:
    wide = v.abs().add_(1)
    return v / wide, wide


def _asinh(v: Tensor) -> tuple[Tensor, Tensor]:
    # asinh(a) = log1p(a + a^2 / (1 + sqrt(1 + a^2))); PyTorch's own is not vectorized on CPUs, and ten times slower.
    size = v.abs().clamp_max_(1e18)  # a square beyond is inf in float32, and inf / inf no number
    square = size.square()
    root = square.add(1).sqrt_()
    return size.addcdiv_(square, root + 1).log1p_().copysign_(v), root


_STRAIGHT = Odd(value=lambda v: (v, None), chain=lambda dg, v, kept: dg)

register_compression(
    Compression(
        name="identity",
        f=lambda r, lam: r,
        slope=lambda r, lam: r.new_ones(()).expand_as(r),
        slope_at_zero=lambda lam: 1.0,
        bounded="f(r) = r is its own bound; IBNorm is then LayerNorm, the control of a comparison",
        of_ratio=False,
        odd=_STRAIGHT,
        operations=(0, 0),
    )
)
register_compression(
    Compression(
        name="linear",
        f=lambda r, lam: r / lam,
        slope=lambda r, lam: r.new_full((), 1.0 / lam).expand_as(r),
        slope_at_zero=lambda lam: 1.0 / lam,
        bounded="r / lambda <= r for lambda >= 1; literal IBNorm is then LayerNorm with eps * lambda^2, the second control",
        odd=_STRAIGHT,
        operations=(0, 0),
    )
)
register_compression(
    Compression(
        name="log",
        f=lambda r, lam: (r / lam).log1p(),
        slope=lambda r, lam: (r + lam).reciprocal(),
        slope_at_zero=lambda lam: 1.0 / lam,
        bounded="ln(1 + u) is concave with slope 1 at 0, so ln(1 + u) <= u; its slope never vanishes",
        odd=Odd(_log, lambda dg, v, size: dg.div_(size.add_(1))),
        operations=(4, 2),
    )
)
register_compression(
    Compression(
        name="tanh",
        f=lambda r, lam: (r / lam).tanh(),
        # 1 / cosh^2 keeps its relative precision where 1 - tanh^2 cancels; cosh overflows to inf, which gives the right 0.
        slope=lambda r, lam: (r / lam).cosh().square().reciprocal() / lam,
        slope_at_zero=lambda lam: 1.0 / lam,
        bounded="tanh is concave on u >= 0 with slope 1 at 0, so tanh(u) <= u; it saturates at 1",
        odd=Odd(lambda v: (v.tanh(), None), _tanh_chain),
        operations=(2, 2),
    )
)
register_compression(
    Compression(
        name="softsign",
        f=lambda r, lam: r / (r + lam),
        slope=lambda r, lam: lam / (r + lam).square(),
        slope_at_zero=lambda lam: 1.0 / lam,
        bounded="u / (1 + u) <= u because 1 + u >= 1; it saturates at 1, slowly",
        odd=Odd(_softsign, lambda dg, v, wide: dg.div_(wide.square_())),
        operations=(4, 2),
    )
)
register_compression(
    Compression(
        name="asinh",
        f=lambda r, lam: (r / lam).asinh(),
        slope=lambda r, lam: (r.square() + lam * lam).rsqrt(),
        slope_at_zero=lambda lam: 1.0 / lam,
        bounded="asinh is concave on u >= 0 with slope 1 at 0, so asinh(u) <= u; smooth everywhere with a logarithmic tail",
        odd=Odd(_asinh, lambda dg, v, root: dg.div_(root)),
        operations=(2, 3),
    )
)
