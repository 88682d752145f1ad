"""From tensors to a launch: which kernel, on what grid, with which tile. Keyed on the row's width alone.

A tile is 4,096 elements, or one row where that is more: 32 elements a thread, which is where the instructions that do not
depend on the elements (addresses, exchanges between the warps) cost least and the backward's registers just do not spill.
Masks and the tiled kernels' running sums take more registers: there it is 16 elements a thread.
Tiles and stages were chosen by reading the machine code for sm_90 (registers, spills, instructions an element; see
tests/norms/test_kernels_sm90.py). Their time on a GPU has not been measured.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import triton
from torch import Tensor

from .backward import backward_rows, backward_tiled, parameter_gradients
from .folding import Settings, fold, slots
from .forward import forward_rows, forward_tiled

#: Rows wider than this go through the tiled kernels: above, the row no longer fits the registers of a program.
WIDEST_FORWARD_ROW = 16384
WIDEST_BACKWARD_ROW = 8192

_TILE = 4096
_THREAD_ELEMENTS = 32
FEWER_THREAD_ELEMENTS = 16


@dataclass(frozen=True)
class Launch:
    """One kernel launch: tensors and numbers by the kernel's own names, None for a tensor that is absent."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    constants: dict[str, Any]
    warps: int

    def run(self) -> None:
        """Start the kernel on its tensors' device, unless there are no rows.

        Triton launches on the current device, which need not be x's.
        """
        if self.arguments["n_rows"]:
            with torch.cuda.device_of(self.arguments["x"]):
                self.kernel[self.grid](**self.arguments, **self.constants, **self.options())

    def parameter_gradients(self) -> tuple[Tensor | None, Tensor | None]:
        """dgamma and dbeta ``[d]`` in float32, from the partial sums that this launch has filled; None for what is absent."""
        partial = self.arguments["dweight"], self.arguments["dbias"]
        return tuple(None if sums is None else sums.sum(0) for sums in partial)

    def options(self) -> dict[str, Any]:
        """Warps, and whether a multiplication and an addition may become one instruction.

        The exact forms may not: they are what the interpreter runs, rounding by rounding.
        """
        return {"num_warps": self.warps, "enable_fp_fusion": self.constants.get("FAST", False)}


def forward(
    x: Tensor, residual: Tensor | None, weight: Tensor | None, bias: Tensor | None, settings: Settings
) -> tuple[Tensor, Tensor | None, Tensor]:
    """y ``[n, d]``, the new residual stream ``[n, d]`` or None, and the rows' statistics, from x ``[n, d]``."""
    x, residual = strided_rows(x), None if residual is None else strided_rows(residual)
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    stream = None if residual is None else torch.empty_like(y)
    stats = x.new_empty((slots(settings, is_fast(x)).count, x.shape[0]), dtype=torch.float32)
    forward_launch(x, residual, weight, bias, y, stream, stats, settings).run()
    return y, stream, stats


def backward(
    dy: Tensor, dstream: Tensor | None, x: Tensor, weight: Tensor | None, stats: Tensor, bias: bool, settings: Settings
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """dx ``[n, d]`` in x's type; dgamma and dbeta ``[d]`` in float32, None where there is no gamma or no ``bias``."""
    x, dy, dstream = strided_rows(x), strided_rows(dy), None if dstream is None else strided_rows(dstream)
    dx = torch.empty_like(x, memory_format=torch.contiguous_format)
    launches = backward_launches(dy, dstream, x, weight, stats, dx, bias, settings)
    for launch in launches:
        launch.run()
    return dx, *launches[-1].parameter_gradients()


def forward_launch(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    y: Tensor,
    stream: Tensor | None,
    stats: Tensor,
    settings: Settings,
) -> Launch:
    """The launch that fills y, stream and stats."""
    folded = fold(settings, is_fast(x))
    arguments = {
        "x": x, "residual": residual, "weight": weight, "bias": bias, "y": y, "stream": stream, "stats": stats,
        "x_stride": x.stride(0), "residual_stride": 0 if residual is None else residual.stride(0),
        "n_rows": x.shape[0], "width": x.shape[1], "inv_width": 1.0 / x.shape[1],
        "inv_lam": folded.inv_lam, "eps": settings.eps, "eps_h": folded.eps_h,
    }  # fmt: skip
    constants = {
        **constants_of(x, settings),
        "RESIDUAL": residual is not None, "WEIGHT": weight is not None, "BIAS": bias is not None,
    }  # fmt: skip
    if x.shape[1] > WIDEST_FORWARD_ROW:
        constants |= {"EVEN": x.shape[1] % _TILE == 0, "BLOCK": _TILE}
        return Launch(forward_tiled, (x.shape[0],), arguments, constants, warps_of(_TILE, FEWER_THREAD_ELEMENTS))
    block, rows = tile_of(x.shape[1])
    constants |= {"EVEN": x.shape[1] == block, "ROWS": rows, "BLOCK": block}
    return Launch(forward_rows, (triton.cdiv(x.shape[0], rows),), arguments, constants, warps_of(rows * block))


def backward_launches(
    dy: Tensor,
    dstream: Tensor | None,
    x: Tensor,
    weight: Tensor | None,
    stats: Tensor,
    dx: Tensor,
    bias: bool,
    settings: Settings,
) -> list[Launch]:
    """The launches that fill dx and, in the last one's arguments, the partial sums of dgamma and dbeta."""
    n_rows, width = x.shape
    folded = fold(settings, is_fast(x))
    arguments = {
        "dy": dy, "dstream": dstream, "x": x, "weight": weight, "stats": stats, "dx": dx,
        "dy_stride": dy.stride(0), "dstream_stride": 0 if dstream is None else dstream.stride(0), "x_stride": x.stride(0),
        "n_rows": n_rows, "width": width, "inv_width": 1.0 / width, "inv_lam": folded.inv_lam, "chain": folded.chain,
    }  # fmt: skip
    constants = {**constants_of(x, settings), "STREAM": dstream is not None, "WEIGHT": weight is not None}
    block, rows = tile_of(width)
    even = width == block
    # Masks and the exact forms together spill beyond half the width.
    if width <= (WIDEST_BACKWARD_ROW if even or is_fast(x) else WIDEST_BACKWARD_ROW // 2):
        programs = min(triton.cdiv(n_rows, rows), _programs(x.device, block))
        arguments |= _partial_sums(x, programs, weight is not None, bias)
        # Keeping tiles of many short rows in flight costs more instructions (layout changes) than it can hide.
        constants |= {
            "BIAS": bias, "EVEN": even, "ROWS": rows, "BLOCK": block, "STAGES": 2 if rows <= 4 else 1
        }  # fmt: skip
        warps = warps_of(rows * block, _THREAD_ELEMENTS if even else FEWER_THREAD_ELEMENTS)
        return [Launch(backward_rows, (programs,), arguments, constants, warps)]
    constants |= {"EVEN": width % _TILE == 0, "BLOCK": _TILE}
    tiled = Launch(backward_tiled, (n_rows,), arguments, constants, warps_of(_TILE, FEWER_THREAD_ELEMENTS))
    return [tiled, parameter_launch(dy, x, weight, stats, bias, settings)]


def parameter_launch(dy: Tensor, x: Tensor, weight: Tensor | None, stats: Tensor, bias: bool, settings: Settings) -> Launch:
    """The launch that leaves partial sums of dgamma and dbeta in its own arguments, for rows of any width."""
    n_rows, width = x.shape
    block, rows = 256, 16
    programs = min(triton.cdiv(n_rows, rows), 16)
    arguments = {
        "dy": dy, "x": x, "stats": stats, "dy_stride": dy.stride(0), "x_stride": x.stride(0),
        "n_rows": n_rows, "width": width, "inv_lam": fold(settings, is_fast(x)).inv_lam,
    }  # fmt: skip
    constants = {
        **constants_of(x, settings),
        "WEIGHT": weight is not None, "BIAS": bias, "EVEN": width % block == 0, "ROWS": rows, "BLOCK": block,
    }  # fmt: skip
    arguments |= _partial_sums(x, programs, weight is not None, bias)
    return Launch(parameter_gradients, (triton.cdiv(width, block), programs), arguments, constants, warps_of(_TILE))


def is_fast(x: Tensor) -> bool:
    """Whether x's type takes the fast forms: bf16 and fp16 do, fp32 takes the exact ones."""
    return x.dtype in (torch.bfloat16, torch.float16)


def tile_of(width: int) -> tuple[int, int]:
    """BLOCK, a power of two of at least the width, and the number of rows that a tile holds."""
    block = max(16, triton.next_power_of_2(width))
    return block, max(1, min(64, _TILE // block))


def constants_of(x: Tensor, settings: Settings) -> dict[str, Any]:
    """What every kernel has to know at compile time."""
    fast = is_fast(x)
    places = slots(settings, fast)
    return {
        "KIND": fold(settings, fast).kind, "CENTER": settings.center, "SCALE_SLOT": places.scale,
        "MEAN_H_SLOT": places.mean_h, "RHO_SLOT": places.rho, "FAST": fast, "ASM": fast and not interpreting(),
    }  # fmt: skip


def interpreting() -> bool:
    """Whether Triton interprets the kernels on the CPU; it reads this variable when it is imported."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def warps_of(tile: int, thread_elements: int = _THREAD_ELEMENTS) -> int:
    """Warps for a tile of so many elements."""
    return max(1, min(32, tile // (32 * thread_elements)))


def strided_rows(x: Tensor) -> Tensor:
    """x ``[n, d]`` itself if its columns are adjacent in memory, else a copy; rows may lie apart."""
    return x if x.stride(1) == 1 else x.contiguous()


def _partial_sums(x: Tensor, programs: int, weight: bool, bias: bool) -> dict[str, Tensor | None]:
    shape = (programs, x.shape[1])
    return {
        "dweight": x.new_empty(shape, dtype=torch.float32) if weight else None,
        "dbias": x.new_empty(shape, dtype=torch.float32) if bias else None,
    }


def _programs(device: torch.device, block: int) -> int:
    """Programs of the persistent backward: as many as are resident at 250 registers a thread."""
    return (2 if block <= _TILE else 1) * (_processors(device) if device.type == "cuda" else 2)


@cache
def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count
