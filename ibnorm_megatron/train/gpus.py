"""GPUs by the figures that their vendor publishes. Imports no torch.

Sources: NVIDIA's data sheets of the A100 (2021), H100, H200 and L40S tensor-core GPUs and of HGX B200, and the architecture
white papers of Ampere and Hopper. FLOP/s are dense, without sparsity. Links between GPUs are given there as the sum of both
directions, and here in one. What a GPU has of a network is that of the vendor's own machines: eight adapters of 200 Gb/s beside
eight A100 (DGX A100), of 400 Gb/s beside eight H100, H200 or B200 (DGX H100, H200, B200).
"""

from __future__ import annotations

from dataclasses import dataclass

from ..parallel.config import Precision


@dataclass(frozen=True)
class Gpu:
    """One kind of GPU.

    Attributes:
        name: as it is asked for; PyTorch's name of the device contains it.
        half: FLOP/s of matrix products in bf16 and fp16.
        single: of those in float32, without TF32, which PyTorch leaves off.
        memory: bytes, as ``nvidia-smi`` shows them.
        bandwidth: bytes a second between the GPU and its memory.
        link: bytes a second in one direction to other GPUs of its node.
        network: bytes a second in one direction to other nodes.
        host: bytes a second in one direction to the host's memory.
    """

    name: str
    half: float
    single: float
    memory: int
    bandwidth: float
    link: float
    network: float
    host: float

    def peak(self, precision: Precision) -> float:
        """FLOP/s of matrix products in a precision."""
        return self.single if precision == "fp32" else self.half


_MIB = 2**20

#: By name; a longer name is told before a shorter one that it contains.
GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("A100-40GB", 312e12, 19.5e12, 40_960 * _MIB, 1555e9, 300e9, 25e9, 32e9),
        Gpu("A100", 312e12, 19.5e12, 81_920 * _MIB, 2039e9, 300e9, 25e9, 32e9),
        Gpu("H100", 989e12, 67e12, 81_559 * _MIB, 3350e9, 450e9, 50e9, 64e9),
        Gpu("H200", 989e12, 67e12, 143_771 * _MIB, 4800e9, 450e9, 50e9, 64e9),
        Gpu("B200", 2250e12, 75e12, 183_359 * _MIB, 7700e9, 900e9, 50e9, 64e9),
        Gpu("L40S", 362e12, 91.6e12, 46_068 * _MIB, 864e9, 32e9, 25e9, 32e9),
    )
}


def gpu_of(device: str) -> Gpu | None:
    """The GPU that PyTorch calls so, such as ``NVIDIA H100 80GB HBM3``; None where it is none of these."""
    return next((gpu for name, gpu in GPUS.items() if name in device), None)
