"""Reading a study: what is refused, in which words, all at once; and what a trial's config, key and name are."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ibnorm_megatron.config import load_config
from ibnorm_megatron.errors import UserError
from ibnorm_megatron.lab.design import expected
from ibnorm_megatron.lab.rules import recipe_of
from ibnorm_megatron.lab.study import (
    UNFAIR,
    BudgetConfig,
    Study,
    StudyConfig,
    TransferConfig,
    TuningConfig,
    load_study,
)
from ibnorm_megatron.lab.trials import Trial
from ibnorm_megatron.train.schedule import learning_rate
from ibnorm_megatron.yaml12 import parse_yaml

from ..distributed import ROOT
from .studies import shipped, study, write

TRUNK = Trial("main", "log", "m", 2, 2e-3, 8.0, 20.0, (5.0,))
BRANCH = replace(TRUNK, horizon=5.0, branches=(), trunk=20.0)

LAMBDA = "arms.log.lambdas"


def refused(path: Path, *overrides: str) -> list[str]:
    """The sentences with which a study is refused."""
    with pytest.raises(UserError) as error:
        load_study(path, overrides)
    return [str(problem) for problem in error.value.problems]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"seeds": 3}, "seeds is 3: input should be a valid tuple; give it such a value."),
        ({"sedes": [1]}, "sedes is [1]: there is no such field here; did you mean 'seeds'?"),
        ({"horizons": ...}, "horizons is missing: it has no default; add it to the study or pass horizons=VALUE."),
        ({"baseline": "layernrom"}, "baseline is 'layernrom': there is no such arm; choose one of layernorm, identity"),
        ({"control": "layernorm"}, "control is 'layernorm': it is the baseline itself; add an arm of norm ibnorm_identity."),
        ({"seeds": [1, 1, 2]}, "seeds is [1, 1, 2]: one of them is there twice; give each once."),
        ({"tuning": {"size": "xl"}}, "tuning.size is 'xl': there is no such size; choose one of s, m."),
        ({"tuning": {"learning_rates": [2e-3, 1e-3]}}, "they do not rise; write them from the lowest to the highest."),
        ({"tuning": {"learning_rates": [1e-3, 2e-3, 8e-3]}}, "neighbours differ by factors from 2 to 4, so where it is coarse"),
        ({"overrides": ["train.lr=1e-3"]}, "overrides is 'train.lr=1e-3': a study sets this field itself; take it out; what"),
        ({"overrides": ["train.lrr=1e-3"]}, "train.lrr is 0.001: there is no such field here; did you mean 'lr'?"),
        ({"transfer": {"check_seeds": [9]}}, "transfer.check_seeds is [9]: no run at the transferred rate has the seed 9, so"),
        ({"transfer": {"check_factors": [1.0]}}, "transfer.check_factors is [1.0]: 1 is the transferred rate, which is run"),
        ({"horizons": [0.001, 20]}, "horizons is 0.001: at s it is 1 steps of 32 tokens; give longer ones, a larger size"),
        ({"horizons": [5, 5.0001]}, "horizons is 5: at s its decay begins at the step at which that of 5.0001 does; give"),
        ({"horizons": [5, 1e300]}, "horizons.1 is 1e+300: input should be less than or equal to 1000000; give it such"),
        (
            {"tuning": {"horizon": 1e-9}},
            "tuning.horizon is 1e-09: at s it is 1 steps of 32 tokens; give a longer one, a larger",
        ),
        ({"tuning": {"seeds": [-1, 7]}}, "tuning.seeds.0 is -1: input should be greater than or equal to 0; give it such a"),
        ({"tuning": {"seeds": [7, 7]}}, "tuning.seeds is [7, 7]: one of them is there twice; give each once."),
        ({"transfer": {"check_seeds": [1, 1]}}, "transfer.check_seeds is [1, 1]: one of them is there twice; give each once."),
        (
            {"transfer": {"check_factors": [0.5, 2, 2]}},
            "transfer.check_factors is [0.5, 2.0, 2.0]: one of them is there twice;",
        ),
        ({"transfer": {"check_factors": [0.5, 1e9]}}, "transfer.check_factors.1 is 1000000000.0: input should be less than or"),
        ({"launcher": {"command": ["train"]}}, "launcher.command is ['train']: no word of it holds {config}, so no run would"),
        ({"name": ".."}, "name is '..': string should match pattern"),
        ({"base": "nowhere.yaml"}, "the config file is nowhere.yaml: it cannot be read (No such file or directory); give the"),
        (
            {"overrides": ["data.path=nowhere"]},
            "data.path is nowhere: there is no prepared data there (no manifest.json); run: ibnorm",
        ),
        ({"overrides": ["model.vocab_size=100"]}, "model.vocab_size is 100: the tokenizer of "),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    said = refused(write(tmp_path, changes))
    assert any(sentence in each for each in said), said
    assert len(said) == 1, said


ARMS = {"layernorm": "layernorm", "identity": "ibnorm_identity"}


@pytest.mark.parametrize(
    ("arm", "sentence"),
    [
        ("layernomr", "arms.new.norm is 'layernomr': there is no norm named 'layernomr'; did you mean 'layernorm'?"),
        ({"norm": "rmsnorm", "lambdas": [2]}, "arms.new.lambdas is [2.0]: rmsnorm has no lambda; leave them out."),
        ({"norm": "ibnorm_log", "lambdas": [4]}, "arms.new.lambdas is 4: it is the norm's own, with which the grid is tried"),
        ({"norm": "ibnorm_log", "lambdas": [2, 2]}, "arms.new.lambdas is [2.0, 2.0]: one of them is there twice; give each"),
        ({"norm": "rmsnorm", "qk_nrom": "full"}, "arms.new.qk_nrom is 'full': there is no such field here; take it out."),
        ({"norm": "layernorm", "norm_placement": "pre"}, "arms.new is layernorm: it is the same as layernorm, and so would be"),
        ({"kind": "ibnorm_log", "form": "literal", "lambda": 0.5}, "arms.new.norm is set so: lambda 0.5 is below 1, where the"),
        (
            {"norm": {"kind": "ibnorm_log", "form": "literal"}, "lambdas": [0.5, 2]},
            "model.norm of arm new, lambda 0.5 is set so: lambda 0.5 is below 1, where the literal form is unbounded",
        ),
        (
            {"norm": {"default": "rmsnorm", "q": "layernorm"}},
            "model.norm.q of arm new is layernorm: model.qk_norm is none, so there is no norm on queries and keys",
        ),
    ],
)
def test_a_bad_arm_is_named(tmp_path: Path, arm: Any, sentence: str) -> None:
    said = refused(write(tmp_path, {"arms": {**ARMS, "new": arm}, "tuning": {"further_trials": 2}}))
    assert len(said) == 1 and sentence in said[0], said


def test_a_bad_size_is_named(tmp_path: Path) -> None:
    size = {"num_layers": 1, "hidden_size": 96, "num_attention_heads": 5, "ffn_hidden_size": 256}
    said = refused(write(tmp_path, {"sizes": {"l": size}, "transfer": {"rule": "constant"}}))
    assert said == ["model of size l is set so: hidden_size 96 is not divisible by num_attention_heads 5; change one of them."]
    said = refused(write(tmp_path, {"sizes": {"l": {**size, "num_attention_heads": 3}}}))
    assert "sizes.l.num_attention_heads is 3: its heads are 32 wide and those of the tuned size 16" in said[0]
    assert said[0].endswith("set it to 6, or choose another transfer.rule.") and len(said) == 1
    said = refused(write(tmp_path, {"sizes": {"l": {**size, "hidden_size": 1}}}))
    assert said == ["model of size l is set so: hidden_size 1 is not divisible by num_attention_heads 5; change one of them."]
    small = {"num_layers": 1, "hidden_size": 16, "num_attention_heads": 1, "ffn_hidden_size": 32}
    said = refused(write(tmp_path, {"sizes": {"l": small}}))
    assert "sizes is l: it has 2,560 parameters, and m before it 100,352; name the smallest first." in said


def test_everything_is_said_at_once(tmp_path: Path) -> None:
    changes = {"control": "nobody", "overrides": ["data.path=nowhere"], "seeds": [1, 2], "transfer": {"check_seeds": [9]}}
    said = "\n".join(refused(write(tmp_path, changes)))
    for part in ("control is 'nobody'", "data.path is nowhere", "unfair (few_seeds)", "transfer.check_seeds is [9]"):
        assert part in said
    said = "\n".join(refused(write(tmp_path, {"seeds": 3, "horizons": "x", "nmae": 1})))
    assert all(part in said for part in ("seeds is 3", "horizons is 'x'", "nmae is 1"))


def test_files_that_are_no_study(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    assert "it cannot be read (No such file or directory)" in refused(path)[0]
    path.write_text("[1, 2]")
    assert "it does not hold a mapping" in refused(path)[0]
    path.write_text("a: [")
    assert "it is not valid YAML" in refused(path)[0]
    path.write_bytes(b"\xff\xfe\x00")
    assert "it is not UTF-8 text" in refused(path)[0]


def test_overrides_are_the_studys_own_fields(tmp_path: Path) -> None:
    found = load_study(write(tmp_path), ["seeds=[4,5,6]", "transfer.check_seeds=[4]", "budget.hours=2"])
    assert found.config.seeds == (4, 5, 6) and found.config.budget.hours == 2
    (said,) = refused(write(tmp_path), "seeds")
    assert said == "the override is 'seeds': it is not of the form field=value; write it like seeds=[1, 2, 3]."


def test_the_base_config_is_beside_the_study_or_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path)
    away = tmp_path / "away"
    away.mkdir()
    path.rename(away / "study.yaml")
    monkeypatch.chdir(tmp_path)
    assert load_study(away / "study.yaml").parameters("s") > 0
    monkeypatch.chdir(away)
    assert "base.yaml" in refused(away / "study.yaml")[0]


def test_a_trials_config_is_what_the_study_says(tmp_path: Path) -> None:
    asked = study(tmp_path, overrides=["train.weight_decay=0.05"])
    config = asked.run_config(BRANCH)
    assert (config.model.num_layers, config.model.hidden_size, config.model.mup_base_width) == (2, 64, 32)
    assert (config.train.seed, config.train.lr, config.train.weight_decay, config.train.schedule) == (2, 2e-3, 0.05, "wsd")
    assert config.model.norm_label() == "ibnorm_log(lambda=8.0)"
    assert config.model.scale_residual_init and config.train.min_lr_ratio == 0
    path = tmp_path / "run.yaml"
    path.write_text(config.to_yaml())
    assert load_config(path) == config  # what a run reads
    assert asked.run_config(TRUNK).run.branch_from == "" and asked.run_config(TRUNK).train.steps > 3 * config.train.steps


@pytest.mark.parametrize(("asked_for", "mode"), [("auto", "off"), ("online", "online"), ("offline", "offline")])
def test_trials_are_recorded_elsewhere_by_name_only(tmp_path: Path, asked_for: str, mode: str) -> None:
    """A preset's ``auto`` would send hundreds of small runs wherever there is a key."""
    assert study(tmp_path, overrides=[f"log.wandb={asked_for}"]).run_config(BRANCH).log.wandb == mode


def test_no_lambda_of_a_map_stays_as_it_was(tmp_path: Path) -> None:
    norm = {"default": {"kind": "ibnorm_log", "lambda": 3}, "final": {"kind": "ibnorm_log", "lambda": 5}, "embedding": "l2norm"}
    asked = study(tmp_path, arms={**ARMS, "map": {"norm": norm, "lambdas": [5, 7]}})
    found = asked.run_config(replace(TRUNK, arm="map", strength=7.0)).model.norm
    assert {site: getattr(each, "lam", None) for site, each in found.root.items()} == {
        "default": 7,
        "final": 7,
        "embedding": None,
    }


def test_learning_rates_of_trunk_and_branch_are_the_same_where_they_are_shared(tmp_path: Path) -> None:
    asked = study(tmp_path)
    trunk, branch = asked.run_config(TRUNK).train, asked.run_config(BRANCH).train
    (state,) = asked.run_config(TRUNK).checkpoint.at
    assert [learning_rate(trunk, step) for step in range(1, state + 1)] == [
        learning_rate(branch, step) for step in range(1, state + 1)
    ]
    assert learning_rate(branch, state + 1) < learning_rate(trunk, state + 1)


def test_flops_and_parameters_are_the_same_in_all_arms(tmp_path: Path) -> None:
    asked = study(tmp_path)
    trials = [replace(TRUNK, arm=arm, strength=None) for arm in asked.config.arms]
    assert len({asked.flops(trial) for trial in trials}) == 1
    for trial in trials:
        parts = asked.run_config(trial).model.num_params()
        assert asked.parameters("m") == parts["attention"] + parts["mlp"]
    assert asked.flops(BRANCH) == asked.tokens(BRANCH) * asked.run_config(BRANCH).model.flops_per_token(32)


def test_keys_are_of_all_that_decides_a_result_and_of_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    asked = study(tmp_path)
    keys = {asked.key(trial) for trial in expected(asked)}
    assert len(keys) == len(expected(asked)) and all(len(key) == 16 for key in keys)

    def key(**changes: Any) -> str:
        return study(tmp_path / "other", **changes).key(BRANCH)

    same = asked.key(BRANCH)
    assert key() == same  # another folder
    assert key(overrides=["log.interval=5", "evaluate.interval=7", "run.device=auto"]) == same
    assert key(seeds=[1, 2, 3, 4], launcher={"at_once": 4}, name="another") == same
    others = [
        key(overrides=["train.weight_decay=0.0"]),
        key(overrides=["evaluate.batches=9"]),
        key(transfer={"rule": "constant"}),
        key(horizons=[5, 10, 20]),  # its trunk saves more
        key(arms={**ARMS, "log": {"norm": {"kind": "ibnorm_log", "scale": "relative"}, "lambdas": [8]}}),
    ]
    assert len({same, *others}) == 6
    for field, value in (("seed", 3), ("learning_rate", 1e-3), ("strength", None), ("arm", "tanh"), ("size", "s")):
        assert asked.key(replace(BRANCH, **{field: value})) != same


def test_names_can_be_read(tmp_path: Path) -> None:
    asked = study(tmp_path)
    assert asked.name(BRANCH) == f"main-log-m-5tpp-lr0.002-lambda8-seed2-{asked.key(BRANCH)[:8]}"
    names = [asked.name(trial) for trial in expected(asked)]
    assert len(set(names)) == len(names)


def test_nothing_is_written_and_torch_is_not_imported(tmp_path: Path) -> None:
    path = write(tmp_path)
    before = sorted(tmp_path.iterdir())
    code = f"""
import sys
from pathlib import Path
from ibnorm_megatron.lab.design import due
from ibnorm_megatron.lab.study import load_study
assert due(load_study(Path({str(path)!r})), []).trials
assert not {{"torch", "deepspeed", "megatron", "matplotlib", "scipy"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("path", shipped(), ids=lambda path: path.stem)
def test_every_shipped_study_is_fair_and_can_be_planned(path: Path, tmp_path: Path) -> None:
    data = write(tmp_path).parent / "base.yaml"
    place = load_config(data).data.path
    own = load_study(path, [f"overrides=[parallel.tensor=1, parallel.sequence=false, data.path={place}]"])
    assert isinstance(own, Study) and own.overridden == () and own.config.control is not None
    assert len(expected(own)) > 20


def _page() -> str:
    return (ROOT / "docs" / "lab.md").read_text()


def test_the_study_in_the_page_is_one_and_has_every_field(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (text,) = re.findall(r"<!-- study -->\n```yaml\n(.*?)```", _page(), flags=re.DOTALL)
    monkeypatch.chdir(ROOT)
    (tmp_path / "study.yaml").write_text(text)
    own = load_config(write(tmp_path).parent / "base.yaml").data.path
    found = load_study(tmp_path / "study.yaml", [f"overrides=[model.vocab_size=2048, data.path={own}]"])
    assert found.overridden == ()
    said = parse_yaml(text)
    assert set(said) == set(StudyConfig.model_fields)
    for room, kind in (("tuning", TuningConfig), ("transfer", TransferConfig), ("budget", BudgetConfig)):
        assert set(said[room]) == set(kind.model_fields)


def test_the_page_names_every_unfair_way_and_the_rules_numbers() -> None:
    page = _page()
    for name in UNFAIR:
        assert f"| `{name}` |" in page
    rows = re.findall(
        r"^\| ([\d,]+) \| ([\d, ]+) \| ([\d,]+) \| ([\d,]+) \| ([\d, ]+) \| ([\d,]+) \|$", page, flags=re.MULTILINE
    )
    assert len(rows) == 5
    for size, horizons, length, batch, steps, warmup in rows:
        ends = [float(each) for each in horizons.split(", ")]
        recipe = recipe_of(int(size.replace(",", "")), ends, int(length.replace(",", "")))
        assert f"{recipe.batch_tokens:,}" == batch and f"{recipe.warmup_steps:,}" == warmup
        assert ", ".join(f"{recipe.steps(end):,}" for end in ends) == steps
