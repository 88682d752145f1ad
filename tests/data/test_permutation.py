"""Permutations are the same for ever: golden values, and the generator against a slow one."""

from __future__ import annotations

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from ibnorm_megatron.data import permutation as module
from ibnorm_megatron.data.permutation import mix, permutation

MASK = 2**64 - 1


def _splitmix(state: int, count: int) -> list[int]:
    """As in the paper's code."""
    found = []
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) & MASK
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        found.append(z ^ (z >> 31))
    return found


def test_the_slow_generator_is_splitmix64() -> None:
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
    assert _splitmix(1234567, 5) == published


@settings(deadline=None, max_examples=60)
@given(n=st.integers(0, 300), key=st.lists(st.integers(0, MASK), max_size=4), chunk=st.integers(1, 400))
def test_it_is_the_stable_argsort_of_the_hashes(n: int, key: list[int], chunk: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_CHUNK", chunk)
        found = permutation(n, *key)
    hashes = [number >> 32 for number in _splitmix(mix(*key), n)]
    assert found.tolist() == sorted(range(n), key=hashes.__getitem__)
    assert found.dtype == np.uint32


GOLDEN = {
    (10,): [2, 4, 6, 8, 5, 1, 7, 0, 9, 3],
    (10, 1, 2): [2, 9, 8, 7, 3, 1, 5, 6, 0, 4],
    (1, 5): [0],
    (0, 5): [],
}


def test_golden_values() -> None:
    assert {key: permutation(*key).tolist() for key in GOLDEN} == GOLDEN
    assert xxhash.xxh3_64_hexdigest(permutation(3_000_000, 1234, 7).tobytes()) == "34638b16889ce38d"
    assert mix(1, 2) == 0xBCD9DBB49673066B
    assert len({mix(), mix(0), mix(0, 0), mix(1), mix(1, 0), mix(0, 1)}) == 6


def test_every_number_comes_once_and_keys_matter() -> None:
    for key in ((0, 0), (0, 1), (1, 0)):
        assert (np.bincount(permutation(100_000, *key)) == 1).all()
    assert not np.array_equal(permutation(1000, 0, 1), permutation(1000, 1, 0))


def test_it_shuffles() -> None:
    """Neighbours part, and no place prefers a number: far coarser than any real test of randomness, but not nothing."""
    n, times = 64, 2000
    places = np.stack([permutation(n, seed) for seed in range(times)]).astype(np.int64)
    counts = np.stack([np.bincount(places[:, place], minlength=n) for place in range(n)])
    chi_squared = ((counts - times / n) ** 2 / (times / n)).sum()
    degrees = (n - 1) ** 2
    assert abs(chi_squared - degrees) < 6 * np.sqrt(2 * degrees)
    assert abs((np.diff(places, axis=1) == 1).mean() - 1 / n) < 0.002
