"""A blend gives every corpus its share, at every moment, and its samples one after another."""

from __future__ import annotations

import math
from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from ibnorm_megatron.data.blend import Blend

WEIGHTS = st.lists(
    st.one_of(st.floats(1e-6, 1e6), st.integers(1, 1000).map(float), st.sampled_from([0.1, 0.2, 0.3, 0.7, 1 / 3])),
    min_size=1,
    max_size=12,
)


@settings(deadline=None, max_examples=60)
@given(weights=WEIGHTS, horizon=st.integers(1, 600))
def test_shares_are_exact_and_every_corpus_counts_up(weights: list[float], horizon: int) -> None:
    blend = Blend(weights)
    exact = [Fraction(str(weight)) for weight in weights]
    counts, bound = [0] * len(weights), Fraction(math.ceil(math.log2(len(weights))), 2)
    for sample in range(horizon):
        corpus, place = blend.place(sample)
        assert place == counts[corpus]
        counts[corpus] += 1
        for count, weight in zip(counts, exact, strict=True):
            assert abs(count - (sample + 1) * weight / sum(exact)) <= bound


@settings(deadline=None, max_examples=60)
@given(weights=WEIGHTS, start=st.integers(0, 10**15))
def test_it_goes_on_from_anywhere_as_if_it_had_counted(weights: list[float], start: int) -> None:
    """Far out, where no table reaches: places still go up by one, and are where the shares put them."""
    blend, exact = Blend(weights), [Fraction(str(weight)) for weight in weights]
    last: dict[int, int] = {}
    for sample in range(start, start + 50):
        corpus, place = blend.place(sample)
        assert place == last.get(corpus, place - 1) + 1
        last[corpus] = place
        assert abs(place - sample * exact[corpus] / sum(exact)) <= 1 + Fraction(math.ceil(math.log2(len(weights))), 2)


def test_golden_values() -> None:
    assert [Blend([0.5, 0.3, 0.2]).place(i) for i in range(10)] == [
        (0, 0),
        (1, 0),
        (0, 1),
        (2, 0),
        (0, 2),
        (1, 1),
        (0, 3),
        (2, 1),
        (0, 4),
        (1, 2),
    ]
    assert [Blend([1.0]).place(i) for i in (0, 7)] == [(0, 0), (0, 7)]
    assert [Blend([0.1, 0.2, 0.7]).place(i) for i in range(99)] == [Blend([1.0, 2.0, 7.0]).place(i) for i in range(99)]


def test_whole_multiples_give_whole_shares() -> None:
    blend, counts = Blend([0.7, 0.2, 0.1]), [0, 0, 0]
    for sample in range(1000):
        counts[blend.place(sample)[0]] += 1
    assert counts == [700, 200, 100]
