"""The fused norm as custom ops: what they promise to PyTorch, and when they run. No GPU: fake CUDA tensors have no memory."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from ibnorm_megatron.norms import Compression, add_ib_norm, functional, ib_norm, layer_norm, rms_norm
from ibnorm_megatron.norms.kernels import ops
from ibnorm_megatron.norms.kernels.folding import Settings
from ibnorm_megatron.norms.plan import Plan

from ..distributed import command

FORMS = [("log", "absolute", True), ("tanh", "relative", True), ("identity", "absolute", True), ("softsign", "relative", False)]
ROOT = Compression(
    "root",
    f=lambda r, lam: (1 + 2 * r / lam).sqrt() - 1,
    slope=lambda r, lam: (1 + 2 * r / lam).rsqrt() / lam,
    slope_at_zero=lambda lam: 1 / lam,
    bounded="concave with slope 1 / lambda at 0",
)


def _draw(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def _plan(compression: str, scale: str, center: bool) -> Plan:
    return Plan.of(compression, 2.0, 1e-5, scale, "unit_slope", center)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("compression", "scale", "center"), FORMS)
@pytest.mark.parametrize("affine", [True, False])
def test_ops_keep_their_promises(compression: str, scale: str, center: bool, dtype: torch.dtype, affine: bool) -> None:
    """Schema (nothing mutated or aliased), fake functions (shapes, strides, types), and tracing with dynamic shapes."""
    settings = Settings.of(_plan(compression, scale, center))
    x, residual, dy, dstream = (_draw(seed, 5, 12, dtype=dtype) for seed in range(4))
    weight, bias = (_draw(seed, 12, dtype=dtype) for seed in (4, 5)) if affine else (None, None)
    _, stats = ops.norm_forward(x, weight, bias, *settings)
    checks = {
        ops.norm_forward: (x, weight, bias),
        ops.add_norm_forward: (x, residual, weight, bias),
        ops.norm_backward: (dy, dstream if affine else None, x, weight, stats, affine),
    }
    for op, arguments in checks.items():
        torch.library.opcheck(op, (*arguments, *settings))
        strided = [
            a.t().contiguous().t() if isinstance(a, Tensor) and a.dim() == 2 and a is not stats else a for a in arguments
        ]
        torch.library.opcheck(op, (*strided, *settings), test_utils="test_faketensor")


@pytest.mark.parametrize(("compression", "scale", "center"), FORMS)
def test_compiles_without_a_graph_break_and_changes_nothing(compression: str, scale: str, center: bool) -> None:
    plan = _plan(compression, scale, center)

    def block(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        y, stream = ops.fused_add_norm(x, residual, weight, bias, plan)
        return ops.fused_norm(y * 2, weight, None, plan), stream

    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    results = []
    for function in (block, compiled):
        leaves = [_draw(0, 2, 3, 12), _draw(1, 2, 3, 12), _draw(2, 12), _draw(3, 12)]
        leaves = [leaf.requires_grad_() for leaf in leaves]
        out = function(*leaves)
        torch.autograd.backward(out, [_draw(4, 2, 3, 12), _draw(5, 2, 3, 12)])
        results.append([*out, *(leaf.grad for leaf in leaves)])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("compression", "scale", "center"), FORMS)
def test_on_a_cpu_an_op_is_the_operator(compression: str, scale: str, center: bool) -> None:
    """The ops' plain form, against ``ib_norm`` in float64; with a residual stream, whose gradient takes both ways back."""
    x, residual, dy, ds = (_draw(seed, 4, 33) for seed in range(4))
    narrow = [t.clone().requires_grad_() for t in (x, residual, _draw(4, 33), _draw(5, 33))]
    out = ops.fused_add_norm(*narrow, _plan(compression, scale, center))
    torch.autograd.backward(out, [dy, ds])
    wide = [t.detach().double().requires_grad_() for t in narrow]
    expected = add_ib_norm(*wide, compression=compression, lam=2.0, scale=scale, center=center)
    torch.autograd.backward(expected, [dy.double(), ds.double()])
    pairs = zip([*out, *(t.grad for t in narrow)], [*expected, *(t.grad for t in wide)], strict=True)
    for ours, reference in pairs:
        assert float((ours.detach().double() - reference.detach()).norm() / reference.detach().norm()) <= 2e-6


class _Called(TorchDispatchMode):
    """Notes the names of the ops that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(op.name())
        return op(*args, **(kwargs or {}))

    def fused(self) -> list[str]:
        return [name.partition("::")[2] for name in self.names if name.startswith("ibnorm::")]


@contextmanager
def _warned() -> Iterator[list[str]]:
    """The warnings given inside, as in a process that has given none yet."""
    functional._warn_once.cache_clear()
    texts: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield texts
    texts += [str(warning.message) for warning in caught]
    functional._warn_once.cache_clear()


def _on_a_gpu(width: int = 8, dtype: torch.dtype = torch.bfloat16) -> tuple[Tensor, Tensor, Tensor]:
    """x, weight and bias as a GPU would hold them, under FakeTensorMode; without a GPU there is no backward on them."""
    return tuple(torch.empty(*shape, width, dtype=dtype, device="cuda") for shape in ((2, 3), (), ()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_on_a_gpu_the_built_in_norms_run_fused(dtype: torch.dtype) -> None:
    with FakeTensorMode(), _Called() as called:
        x, weight, bias = _on_a_gpu(dtype=dtype)
        for compression in ("log", "tanh", "softsign", "asinh", "identity", "linear", "l"):
            ib_norm(x, weight, bias, compression=compression)
        layer_norm(x, weight, bias, 1e-5)
        rms_norm(x, weight, None, 1e-5)
        assert called.fused() == ["norm_forward"] * 9
        y, stream = add_ib_norm(x, x, weight, bias)
        assert called.fused()[9:] == ["add_norm_forward"]
    for out in (y, stream):
        assert (out.shape, out.dtype, out.device.type) == (x.shape, dtype, "cuda")


def test_a_compression_without_a_kernel_says_so_once() -> None:
    named_log = replace(ROOT, name="log")  # bears the name of ours, and is not ours
    with FakeTensorMode(), _Called() as called, _warned() as said:
        x, weight, bias = _on_a_gpu()
        for compression in (ROOT, ROOT, named_log, ROOT):
            ib_norm(x, weight, bias, compression=compression)
            add_ib_norm(x, x, weight, bias, compression=compression)
    assert len(said) == 2
    assert "compression 'root' has no fused kernel: its norms run as eager PyTorch" in said[0]
    assert "compression 'log' has no fused kernel" in said[1]
    assert called.names and called.fused() == []


def test_a_gpu_without_triton_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functional, "_TRITON", False)
    with FakeTensorMode(), _Called() as called, _warned() as said:
        x, weight, bias = _on_a_gpu()
        ib_norm(x, weight, bias)
        layer_norm(x, weight, bias, 1e-5)
        rms_norm(x, weight, bias, 1e-5)
    assert len(said) == 1 and "Triton is not installed" in said[0]
    assert called.names and called.fused() == []


def test_a_cpu_and_float64_run_eagerly_without_a_word() -> None:
    with _Called() as called, _warned() as said:
        ib_norm(_draw(0, 2, 8), compression=ROOT)
        ib_norm(_draw(0, 2, 8))
        with FakeTensorMode():
            ib_norm(*_on_a_gpu(dtype=torch.float64))
    assert said == [] and called.names and called.fused() == []


def test_sharded_rows_on_a_gpu_take_the_fused_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    from ibnorm_megatron.norms.kernels import sharded

    taken = []
    for implementation in (sharded.FusedShardedIBNorm, functional.ShardedIBNorm):
        name = implementation.__name__
        monkeypatch.setattr(implementation, "apply", lambda x, *rest, name=name: taken.append(name) or x)
    group: Any = object()
    with FakeTensorMode():
        ib_norm(*_on_a_gpu(), process_group=group)
        ib_norm(*_on_a_gpu(dtype=torch.float64), process_group=group)
    ib_norm(_draw(0, 2, 8), process_group=group)
    assert taken == ["FusedShardedIBNorm", "ShardedIBNorm", "ShardedIBNorm"]


def test_works_where_triton_is_not_installed() -> None:
    code = """
import sys
sys.modules["triton"] = None
import torch
from ibnorm_megatron.norms import IBNorm, functional
x = torch.randn(3, 8, requires_grad=True)
IBNorm(8)(x).sum().backward()
assert not functional._TRITON and x.grad is not None
"""
    done = command("python", "-c", code)
    assert done.returncode == 0, done.stderr


def test_refuses_a_residual_that_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"residual has shape \(2, 3\)"):
        add_ib_norm(_draw(0, 2, 4), _draw(1, 2, 3))
    with pytest.raises(ValueError, match=r"type torch\.float64"):
        add_ib_norm(_draw(0, 2, 4), _draw(1, 2, 4).double())
