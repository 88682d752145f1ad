"""Runs that differ in more than the study compares are found, and named by field."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from ibnorm_megatron.lab.matching import check, facts, not_as_asked
from ibnorm_megatron.lab.trials import Entry

from .entries import CARD, CONFIG, FLOPS, TRIAL, entry

FIRST = entry(key="first")
OTHER = replace(TRIAL, arm="ibnorm_log", learning_rate=2e-3)


def _other(change: Callable[[dict[str, Any], dict[str, Any]], None] = lambda config, card: None, **values: Any) -> Entry:
    """Another arm's run of the same seed, with something in its config or card changed."""
    config, card = copy.deepcopy(CONFIG), copy.deepcopy(CARD)
    config["train"]["lr"] = OTHER.learning_rate
    config["model"]["norm"] = {"kind": "ibnorm", "compression": "log"}
    config["run"]["dir"] = "runs/b"
    change(config, card)
    return replace(entry(OTHER, "other"), matching=facts(config, card, FLOPS), **values)


def test_arms_that_differ_in_norm_and_rate_match() -> None:
    found = check([FIRST, _other()])
    assert found.problems == ()
    assert found.warnings == ()


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        ("card.digests.initial_weights", "w1", "initial_weights"),
        ("card.digests.initial_weights", None, "initial_weights"),
        ("card.data.hash", "d1", "data"),
        ("card.data.tokenizer", "t1", "tokenizer"),
        ("card.layout.precision", "bf16", "layout.precision"),
        ("card.plugins.file", "p1", "plugins"),
        ("config.train.steps", 101, "steps"),
        ("config.train.schedule", "cosine", "train.schedule"),
        ("config.train.warmup_fraction", 0.2, "train.warmup_fraction"),
        ("config.train.global_batch_size", 16, "batch_tokens"),
        ("config.train.weight_decay", 0.3, "train.weight_decay"),
        ("config.model.hidden_size", 128, "model.hidden_size"),
        ("config.evaluate.batches", 9, "evaluate.batches"),
        ("config.data.document_mask", True, "data.document_mask"),
    ],
)
def test_what_else_differs_is_named(path: str, value: Any, field: str) -> None:
    def change(config: dict[str, Any], card: dict[str, Any]) -> None:
        *rooms, last = path.split(".")
        at: Any = {"config": config, "card": card}
        for room in rooms:
            at = at[room]
        at[last] = value

    problems = check([FIRST, _other(change)]).problems
    assert any(problem.where == f"{field} of runs/other" and "runs/first has" in problem.why for problem in problems), problems


def test_parameters_and_flops_are_compared() -> None:
    fields = {problem.where for problem in check([FIRST, _other(parameters=1001)]).problems}
    assert fields == {"parameters of runs/other"}
    dearer = replace(FIRST, key="other", folder="runs/other", matching=FIRST.matching | {"flops": 2 * FLOPS})
    assert {problem.where for problem in check([FIRST, dearer]).problems} == {"flops of runs/other"}


def test_a_run_that_did_not_do_what_its_trial_says_is_named() -> None:
    wrong = replace(FIRST, trial=replace(TRIAL, learning_rate=5e-3, seed=9))
    assert {problem.where for problem in check([wrong]).problems} == {"train.lr of runs/first", "train.seed of runs/first"}


def test_a_run_that_says_nothing_of_itself_is_named() -> None:
    (problem,) = check([FIRST, replace(_other(), matching={})]).problems
    assert str(problem).startswith("the run card of runs/other is missing: nobody knows whether the run matches others; take")
    assert check([FIRST, replace(_other(), status="failed", matching={})]).problems == ()


def test_what_changes_no_result_may_differ() -> None:
    free = {"train": {"replica_audit": 7}, "evaluate": {"interval": 3}, "log": {"interval": 9}, "data": {"index_cache": "x"}}

    def change(config: dict[str, Any], card: dict[str, Any]) -> None:
        for room, fields in free.items():
            config.setdefault(room, {}).update(fields)

    assert check([FIRST, _other(change)]).problems == ()
    config = {**CONFIG, **{room: {**CONFIG.get(room, {}), **fields} for room, fields in free.items()}}
    assert not_as_asked(CONFIG, config) == ""
    # An entry of before: what is free now was written down.
    old = copy.deepcopy(FIRST.matching)
    old["config"]["train"]["replica_audit"] = 100
    assert check([replace(FIRST, matching=old), _other(change)]).problems == ()


@pytest.mark.parametrize(
    ("room", "field", "value"), [("train", "steps", 10), ("model", "norm", "rmsnorm"), ("train", "lr", 1.0)]
)
def test_a_run_with_another_config_than_its_own_is_found(room: str, field: str, value: Any) -> None:
    found = copy.deepcopy(CONFIG)
    found[room][field] = value
    said = not_as_asked(CONFIG, found)
    assert said.startswith("it was trained with another config than the study's: ") and f"{room}.{field}" in said


def test_samples_of_a_shorter_run_begin_those_of_a_longer_one() -> None:
    def cut(config: dict[str, Any], card: dict[str, Any]) -> None:
        card["digests"]["samples"] = card["digests"]["samples"][:2]

    def changed(config: dict[str, Any], card: dict[str, Any]) -> None:
        card["digests"]["samples"] = [[0, "s0"], [1, "another"]]

    def without(config: dict[str, Any], card: dict[str, Any]) -> None:
        card["digests"]["samples"] = None

    assert check([FIRST, _other(cut)]).problems == ()
    shorter = replace(_other(changed), trial=replace(OTHER, horizon=5.0))  # other steps, the same order
    (problem,) = check([FIRST, shorter]).problems
    assert str(problem).startswith("sample 1 of runs/other is 'another': runs/first has 's1'")
    (problem,) = check([FIRST, _other(without)]).problems
    assert str(problem).startswith("the digest of samples of runs/other is missing")


def test_other_sizes_seeds_and_horizons_are_not_compared() -> None:
    for field, value in (("size", "m"), ("seed", 2), ("horizon", 5.0)):
        trial = replace(TRIAL, **{field: value})
        apart = entry(trial, "apart")
        config = {**apart.matching["config"], "model": {"hidden_size": 128}}
        assert check([FIRST, replace(apart, matching=apart.matching | {"config": config})]).problems == (), field


def test_only_the_last_entry_of_a_run_counts_and_failed_ones_say_nothing() -> None:
    bad = _other(lambda config, card: card["data"].update(hash="d1"))
    assert check([FIRST, bad, _other()]).problems == ()
    assert check([FIRST, entry(OTHER, "other", "failed", matching={})]).problems == ()
    assert check([FIRST, replace(bad, status="diverged", loss=None)]).problems


def test_code_and_machines_that_differ_are_a_warning() -> None:
    def change(config: dict[str, Any], card: dict[str, Any]) -> None:
        card["git"] = {"commit": "def", "changed": True}
        card["hardware"]["gpu"] = "H100"
        card["ibnorm_megatron"] = "0.2.0"
        card["digests"] = {}

    found = check([FIRST, _other(change)])
    said = "\n".join(found.warnings)
    for text in (
        "2 versions of the program: 0.1.0, 0.2.0",
        "2 commits: abc, def with changes",
        "hardware.gpu",
        "recorded no digest",
    ):
        assert text in said


def test_the_commit_of_a_resumed_run_counts_too() -> None:
    def change(config: dict[str, Any], card: dict[str, Any]) -> None:
        card["resumed"] = [{"step": 5}, {"step": 7, "git": {"commit": "def", "changed": False}}]

    assert any("2 commits" in text for text in check([FIRST, _other(change)]).warnings)
