"""The kernels' machine code for sm_90, compiled here without a GPU: no spills, and few enough instructions an element.

Instructions are those of the SASS that ``nvdisasm`` prints, all of the kernel's forward and those of the persistent loop
backward, over the elements that a thread works on in that span. At 16,384 x 4,096 elements an H200 issues one instruction
an element in about 2 us, so 26 instructions are under the 62 us that forward's memory traffic takes and 34 under the 94 us
of backward's (design figures: the time of these kernels on a GPU has not been measured).
"""

from __future__ import annotations

import pytest
import torch

from ibnorm_megatron.norms.kernels.folding import Settings, slots
from ibnorm_megatron.norms.kernels.launch import Launch, backward_launches, forward_launch, is_fast
from ibnorm_megatron.norms.plan import Plan

from .sass import Machine, read

#: The most instructions an element, forward and backward, at a width that is a power of two.
CEILINGS = {"identity": (14.5, 23), "log": (26, 34), "tanh": (26, 34), "softsign": (20.5, 28), "asinh": (28.5, 35)}


def _launches(
    width: int,
    dtype: torch.dtype,
    compression: str = "log",
    *,
    relative: bool = False,
    center: bool = True,
    residual: bool = False,
    bias: bool = True,
) -> tuple[Launch, list[Launch]]:
    """Forward's launch and backward's, on tensors without memory."""
    plan = Plan.of(compression, 4.0, 1e-5, "relative" if relative else "absolute", "unit_slope", center)
    settings = Settings(compression, plan.lam, plan.gain, plan.eps, plan.relative, plan.center)
    x, r, y, stream, dy, dx = torch.empty(6, 1024, width, dtype=dtype, device="meta")
    weight, beta = torch.empty(2, width, dtype=dtype, device="meta")
    stats = torch.empty(slots(settings, is_fast(x)).count, 1024, device="meta")
    beta = beta if bias else None
    forward = forward_launch(x, r if residual else None, weight, beta, y, stream if residual else None, stats, settings)
    return forward, backward_launches(dy, r if residual else None, x, weight, stats, dx, bias, settings)


def _per_element(launch: Launch, machine: Machine, *, loop: bool) -> float:
    tile = launch.constants["ROWS"] * launch.constants["BLOCK"]
    return (machine.loop if loop else machine.opcodes).total() * launch.warps * 32 / tile


def _assert_no_spill(launch: Launch) -> Machine:
    machine = read(launch)
    assert machine.stack == 0
    assert not {"LDL", "STL"} & {opcode.partition(".")[0] for opcode in machine.opcodes}
    assert machine.registers <= 255
    return machine


@pytest.mark.parametrize(
    ("compression", "width"), [*((compression, 4096) for compression in CEILINGS), ("log", 8192), ("tanh", 8192)]
)
def test_instructions_an_element(compression: str, width: int) -> None:
    forward, (backward,) = _launches(width, torch.bfloat16, compression)
    assert forward.constants["EVEN"] and backward.constants["EVEN"]
    most_forward, most_backward = CEILINGS[compression]
    assert _per_element(forward, _assert_no_spill(forward), loop=False) <= most_forward
    assert _per_element(backward, _assert_no_spill(backward), loop=True) <= most_backward


@pytest.mark.parametrize("width", [128, 1024])
def test_short_rows_share_a_tile(width: int) -> None:
    forward, (backward,) = _launches(width, torch.bfloat16)
    assert forward.constants["ROWS"] * width == 4096
    assert _per_element(forward, _assert_no_spill(forward), loop=False) <= 28
    assert _per_element(backward, _assert_no_spill(backward), loop=True) <= 36


@pytest.mark.parametrize(
    ("width", "dtype", "compression"),
    [
        (8192, torch.float32, "log"),
        (8192, torch.float32, "asinh"),
        (8000, torch.float32, "tanh"),
        (8000, torch.bfloat16, "asinh"),
        (8192, torch.float16, "tanh"),
        (16384, torch.bfloat16, "tanh"),
        (16384, torch.float32, "asinh"),
        (20000, torch.bfloat16, "log"),
    ],
)
def test_the_heaviest_kernels_do_not_spill(width: int, dtype: torch.dtype, compression: str) -> None:
    """Relative scale, centred, affine, with a residual stream; masked, exact and tiled ones among them."""
    forward, backward = _launches(width, dtype, compression, relative=True, residual=True)
    assert len(backward) == (1 if width <= 8192 else 2)
    for launch in (forward, *backward):
        _assert_no_spill(launch)


def test_rms_norm_is_the_lightest() -> None:
    forward, (backward,) = _launches(4096, torch.bfloat16, "identity", center=False, bias=False)
    assert _per_element(forward, _assert_no_spill(forward), loop=False) <= 10
    assert _per_element(backward, _assert_no_spill(backward), loop=True) <= 16


@pytest.mark.parametrize(
    ("compression", "special"),
    [("log", ["LG2"]), ("tanh", ["EX2", "RCP"]), ("softsign", ["RCP"]), ("asinh", ["LG2", "SQRT"])],
)
def test_fast_forms_are_single_instructions_of_the_special_function_unit(compression: str, special: list[str]) -> None:
    machine = read(_launches(4096, torch.bfloat16, compression)[0])
    for function in special:
        assert 32 <= machine.opcodes[f"MUFU.{function}"] <= 34  # one an element, and at most two a row
