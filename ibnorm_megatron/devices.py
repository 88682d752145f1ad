"""What a machine computes on, as far as that is known without torch."""

from __future__ import annotations

from pathlib import Path


def has_gpu_driver() -> bool:
    """Whether torch is worth asking for GPUs: without a driver's device file it has none, and takes seconds to say so."""
    return any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd"))
