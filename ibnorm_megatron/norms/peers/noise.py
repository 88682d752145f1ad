"""Gaussian noise that is a function of a seed, a row's number and a column's, and so is the same however rows are sharded."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def draw_seed() -> int:
    """A seed from torch's default CPU generator: its state is in checkpoints, and activation checkpointing restores it.

    Outside of megatron's forks for sequence parallelism, which on a CPU are forks of this generator, the tensor ranks of one
    model draw the same seed.
    """
    return int(torch.randint(2**63 - 1, (), device="cpu"))


@torch.no_grad()
def gaussian(seed: int, rows: Tensor, columns: Tensor) -> Tensor:
    """Independent standard normal numbers, float32 ``[len(rows), len(columns)]``; rows and columns are int64 numbers.

    A 64-bit hash of each place (the finalizer of SplitMix64; Steele, Lea & Flood, OOPSLA 2014) gives two uniform numbers, and
    Box & Muller (1958) makes them normal; none is further out than sqrt(64 ln 2) = 6.7.
    """
    keys = _mixed(rows * _ODD + seed)
    bits = _mixed(keys[:, None] + columns * _ODD)
    radius = ((_shifted(bits, 32) + 1).float() * 2.0**-32).log_().mul_(-2).sqrt_()
    return radius.mul_((bits & 0xFFFF_FFFF).float().mul_(2 * math.pi * 2.0**-32).cos_())


#: SplitMix64's numbers, as signed 64-bit integers: torch multiplies those modulo 2^64.
_ODD, _FIRST, _SECOND = (n - 2**64 for n in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def _mixed(bits: Tensor) -> Tensor:
    bits = (bits ^ _shifted(bits, 30)) * _FIRST
    bits = (bits ^ _shifted(bits, 27)) * _SECOND
    return bits ^ _shifted(bits, 31)


def _shifted(bits: Tensor, places: int) -> Tensor:
    """Right shift that fills with zeros; torch's repeats the sign."""
    return (bits >> places) & ((1 << (64 - places)) - 1)
