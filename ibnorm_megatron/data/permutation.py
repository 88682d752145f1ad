"""Permutations that are arithmetic, so that no version of a library can change them.

Each number gets a hash by SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): integer additions, shifts and multiplications
modulo 2^64, which are the same everywhere. The numbers are then sorted by their hashes.
"""

from __future__ import annotations

import numpy as np

_MASK = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15
_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_CHUNK = 1 << 20  # numbers hashed at once: the temporary arrays stay in cache
_LOW = np.uint64(2**32 - 1)


def mix(*key: int) -> int:
    """One number of 64 bits from several, each from 0 to 2^64 - 1. The order of the key's numbers matters."""
    state = 0
    for number in key:
        assert 0 <= number <= _MASK, "a key's numbers have 64 bits"
        state = _splitmix((state + _GOLDEN + number) & _MASK)
    return state


def permutation(n: int, *key: int) -> np.ndarray:
    """The numbers 0 to n - 1 in an order that is a pure function of ``n`` and ``key``; uint32 ``[n]``, n at most 2^32.

    It is the stable argsort of the high 32 bits of the numbers' hashes, where number i has the (i + 1)-th output of the
    SplitMix64 generator whose state is ``mix(*key)``. Needs 12 bytes a number.
    """
    assert 0 <= n <= 2**32, "numbers have 32 bits"
    state = mix(*key)
    # The hash's half above the number itself: sorting values is ten times as fast as sorting indices, and breaks ties alike.
    packed = np.empty(n, dtype=np.uint64)
    for start in range(0, n, _CHUNK):
        number = np.arange(start, min(start + _CHUNK, n), dtype=np.uint64)
        at = number + np.uint64(1)
        at *= np.uint64(_GOLDEN)
        at += np.uint64(state)
        at ^= at >> np.uint64(30)
        at *= np.uint64(_FIRST)
        at ^= at >> np.uint64(27)
        at *= np.uint64(_SECOND)
        at ^= at >> np.uint64(31)
        at &= ~_LOW
        at |= number
        packed[start : start + number.size] = at
    packed.sort()
    order = np.empty(n, dtype=np.uint32)
    for start in range(0, n, _CHUNK):
        order[start : start + _CHUNK] = packed[start : start + _CHUNK] & _LOW
    return order


def _splitmix(z: int) -> int:
    z = ((z ^ (z >> 30)) * _FIRST) & _MASK
    z = ((z ^ (z >> 27)) * _SECOND) & _MASK
    return z ^ (z >> 31)
