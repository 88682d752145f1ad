"""How fast a norm could be: the bytes it has to move, and the instructions it has to issue."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch

from ibnorm_megatron.norms.plan import Plan

from .timing import Clock, Task

#: Elements of x's size that are read or written: x, y; dy, x, dx.
TRAFFIC = {"forward": 2, "backward": 3, "both": 5}


def traffic_bytes(what: str, rows: int, width: int, dtype: torch.dtype) -> int:
    """Bytes that forward, backward or both have to move, but for parameters and statistics (under 1 %)."""
    return TRAFFIC[what] * rows * width * dtype.itemsize


def copy_task(rows: int, width: int, dtype: torch.dtype, device: torch.device) -> Task:
    """Copies that move the bytes of forward (an element read, one written) and of backward (one and a half each)."""
    source, target = torch.zeros(2, rows * width * 3 // 2, dtype=dtype, device=device)

    def copy(elements: int) -> Callable[[], object]:
        return lambda: target[:elements].copy_(source[:elements])

    def run(clock: Clock) -> dict[str, float]:
        _, forward = clock(copy(rows * width))
        _, backward = clock(copy(source.numel()))
        return {"forward": forward, "backward": backward, "both": forward + backward}

    return run


@dataclass(frozen=True)
class Gpu:
    """What sets the issue floor: 4 instructions a clock on every multiprocessor, for 32 lanes each.

    Attributes:
        name: the model.
        processors: streaming multiprocessors.
        clock: the highest of theirs, in 1/s; under load it may be lower, and then the floor is higher.
        capability: as ``90`` for Hopper.
    """

    name: str
    processors: int
    clock: float
    capability: int

    @staticmethod
    def of(device: torch.device) -> Gpu:
        """The GPU of a device, as Triton's driver describes it."""
        import triton

        index = torch.cuda.current_device() if device.index is None else device.index
        clock = 1e3 * triton.runtime.driver.active.utils.get_device_properties(index)["sm_clock_rate"]
        found = torch.cuda.get_device_properties(index)
        return Gpu(found.name, found.multi_processor_count, clock, 10 * found.major + found.minor)

    def issue_seconds(self, instructions: float) -> float:
        """The shortest time for so many instructions of one lane each."""
        return instructions / (self.processors * 4 * 32 * self.clock)


@cache
def instructions_per_element(plan: Plan, width: int, dtype: torch.dtype, bias: bool, capability: int) -> dict[str, float]:
    """Of the fused kernels, from their machine code: all of forward's, the loop over rows of backward's.

    Empty where rows are too wide for a kernel that holds them whole: there several kernels share backward.
    """
    from ibnorm_megatron.norms.kernels.folding import Settings

    from .sass import launches, per_element, read  # imports Triton

    forward, backward = launches(width, dtype, Settings.of(plan), bias=bias)
    if len(backward) > 1 or "ROWS" not in forward.constants:
        return {}
    # A tile's lanes beyond the width are issued as well.
    padding = forward.constants["BLOCK"] / width
    counted = {
        "forward": padding * per_element(forward, read(forward, capability), loop=False),
        "backward": padding * per_element(backward[0], read(backward[0], capability), loop=True),
    }
    return {**counted, "both": sum(counted.values())}


def issue_floor(gpu: Gpu, plan: Plan, rows: int, width: int, dtype: torch.dtype, bias: bool) -> dict[str, float]:
    """Seconds below which forward, backward and both cannot be, for the instructions that the kernels have."""
    counted = instructions_per_element(plan, width, dtype, bias, gpu.capability)
    return {what: gpu.issue_seconds(instructions * rows * width) for what, instructions in counted.items()}
