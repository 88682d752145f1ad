"""The kernels' machine code for sm_90, compiled here without a GPU: no spills, and few enough instructions an element.

Instructions are those of the SASS that ``nvdisasm`` prints, all of the kernel's forward and those of the persistent loop
backward, over the elements that a thread works on in that span. At 16,384 x 4,096 elements an H200 issues one instruction
an element in about 2 us, so 26 instructions are under the 62 us that forward's memory traffic takes and 34 under the 94 us
of backward's (design figures: the time of these kernels on a GPU has not been measured).
"""

from __future__ import annotations

import pytest
import torch

from benchmarks.sass import Machine, launches, offset_types, per_element, read
from ibnorm_megatron.norms.kernels import shards
from ibnorm_megatron.norms.kernels.folding import Settings, slots
from ibnorm_megatron.norms.kernels.launch import Launch, is_fast
from ibnorm_megatron.norms.kernels.sharded import moments_launch, stage_launch
from ibnorm_megatron.norms.plan import Plan

#: The most instructions an element, forward and backward, at a width that is a power of two.
CEILINGS = {"identity": (14.5, 23), "log": (26, 34), "tanh": (26, 34), "softsign": (20.5, 28), "asinh": (28.5, 35)}

#: What the special-function unit has to evaluate, in one instruction an element.
SPECIAL = {"identity": [], "log": ["LG2"], "tanh": ["EX2", "RCP"], "softsign": ["RCP"], "asinh": ["LG2", "SQRT"]}


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
    return launches(width, dtype, Settings.of(plan), residual=residual, bias=bias)


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
    machine = _assert_no_spill(forward)
    assert per_element(forward, machine, loop=False) <= most_forward
    assert per_element(backward, _assert_no_spill(backward), loop=True) <= most_backward
    for function in SPECIAL[compression]:
        assert 32 <= machine.opcodes[f"MUFU.{function}"] <= 34  # of 32 elements a thread, and at most two a row


@pytest.mark.parametrize("width", [128, 1024])
def test_short_rows_share_a_tile(width: int) -> None:
    forward, (backward,) = _launches(width, torch.bfloat16)
    assert forward.constants["ROWS"] * width == 4096
    assert per_element(forward, _assert_no_spill(forward), loop=False) <= 28
    assert per_element(backward, _assert_no_spill(backward), loop=True) <= 36


@pytest.mark.parametrize(
    ("width", "dtype", "compression"),
    [
        (8192, torch.bfloat16, "tanh"),
        (8192, torch.float32, "asinh"),
        (8000, torch.bfloat16, "asinh"),
        (8000, torch.float32, "tanh"),
        (3000, torch.float32, "asinh"),
        (1000, torch.float16, "tanh"),
        (100, torch.bfloat16, "tanh"),
        (16384, torch.float32, "asinh"),
        (20000, torch.bfloat16, "log"),
    ],
)
def test_the_heaviest_kernels_do_not_spill(width: int, dtype: torch.dtype, compression: str) -> None:
    """Relative scale, centred, affine, with a residual stream; masked, exact and tiled ones among them."""
    forward, backward = _launches(width, dtype, compression, relative=True, residual=True)
    tiled = width > 8192 or (dtype == torch.float32 and not backward[0].constants["EVEN"] and width > 4096)
    assert len(backward) == (2 if tiled else 1)
    for launch in (forward, *backward):
        _assert_no_spill(launch)


def test_rms_norm_is_the_lightest() -> None:
    forward, (backward,) = _launches(4096, torch.bfloat16, "identity", center=False, bias=False)
    assert per_element(forward, _assert_no_spill(forward), loop=False) <= 10
    assert per_element(backward, _assert_no_spill(backward), loop=True) <= 16


def _sharded_launches(width: int, dtype: torch.dtype, compression: str) -> list[Launch]:
    """The stages of sharded statistics with a local width, relative scale, on tensors without memory."""
    plan = Plan.of(compression, 4.0, 1e-5, "relative", "unit_slope", True)
    settings = Settings.of(plan)
    x, y, dy, dx = torch.empty(4, 1024, width, dtype=dtype, device="meta")
    weight, bias = torch.empty(2, width, dtype=dtype, device="meta")
    stats = torch.empty(slots(settings, is_fast(x)).count, 1024, device="meta")
    sums, means = torch.empty(6, 1024, dtype=torch.float64, device="meta"), torch.empty(4, 1024, device="meta")
    return [
        moments_launch(x, sums),
        stage_launch(shards.compressed_sums, x, stats, settings, sums=sums),
        stage_launch(shards.write, x, stats, settings, weight=weight, bias=bias, y=y),
        stage_launch(shards.gradient_sums, x, stats, settings, dy=dy, weight=weight, sums=sums),
        stage_launch(shards.gradient_write, x, stats, settings, dy=dy, weight=weight, means=means, dx=dx),
    ]


@pytest.mark.parametrize(("width", "dtype", "compression"), [(5000, torch.float32, "asinh"), (4096, torch.bfloat16, "tanh")])
def test_the_sharded_stages_do_not_spill(width: int, dtype: torch.dtype, compression: str) -> None:
    for launch in _sharded_launches(width, dtype, compression):
        _assert_no_spill(launch)


@pytest.mark.parametrize("width", [4096, 20000])
def test_row_offsets_are_64_bits_wide(width: int) -> None:
    """2^31 elements are one large batch: no kernel may find a row of x, y or a gradient by a 32-bit number."""
    forward, backward = _launches(width, torch.bfloat16, residual=True)
    sharded = _sharded_launches(width, torch.bfloat16, "tanh")
    rows = {"x", "residual", "y", "stream", "dy", "dstream", "dx"}
    for launch in (forward, *backward, *sharded):
        widths = offset_types(launch)
        given = {name for name in rows & set(launch.arguments) if launch.arguments[name] is not None}
        assert given and given <= set(widths), launch.kernel
        for name in given:
            assert widths[name] == {"i64"}, (launch.kernel, name)
