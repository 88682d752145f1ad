"""Batch, steps, warm-up and decay by rule; learning rates at other sizes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibnorm_megatron.lab.rules import DECAY_FRACTION, LEAST_STEPS, derivation, evaluated_alike, recipe_of, transferred
from ibnorm_megatron.train.config import TrainConfig
from ibnorm_megatron.train.schedule import learning_rate

sizes = st.integers(20_000, 10**9)
lengths = st.sampled_from([32, 128, 2048])
several = st.lists(st.sampled_from([1.0, 2.5, 5.0, 10.0, 20.0, 80.0, 320.0]), min_size=1, max_size=4, unique=True)


@given(sizes, several, lengths)
def test_the_batch_is_a_power_of_two_and_leaves_enough_steps(parameters: int, horizons: list[float], length: int) -> None:
    recipe = recipe_of(parameters, horizons, length)
    assert recipe.batch & (recipe.batch - 1) == 0
    if recipe.batch > 1:
        assert recipe.steps(min(horizons)) >= LEAST_STEPS
    assert recipe.tokens(max(horizons)) == pytest.approx(max(horizons) * parameters, abs=recipe.batch_tokens)


@given(sizes, several, lengths)
def test_a_larger_model_never_has_a_smaller_batch(parameters: int, horizons: list[float], length: int) -> None:
    assert recipe_of(2 * parameters, horizons, length).batch >= recipe_of(parameters, horizons, length).batch


@given(sizes, several, lengths)
def test_every_end_shares_the_trunks_learning_rates_until_its_decay(
    parameters: int, horizons: list[float], length: int
) -> None:
    recipe = recipe_of(parameters, horizons, length)
    others = {"sequence_length": length, "micro_batch_size": 1, "lr": 1e-3, "seed": 1}
    trains = [TrainConfig.model_validate({**others, **recipe.train_fields(horizon)}) for horizon in sorted(horizons)]
    for horizon, train in zip(sorted(horizons), trains, strict=True):
        begins = recipe.decay_begins(horizon)
        assert train.warmup_steps == recipe.warmup_steps <= begins
        for step in {1, recipe.warmup_steps, begins}:
            assert learning_rate(train, step) == learning_rate(trains[-1], step)
        assert learning_rate(train, begins + 1) < train.lr
        assert learning_rate(train, train.steps) == 0
        assert train.steps - begins == max(1, round(DECAY_FRACTION * train.steps))


def test_numbers_that_the_page_shows() -> None:
    recipe = recipe_of(1_000_000, [5, 20], 128)
    assert (recipe.batch, recipe.batch_tokens) == (256, 32768)
    assert [recipe.steps(horizon) for horizon in (5, 20)] == [153, 610]
    assert recipe.warmup_steps == 15
    assert recipe_of(10**9, [20], 2048).batch_tokens == 2**19


def test_long_runs_warm_up_over_as_many_tokens_as_parameters() -> None:
    recipe = recipe_of(60_000_000, [20], 1024)
    assert recipe.warmup_steps * recipe.batch_tokens == pytest.approx(60e6, rel=0.01)


def test_a_batch_that_is_given_is_taken() -> None:
    assert recipe_of(1_000_000, [20], 128, batch_tokens=1000).batch == 7
    assert recipe_of(1_000_000, [20], 128, batch_tokens=1).batch == 1


def test_all_sizes_are_evaluated_on_the_same_sequences() -> None:
    recipes = {name: recipe_of(n, [5, 20], 128) for name, n in (("s", 100_000), ("m", 300_000), ("l", 1_000_000))}
    found = evaluated_alike(recipes, 300)
    assert {recipe.batch for recipe in found.values()} == {16, 64, 256}
    assert {recipe.batch * recipe.evaluation_batches for recipe in found.values()} == {512}


@pytest.mark.parametrize(("rule", "expected"), [("mup", 1e-3), ("constant", 1e-3), ("power_law", 5e-4)])
def test_transfer(rule: str, expected: float) -> None:
    assert transferred(rule, 1e-3, 800, 100, -1 / 3) == pytest.approx(expected)  # type: ignore[arg-type]
    assert transferred(rule, 1e-3, 100, 100, -1 / 3) == 1e-3  # type: ignore[arg-type]


def test_the_derivation_says_the_numbers_that_are_used() -> None:
    recipe = recipe_of(1_000_000, [5, 20], 128)
    text = " ".join(derivation(recipe, [5, 20], given=False))
    for number in ("256 x 128 = 32,768", "15 steps", "153 steps", "610 steps", f"from {recipe.decay_begins(5)} on"):
        assert number in text
    assert "batch_tokens is given" in derivation(recipe, [5, 20], given=True)[0]
