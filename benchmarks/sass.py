"""Compiling a launch without a GPU, for sm_90 by default, and reading the machine code (SASS) that ptxas makes of it."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ibnorm_megatron.norms.kernels.folding import Settings, slots
from ibnorm_megatron.norms.kernels.launch import Launch, backward_launches, forward_launch, is_fast

#: cuobjdump and nvdisasm come with Triton's wheel.
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
HOPPER = 90
TYPES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32", torch.float64: "fp64"}


@dataclass(frozen=True)
class Machine:
    """What ptxas made of a kernel.

    Attributes:
        registers: a thread's.
        stack: bytes of stack and local memory a thread; anything but 0 is a spill.
        opcodes: the kernel's instructions by name, without the padding behind its end.
        loop: the same for its longest loop (all of the kernel where there is none).
    """

    registers: int
    stack: int
    opcodes: Counter[str]
    loop: Counter[str]


def launches(
    width: int, dtype: torch.dtype, settings: Settings, *, residual: bool = False, bias: bool = True
) -> tuple[Launch, list[Launch]]:
    """Forward's launch and backward's, with gain, on tensors without memory."""
    x, r, y, stream, dy, dx = torch.empty(6, 1024, width, dtype=dtype, device="meta")
    weight, beta = torch.empty(2, width, dtype=dtype, device="meta")
    stats = torch.empty(slots(settings, is_fast(x)).count, 1024, device="meta")
    beta, r, stream = beta if bias else None, r if residual else None, stream if residual else None
    forward = forward_launch(x, r, weight, beta, y, stream, stats, settings)
    return forward, backward_launches(dy, r, x, weight, stats, dx, bias, settings)


def read(launch: Launch, capability: int = HOPPER) -> Machine:
    """Compile with the types and the divisibility that the launch's own arguments have, and disassemble."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        cubin.write(_compile(launch, capability).asm["cubin"])
        cubin.flush()
        usage = _tool("cuobjdump", "-res-usage", cubin.name)
        lines = _tool("nvdisasm", "-c", cubin.name).splitlines()
    registers, stack, local = (int(re.search(rf"{key}:(\d+)", usage)[1]) for key in ("REG", "STACK", "LOCAL"))
    instructions, labels, loop = [], {}, (0, 0)
    for line in lines:
        if label := re.match(r"\s*(\.L_x_\d+):", line):
            labels[label[1]] = len(instructions)
        found = re.search(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*(?:\.[A-Z0-9_]+)*)(.*)", line)
        if found and found[1] != "NOP":
            target = re.search(r"\.L_x_\d+", found[2]) if found[1].startswith("BRA") else None
            start = labels.get(target[0], len(instructions)) if target else len(instructions)
            if len(instructions) - start > loop[1] - loop[0]:
                loop = (start, len(instructions))
            instructions.append(found[1])
    body = instructions[loop[0] : loop[1] + 1] if loop[1] else instructions
    return Machine(registers, stack + local, Counter(instructions), Counter(body))


def per_element(launch: Launch, machine: Machine, *, loop: bool) -> float:
    """Instructions over the elements that a thread works on: of the longest loop, or of all the kernel."""
    tile = launch.constants["ROWS"] * launch.constants["BLOCK"]
    return (machine.loop if loop else machine.opcodes).total() * launch.warps * 32 / tile


def offset_types(launch: Launch) -> dict[str, set[str]]:
    """Of every pointer argument, the integer types that are added to the pointer itself (not to what comes of it)."""
    found: dict[str, set[str]] = {}
    names: dict[str, str] = {}
    for line in _compile(launch, HOPPER).asm["ttir"].splitlines():
        if splat := re.search(r"(%\w+) = tt.splat %(\w+) : !tt.ptr", line):  # a tile of several rows
            names[splat[1]] = splat[2]
        elif added := re.search(r"tt.addptr (%\w+), .*(?:x|\b)(i32|i64)\b", line):
            found.setdefault(names.get(added[1], added[1][1:]), set()).add(added[2])
    return found


def _compile(launch: Launch, capability: int) -> Any:
    """As Triton's launcher would: pointers and multiples of 16 are known to be so, a number that is 1 is a constant."""
    signature: dict[str, str] = {}
    constants: dict[tuple[int, ...], Any] = {}
    divisible: dict[tuple[int, ...], Any] = {}
    for at, name in enumerate(launch.kernel.arg_names):
        value = launch.constants.get(name, launch.arguments.get(name))
        if name in launch.constants or value is None or (isinstance(value, int) and value == 1):
            signature[name], constants[at,] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[name] = f"*{TYPES[value.dtype]}"
        else:
            signature[name] = "fp32" if isinstance(value, float) else "i32"
        if isinstance(value, torch.Tensor) or (signature[name] == "i32" and value % 16 == 0):
            divisible[at,] = [["tt.divisibility", 16]]
    source = ASTSource(launch.kernel, signature, constants, divisible)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=launch.options())


def _tool(name: str, *arguments: str) -> str:
    return subprocess.run([TOOLS / name, *arguments], check=True, capture_output=True, text=True).stdout  # noqa: S603
