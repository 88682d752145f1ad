"""The floor under a training step: its matrix products and its attention alone, on tensors that lie ready.

No LLaMA of this shape can step faster with the same products: norms, RoPE, activations, residuals, the loss, clipping and the
optimizer come on top.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ibnorm_megatron.model.cpu_attention import block_attention

from .llamas import Shape
from .timing import Clock, Task, WallClock


def floor_task(shape: Shape, dtype: torch.dtype, device: torch.device) -> Task:
    """Forward and backward of every matrix product and of every layer's attention."""
    d, ffn = shape.width, shape.ffn
    of_a_layer = [(3 * d, d), (d, d), (2 * ffn, d), (d, ffn)]  # qkv, proj, gate and up, down
    products = [_product(shape.tokens, *size, dtype, device) for size in of_a_layer]
    head = _product(shape.tokens, shape.vocabulary, d, dtype, device)
    attention = _fastest_attention(shape, dtype, device)

    def floor() -> None:
        for _ in range(shape.layers):
            for product in products:
                product()
            attention()
        head()

    def run(clock: Clock) -> dict[str, float]:
        return {"step": clock(floor)[1]}

    return run


def _product(tokens: int, rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> Callable[[], None]:
    """y = x W^T, dx = dy W and dW = dy^T x, written where they were written the last time."""
    x, dx = (torch.randn(tokens, columns, dtype=dtype, device=device) for _ in range(2))
    y, dy = (torch.randn(tokens, rows, dtype=dtype, device=device) for _ in range(2))
    w, dw = (torch.randn(rows, columns, dtype=dtype, device=device) for _ in range(2))

    def run() -> None:
        torch.mm(x, w.t(), out=y)
        torch.mm(dy, w, out=dx)
        torch.mm(dy.t(), x, out=dw)

    return run


def _fastest_attention(shape: Shape, dtype: torch.dtype, device: torch.device) -> Callable[[], None]:
    """PyTorch's attention or the one made of products, whichever is faster here."""
    size = (shape.batch, shape.heads, shape.length, shape.width // shape.heads)
    q, k, v = (torch.randn(size, dtype=dtype, device=device, requires_grad=True) for _ in range(3))
    dy = torch.randn(size, dtype=dtype, device=device)

    def using(attend: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Callable[[], None]:
        def run() -> None:
            torch.autograd.grad(attend(q, k, v), (q, k, v), dy)

        return run

    ways = [using(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True))]
    if device.type == "cpu":
        ways.append(using(_block_attention))
    clock = WallClock()
    return min(ways, key=lambda way: min(clock(way)[1] for _ in range(5)))


def _block_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """As SDPA takes it: ``[b, heads, s, head_dim]``."""
    return block_attention(*(t.permute(2, 0, 1, 3) for t in (q, k, v)), 0.0, None).permute(1, 2, 0, 3)
