"""What is compared: this project's norms, and what else computes LayerNorm, RMSNorm or the same formulas.

Every contender of one formula gets the same tensors and computes the same function.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor

from ibnorm_megatron.norms import ib_norm
from ibnorm_megatron.norms.functional import layer_norm, rms_norm
from ibnorm_megatron.norms.plan import Plan

EPS = 1e-5
LAMBDA = 4.0

#: Of x ``[rows, width]``, weight and bias ``[width]``, and a lambda ``[1]`` where it is learned.
Norm = Callable[..., Tensor]

#: f of the unit-slope form, by the names that the table shows; LayerNorm is that of f = identity.
COMPRESSIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "log": lambda r: LAMBDA * torch.log1p(r / LAMBDA),
    "tanh": lambda r: LAMBDA * torch.tanh(r / LAMBDA),
    "softsign": lambda r: r / (1 + r / LAMBDA),
    "asinh": lambda r: LAMBDA * torch.asinh(r / LAMBDA),
}


@dataclass(frozen=True)
class Inputs:
    """What a norm gets: x and dy ``[rows, width]``, weight and bias ``[width]``, and a lambda ``[1]`` to learn."""

    x: Tensor
    weight: Tensor
    bias: Tensor
    lam: Tensor
    dy: Tensor

    @staticmethod
    def random(rows: int, width: int, dtype: torch.dtype, device: torch.device, offset: float = 0.0) -> Inputs:
        """Normal numbers, x around ``offset``; the same on every device."""
        generator = torch.Generator().manual_seed(0)
        x, dy = (torch.randn(rows, width, generator=generator) for _ in range(2))
        weight, bias = 0.1 * torch.randn(2, width, generator=generator)
        tensors = [tensor.to(device, dtype) for tensor in (x + offset, 1 + weight, bias)]
        lam = torch.full((1,), LAMBDA, device=device)
        return Inputs(*(tensor.requires_grad_() for tensor in (*tensors, lam)), dy.to(device, dtype))

    def double(self) -> Inputs:
        """The same numbers in float64."""
        wide = [tensor.detach().double() for tensor in (self.x, self.weight, self.bias, self.lam)]
        return Inputs(*(tensor.requires_grad_() for tensor in wide), self.dy.double())


@dataclass(frozen=True)
class Contender:
    """One implementation.

    Attributes:
        name: the table's.
        formula: what it computes; contenders of one formula are comparable digit by digit.
        norm: the function.
        uses: which of the inputs get gradients.
        ours: whether it is this project's.
        plan: of ours, what its fused kernels are told; None where it has none.
        missing: the package that it needs and that is not installed.
    """

    name: str
    formula: str
    norm: Norm
    uses: tuple[str, ...] = ("x", "weight", "bias")
    ours: bool = False
    plan: Plan | None = None
    missing: str | None = None

    def forward(self, inputs: Inputs) -> Tensor:
        """y ``[rows, width]``."""
        lam = {"lam": inputs.lam} if "lam" in self.uses else {}
        return self.norm(inputs.x, inputs.weight, inputs.bias, **lam)

    def gradients(self, y: Tensor, inputs: Inputs) -> tuple[Tensor, ...]:
        """Those of the used inputs, in their order."""
        return torch.autograd.grad(y, [getattr(inputs, name) for name in self.uses], inputs.dy)


def contenders(device: torch.device, *, compiled: bool) -> list[Contender]:
    """All that stand for a device, installed or not; the first is the one that ratios are to."""
    peers = [
        _plain("F.layer_norm", "layernorm", lambda x, w, b: F.layer_norm(x, x.shape[-1:], w, b, EPS)),
        _plain("F.rms_norm", "rmsnorm", lambda x, w, b: F.rms_norm(x, x.shape[-1:], w, EPS)),
    ]
    ours = [
        _ours("ours layernorm", "layernorm", lambda x, w, b: layer_norm(x, w, b, EPS), _plan("identity")),
        _ours("ours rmsnorm", "rmsnorm", lambda x, w, b: rms_norm(x, w, None, EPS), _plan("identity", center=False)),
        _ours("ours identity", "layernorm", partial(ib_norm, compression="identity"), _plan("identity")),
        *(_ours(f"ours {name}", name, partial(ib_norm, compression=name), _plan(name)) for name in COMPRESSIONS),
        _ours("ours log, relative", "log, relative", partial(ib_norm, scale="relative"), _plan("log", relative=True)),
    ]
    learned = Contender("ours log, learned lambda", "log", ib_norm, ("x", "weight", "bias", "lam"), ours=True)
    found = [*peers, *ours, learned]
    if compiled:
        # A kernel is opaque to torch.compile: on a GPU the compiled norm is the same one.
        again = [*peers, _plain("log in plain PyTorch", "log", literal("log"))]
        if device.type == "cpu":
            again += [one for one in ours if one.name in ("ours log", "ours tanh", "ours softsign")]
        found += [_compiled(one) for one in again]
    if device.type == "cuda":
        found += _installed_peers()
    return found


def literal(formula: str) -> Norm:
    """A formula as it is written on paper, differentiated by autograd: in float64 the reference."""

    def norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        if formula == "rmsnorm":
            return (wide * (wide.square().mean(-1, keepdim=True) + EPS).rsqrt() * weight).to(x.dtype)
        c = wide - wide.mean(-1, keepdim=True)
        kind, _, relative = formula.partition(", ")
        if relative:
            c = c * (c.square().mean(-1, keepdim=True) + EPS).rsqrt()
        g = c if kind == "layernorm" else _odd(COMPRESSIONS[kind], c)
        g = g - g.mean(-1, keepdim=True)
        return (g * (g.square().mean(-1, keepdim=True) + EPS).rsqrt() * weight + bias).to(x.dtype)

    return norm


def _odd(f: Callable[[Tensor], Tensor], c: Tensor) -> Tensor:
    """sign(c) f(|c|), with the slope f'(0) at 0, where autograd takes sign's and abs's for 0."""
    return torch.where(c >= 0, f(c.clamp(min=0)), -f((-c).clamp(min=0)))


def _installed_peers() -> list[Contender]:
    """Liger and Quack, which are imported where they are installed."""
    liger, quack = (None if find_spec(package) else package for package in ("liger_kernel", "quack"))
    rms, layer, quack_rms = _not_there, _not_there, _not_there
    if torch.cuda.is_available() and not liger:
        from liger_kernel.transformers.functional import liger_layer_norm, liger_rms_norm

        # In place, its backward writes over dy, which is the others' too.
        rms = lambda x, w, b: liger_rms_norm(x, w, EPS, in_place=False)  # noqa: E731
        layer = lambda x, w, b: liger_layer_norm(x, w, b, EPS)  # noqa: E731
    if torch.cuda.is_available() and not quack:
        from quack import rmsnorm

        quack_rms = lambda x, w, b: rmsnorm(x, w, eps=EPS)  # noqa: E731
    return [
        replace(_plain("Liger LayerNorm", "layernorm", layer), missing=liger),
        replace(_plain("Liger RMSNorm", "rmsnorm", rms), missing=liger),
        replace(_plain("Quack RMSNorm", "rmsnorm", quack_rms), missing=quack),
    ]


def _not_there(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    raise AssertionError("a contender that is not installed was run")


def _plan(name: str, *, relative: bool = False, center: bool = True) -> Plan:
    return Plan.of(name, LAMBDA, EPS, "relative" if relative else "absolute", "unit_slope", center)


def _plain(name: str, formula: str, norm: Norm) -> Contender:
    uses = ("x", "weight") if formula == "rmsnorm" else ("x", "weight", "bias")
    return Contender(name, formula, norm, uses)


def _ours(name: str, formula: str, norm: Norm, plan: Plan) -> Contender:
    return replace(_plain(name, formula, norm), ours=True, plan=plan)


def _compiled(one: Contender) -> Contender:
    """The same through torch.compile, for the shape at hand."""

    def norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return one.norm(x, weight, bias)

    compiled = torch.compile(norm, fullgraph=True, dynamic=False)
    return replace(one, name=f"{one.name}, compiled", norm=compiled, plan=None)
