"""Whole studies, played through by a formula: what is due after what, and what every arm gets."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ibnorm_megatron.errors import RunFailure
from ibnorm_megatron.lab.design import due, expected
from ibnorm_megatron.lab.study import Study
from ibnorm_megatron.lab.trials import Trial

from .studies import entry, simulate, study

#: The rate at which each arm is best, where a test says no other.
BEST = {"layernorm": 2e-3, "identity": 2e-3, "rmsnorm": 2.2e-3, "log": 1.8e-3, "tanh": 2e-3}


def bowl(best: dict[str, float], strength: float | None = None):  # type: ignore[no-untyped-def]
    """Losses with one optimum an arm, in rate and lambda; seeds shift all alike."""

    def loss(trial: Trial) -> float:
        own = math.log(trial.learning_rate / best[trial.arm]) ** 2
        far = 0.0 if strength is None or trial.strength is None else (-0.1 if trial.strength == strength else 0.1)
        return 4.0 + own + far + 0.01 * trial.seed

    return loss


def test_stages_come_one_after_the_other_and_all_arms_get_the_same(tmp_path: Path) -> None:
    asked = study(tmp_path)
    first = due(asked, [])
    assert first.stage == "tune" and not first.finished and first.choices == {}
    assert len(first.trials) == 5 * 3 * 2
    last, ledger = simulate(asked, bowl(BEST, strength=8))
    assert last.finished and last.stage == "check" and last.unfair == () and last.lost == ()
    stages = [each.trial.stage for each in ledger]
    assert list(dict.fromkeys(stages)) == ["tune", "further", "main", "check"]
    assert Counter(stages) == {"tune": 30, "further": 20, "main": 60, "check": 10}
    by_arm = Counter((each.trial.arm, each.trial.stage) for each in ledger)
    assert all(by_arm[arm, stage] == by_arm["layernorm", stage] for arm in asked.config.arms for stage in set(stages))
    assert len({each.key for each in ledger}) == len(ledger) == last.total_estimate == first.total_estimate
    assert len(expected(asked)) == len(ledger)


def test_the_choice_is_the_lowest_mean_over_seeds(tmp_path: Path) -> None:
    last, _ = simulate(study(tmp_path), bowl(BEST, strength=8))
    log = last.choices["log"]
    assert (log.learning_rate, log.strength) == (2e-3, 8)
    assert len(log.tried) == 5 and min(tried.loss for tried in log.tried) == pytest.approx(
        4.0 + math.log(2 / 1.8) ** 2 - 0.1 + 0.075
    )
    assert all(len(tried.losses) == 2 for tried in log.tried)
    assert last.choices["rmsnorm"].learning_rate == 2e-3  # 2.2e-3 is nearer to it than to the rates between

    def one_seed_likes_it(trial: Trial) -> float:
        return 3.0 if trial.seed == 7 and trial.learning_rate == 4e-3 else bowl(BEST)(trial) + (trial.seed == 8)

    def other_seed_hates_it(trial: Trial) -> float:
        return one_seed_likes_it(trial) + (9.0 if trial.seed == 8 and trial.learning_rate == 4e-3 else 0.0)

    (tmp_path / "b").mkdir()
    last, _ = simulate(study(tmp_path / "b"), other_seed_hates_it)
    assert last.choices["layernorm"].learning_rate == 2e-3


def test_rates_between_lie_around_the_best_and_may_win(tmp_path: Path) -> None:
    best = {**BEST, "rmsnorm": 2.8e-3}
    last, ledger = simulate(study(tmp_path), bowl(best))
    between = {each.trial.learning_rate for each in ledger if each.trial.stage == "further" and each.trial.arm == "rmsnorm"}
    assert sorted(between) == pytest.approx([2e-3 / 2**0.5, 2e-3 * 2**0.5], rel=1e-3)
    assert last.choices["rmsnorm"].learning_rate == pytest.approx(2.828e-3)


def test_one_arms_optimum_at_the_end_grows_the_grid_of_all(tmp_path: Path) -> None:
    last, ledger = simulate(study(tmp_path), bowl({**BEST, "log": 7e-3, "tanh": 4e-4}))
    rates = {arm: {e.trial.learning_rate for e in ledger if e.trial.stage == "tune" and e.trial.arm == arm} for arm in BEST}
    assert rates["layernorm"] == {2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2}
    assert all(each == rates["layernorm"] for each in rates.values())
    assert not any(choice.at_edge for choice in last.choices.values())
    assert last.finished


def test_what_diverged_lost_to_all_others(tmp_path: Path) -> None:
    def loss(trial: Trial) -> float | None:
        return None if trial.learning_rate > 1.5e-3 else bowl(BEST)(trial)

    last, _ = simulate(study(tmp_path), loss)
    assert last.choices["layernorm"].learning_rate <= 1.5e-3
    assert math.isinf(max(tried.loss for tried in last.choices["layernorm"].tried))


def test_a_study_ends_where_an_optimum_stays_at_the_end(tmp_path: Path) -> None:
    with pytest.raises(RunFailure, match=r"the best learning rate of log is 0\.016: it is at the end of the grid") as error:
        simulate(study(tmp_path), bowl({**BEST, "log": 1.0}))
    assert "allow: [edge]" in str(error.value) and "grown 2 times" in str(error.value)
    last, _ = simulate(study(tmp_path, allow=["edge"]), bowl({**BEST, "log": 1.0}))
    assert last.finished and last.choices["log"].at_edge and not last.choices["layernorm"].at_edge
    ((name, sentence),) = last.unfair
    assert name == "edge" and "log, 0.016," in sentence


def test_an_arm_that_always_diverges_is_said(tmp_path: Path) -> None:
    def loss(trial: Trial) -> float | None:
        return None if trial.arm == "tanh" else bowl(BEST)(trial)

    with pytest.raises(
        RunFailure, match=r"the best learning rate of tanh is none: its runs diverged at all of them, 0\.00025 to"
    ):
        simulate(study(tmp_path), loss)


def test_branches_wait_for_their_trunk(tmp_path: Path) -> None:
    asked = study(tmp_path)
    _, ledger = simulate(asked, bowl(BEST))
    tuned = [each for each in ledger if each.trial.stage in ("tune", "further")]
    now = due(asked, tuned)
    assert now.stage == "main" and now.choices
    mains = [trial for trial in now.trials if trial.stage == "main"]
    assert len(mains) == 30 and all(trial.branches == (5,) and trial.horizon == 20 for trial in mains)
    trunk = mains[0]
    after = due(asked, [*tuned, entry(asked, trunk, 3.0)])
    (branch,) = [trial for trial in after.trials if trial.trunk is not None]
    assert (branch.horizon, branch.trunk, branch.arm, branch.seed) == (5, 20, trunk.arm, trunk.seed)
    assert asked.trunk(branch) == trunk
    config, state = asked.run_config(branch), asked.recipes[trunk.size].decay_begins(5)
    assert asked.run_config(trunk).checkpoint.at == (state,)
    assert config.run.branch_from == str(asked.folder / "runs" / asked.name(trunk) / "checkpoints" / f"step-{state:08d}")


@pytest.mark.parametrize("reached", [False, True])
def test_a_trunk_that_diverges_leaves_the_branches_that_it_reached(tmp_path: Path, reached: bool) -> None:
    asked = study(tmp_path)
    _, ledger = simulate(asked, bowl(BEST))
    trunk = next(each.trial for each in ledger if each.trial.stage == "main")
    recipe = asked.recipes[trunk.size]
    tokens = (recipe.decay_begins(5) + (1 if reached else -1)) * recipe.batch_tokens
    lost_key = asked.key(trunk)
    kept = [e for e in ledger if e.key != lost_key and not (e.trial.trunk and asked.trunk(e.trial) == trunk)]
    now = due(asked, [*kept, entry(asked, trunk, None, tokens=tokens)])
    if reached:
        assert [trial.trunk for trial in now.trials] == [20] and not now.finished
    else:
        assert now.trials == () and now.finished
        ((trial, why),) = now.lost
        assert trial.trunk == 20 and "diverged after" in why


def test_failed_trials_are_tried_again_and_then_end_tuning_but_not_the_comparison(tmp_path: Path) -> None:
    asked = study(tmp_path)
    _, ledger = simulate(asked, bowl(BEST))
    failed = next(each for each in ledger if each.trial.stage == "tune").trial
    rest = [each for each in ledger if each.trial.stage == "tune" and each.trial != failed]
    once = entry(asked, failed, None, status="failed", reason="the disk is full")
    assert due(asked, [*rest, once]).trials == (failed,)
    with pytest.raises(RunFailure, match="it failed 2 times, at last: the disk is full"):
        due(asked, [*rest, once, once])
    assert due(asked, [*rest[1:], once, once]).trials == (rest[0].trial,)  # others go on meanwhile
    main = next(each for each in ledger if each.trial.stage == "check").trial
    others = [each for each in ledger if each.trial != main]
    given_up = entry(asked, main, None, status="failed", reason="killed")
    assert due(asked, [*others, given_up]).trials == (main,)
    last = due(asked, [*others, given_up, given_up])
    assert last.finished and last.lost == ((main, "it failed 2 times, at last: killed"),)


def test_a_check_has_its_run_at_the_transferred_rate(tmp_path: Path) -> None:
    asked = study(tmp_path, transfer={"rule": "power_law", "check_factors": [0.5, 2.0], "check_seeds": [2]})
    last, ledger = simulate(asked, bowl(BEST))
    checks = [each.trial for each in ledger if each.trial.stage == "check"]
    mains = [each.trial for each in ledger if each.trial.stage == "main"]
    assert len(checks) == 10
    for trial in checks:
        assert (trial.size, trial.horizon, trial.seed, trial.trunk) == ("m", 5, 2, None)
        (same,) = [m for m in mains if (m.arm, m.size, m.horizon, m.seed) == (trial.arm, "m", 5, 2)]
        assert trial.learning_rate / same.learning_rate in (pytest.approx(0.5, rel=1e-3), pytest.approx(2, rel=1e-3))
        ratio = asked.parameters("m") / asked.parameters("s")
        assert same.learning_rate == pytest.approx(last.choices[trial.arm].learning_rate * ratio**-0.33, rel=1e-4)


def test_without_tuning_the_base_configs_rate_is_everybodys(tmp_path: Path) -> None:
    arms = {"layernorm": "layernorm", "identity": "ibnorm_identity"}
    asked = study(tmp_path, tuning=..., arms=arms, allow=["untuned"])
    last, ledger = simulate(asked, lambda trial: 4.0)
    assert {each.trial.learning_rate for each in ledger if each.trial.stage == "main"} == {3e-3}
    assert last.finished and last.choices["identity"].tried == ()


def test_one_size_and_one_horizon(tmp_path: Path) -> None:
    sizes = {"s": {"num_layers": 2, "hidden_size": 32, "num_attention_heads": 2, "ffn_hidden_size": 88}, "m": ...}
    asked = study(tmp_path, sizes=sizes, horizons=[10], allow=["one_size"])
    last, ledger = simulate(asked, bowl(BEST))
    assert last.finished and last.stage == "main"
    mains = [each.trial for each in ledger if each.trial.stage == "main"]
    assert len(mains) == 15 and all(trial.branches == () and trial.trunk is None for trial in mains)
    assert not [each for each in ledger if each.trial.stage == "check"]


def _asked(tmp_path_factory: pytest.TempPathFactory, further: int, extensions: int, lambdas: list[float]) -> Study:
    arms = {
        "layernorm": "layernorm",
        "identity": "ibnorm_identity",
        "log": {"norm": "ibnorm_log", "lambdas": lambdas},
    }
    tuning = {"further_trials": further, "extensions": extensions, "seeds": [7]}
    return study(tmp_path_factory.mktemp("study"), arms=arms, tuning=tuning, allow=["edge"])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    further=st.integers(0, 5),
    extensions=st.integers(0, 3),
    lambdas=st.lists(st.sampled_from([1.0, 2.0, 8.0, 16.0]), max_size=4, unique=True),
    losses=st.dictionaries(st.integers(0, 400), st.one_of(st.none(), st.floats(0.1, 20)), max_size=60),
)
def test_whatever_runs_end_with_every_study_ends_and_arms_get_the_same(
    tmp_path_factory: pytest.TempPathFactory,
    further: int,
    extensions: int,
    lambdas: list[float],
    losses: dict[int, float | None],
) -> None:
    asked = _asked(tmp_path_factory, max(further, len(lambdas)), extensions, lambdas)
    number = iter(range(10_000))
    last, ledger = simulate(asked, lambda trial: losses.get(next(number) % 401, 4.0))
    assert last.finished
    counts = Counter((each.trial.arm, each.trial.stage) for each in ledger)
    for stage in ("tune", "further"):
        assert len({counts[arm, stage] for arm in asked.config.arms}) == 1
    for arm, choice in last.choices.items():
        assert choice.learning_rate > 0 and len(choice.tried) == counts[arm, "tune"] + counts[arm, "further"]
        best = min(tried.loss for tried in choice.tried)
        assert (choice.learning_rate, choice.strength) in [
            (tried.learning_rate, tried.strength) for tried in choice.tried if tried.loss == best
        ]
    lost = {trial for trial, _ in last.lost}
    mains = [each.trial for each in ledger if each.trial.stage == "main"]
    assert len(set(mains) | {trial for trial in lost if trial.stage == "main"}) == 3 * 2 * 2 * 3
