"""Unfair designs: each is refused by name, allowed by name, and then said."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

from ibnorm_megatron.errors import UserError
from ibnorm_megatron.lab.fairness import further_trials, unfair
from ibnorm_megatron.lab.study import UNFAIR, StudyConfig, Unfair, load_study

from .studies import STUDY, study, write

ARMS = STUDY["arms"]

WAYS: dict[str, tuple[dict[str, Any], str]] = {
    "unequal_trials": (
        {
            "arms": {
                **ARMS,
                "log": {"norm": "ibnorm_log", "lambdas": [1, 2, 8, 16]},
                "tanh": {"norm": "ibnorm_tanh", "lambdas": [2, 8, 16]},
            }
        },
        "whose lambda is tuned do not have equally many trials after the grid (log 4, tanh 3)",
    ),
    "one_arms_lambda": (
        {"tuning": {"further_trials": 0}},
        "log, tanh gets 2 trials of lambda after the grid, and layernorm, identity, rmsnorm only 0 of its learning rate",
    ),
    "no_control": ({"control": ...}, "no arm is the baseline by another code path"),
    "few_seeds": ({"seeds": [1, 2]}, "there are 2 seeds, and differences of this size come and go with the seed"),
    "one_size": ({"sizes": {"m": ...}}, "there is one size, so nothing can be said of another"),
    "untuned": ({"tuning": {"learning_rates": [1e-3]}}, "tuning.learning_rates is a single one, in which nothing can be best"),
    "unchecked_transfer": (
        {"transfer": {"check_factors": []}},
        "transferred learning rate is near the best at m is not checked",
    ),
}


def test_every_way_has_a_name_and_words() -> None:
    assert set(get_args(Unfair)) == set(UNFAIR) == {*WAYS, "edge"}


def test_a_fair_design_is_none_of_them(tmp_path: Path) -> None:
    assert unfair(study(tmp_path).config) == []


@pytest.mark.parametrize("name", WAYS)
def test_unfair_designs_are_refused_unless_they_are_named(tmp_path: Path, name: str) -> None:
    changes, words = WAYS[name]
    also = ["one_arms_lambda"] if name == "unequal_trials" else []  # the other arms have two trials as well
    path = write(tmp_path, {**changes, "allow": also})
    with pytest.raises(UserError) as error:
        load_study(path)
    (problem,) = error.value.problems
    assert problem.where == "the design" and problem.value == f"unfair ({name})"
    assert words in str(problem) and f"or name it in allow: [{name}], and the report says so in red" in problem.mend
    found = load_study(path, [f"allow=[{', '.join([name, *also])}]"])
    said = dict(found.overridden)
    assert set(said) == {name, *also} and words in said[name]
    assert not list(tmp_path.glob("out"))


@pytest.mark.parametrize(
    ("changes", "name", "words"),
    [
        ({"control": "rmsnorm"}, "no_control", "rmsnorm is another norm than layernorm, not the same by another code path"),
        ({"control": "log"}, "no_control", "log is another norm than layernorm, not the same by another code path"),
        (
            {"arms": {**ARMS, "identity": {"norm": "ibnorm_identity", "norm_placement": "peri"}}},
            "no_control",
            "identity is another norm than layernorm",
        ),
        (
            {"arms": {**ARMS, "identity": {"kind": "ibnorm_identity", "bias": False}}},
            "no_control",
            "identity is another norm than layernorm",
        ),
        ({"baseline": "rmsnorm"}, "no_control", "identity is another norm than rmsnorm"),
        ({"transfer": {"check_factors": [2.0, 4.0]}}, "unchecked_transfer", "near the best at m is checked on one side only"),
        ({"transfer": {"check_seeds": []}}, "unchecked_transfer", "at m is not checked; give transfer.check_seeds"),
    ],
)
def test_other_forms_of_it_are_refused_as_well(tmp_path: Path, changes: dict[str, Any], name: str, words: str) -> None:
    with pytest.raises(UserError) as error:
        study(tmp_path, **changes)
    (problem,) = error.value.problems
    assert problem.value == f"unfair ({name})" and words in str(problem)


def test_what_is_the_baseline_by_another_path(tmp_path: Path) -> None:
    arms = {name: arm for name, arm in ARMS.items() if name != "identity"}
    plain = {"kind": "ibnorm_identity", "center": False, "bias": False}
    for baseline, control in (
        ("layernorm", "ibnorm_linear"),
        ("layernorm", "ibnorm_identity"),
        ("rmsnorm", plain),
        ("log", "l2norm"),
    ):
        asked = study(tmp_path, arms={**arms, "control": control}, baseline=baseline, control="control")
        assert asked.overridden == (), "of a baseline that compresses nobody here can tell"


def test_no_tuning_at_all_is_untuned(tmp_path: Path) -> None:
    arms = {"layernorm": "layernorm", "identity": "ibnorm_identity"}
    with pytest.raises(UserError, match=r"unfair \(untuned\): learning rates are not tuned"):
        study(tmp_path, tuning=..., arms=arms)


def test_what_is_allowed_and_not_done_is_not_said(tmp_path: Path) -> None:
    assert study(tmp_path, allow=list(UNFAIR)).overridden == ()


def test_lambdas_count_as_trials() -> None:
    values = {**STUDY, "tuning": {**STUDY["tuning"], "further_trials": 3}}
    config = StudyConfig.model_validate(values)
    assert set(further_trials(config).values()) == {3}  # two lambdas and a rate between, or three rates between
    arms = {**ARMS, "log": {"norm": "ibnorm_log", "lambdas": [1, 2, 8, 16]}}
    config = StudyConfig.model_validate({**values, "arms": arms})
    assert further_trials(config) == {"layernorm": 3, "identity": 3, "rmsnorm": 3, "log": 4, "tanh": 3}
    assert [name for name, _ in unfair(config)] == ["one_arms_lambda", "unequal_trials"]


def test_nothing_is_transferred_where_the_largest_size_is_tuned(tmp_path: Path) -> None:
    found = study(tmp_path, tuning={"size": "m"}, transfer={"check_factors": []})
    assert found.overridden == () and found.tuned_size == found.largest_size == "m"
