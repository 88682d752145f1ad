"""Fused norms in Triton: one kernel forward, one backward, one source for every built-in compression.

    folding        what a kernel is told: kind, numbers, where statistics lie
    compressions   h and its slope, exact and fast
    tiles          what every kernel does with a tile of rows
    forward, backward   the kernels
    launch         from tensors to a launch
    reference      the same in plain PyTorch
    ops            custom ops, fake functions, the gradient
    shards, sharded     kernels for a hidden dimension that is sharded over a process group; what happens between them

Importing this, ``ops`` or ``folding`` does not import Triton.
"""

from __future__ import annotations

from ..compression import Compression, compression_names, get_compression
from .folding import KINDS


def has_kernel(compression: Compression) -> bool:
    """Whether the kernels know this very compression; one that merely bears a built-in name is not it."""
    known = compression.name in KINDS and compression.name in compression_names()
    return known and get_compression(compression.name) is compression
