"""The typed config of a study: which norms, at which sizes and horizons, tuned how, on what budget; and a study that has
been read and checked. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from ..config import Config, apply_overrides
from ..data.prepared import Prepared, read_prepared
from ..errors import Problem, UserError, raise_if_any
from ..files import hash_text
from ..model.norm_map import AnyNormMap, Placement, QKNorm
from ..plugins import plugin_hashes
from ..train.config import TrainConfig
from ..train.run import data_problems
from ..train.run_folder import checkpoint_name
from ..validation import PathText, problem_of
from ..yaml12 import parse_yaml
from .arms import Model, between_fields, configs_of, recipes_of, size_problems
from .fairness import tuned_size, unfair
from .rules import Recipe, transferred
from .trials import Trial

#: What a design is refused for, unless its ``allow`` names it: then the report says so in red.
UNFAIR: dict[str, str] = {
    "unequal_trials": "arms do not have equally many tuning trials",
    "one_arms_lambda": "lambda is tuned, and not every other arm has as many further trials instead",
    "no_control": "no arm is the baseline by another code path, so nobody knows the comparison's noise",
    "few_seeds": "there are fewer than three seeds",
    "one_size": "there is one size, so nothing can be said of another",
    "untuned": "learning rates are not tuned",
    "unchecked_transfer": "the learning rate is not checked at the largest size",
    "edge": "an arm's best learning rate is at the end of its grid, and the grid may not grow further",
}

Unfair = Literal[
    "unequal_trials", "one_arms_lambda", "no_control", "few_seeds", "one_size", "untuned", "unchecked_transfer", "edge"
]


class _Room(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


Positive = Annotated[float, Field(gt=0)]

#: Tokens a parameter; a learning rate; a factor of one. Beyond these a number is a slip, and no run could be made of it.
Horizon = Annotated[float, Field(gt=0, le=1e6)]
Rate = Annotated[float, Field(gt=0, le=100)]
Factor = Annotated[float, Field(ge=0.01, le=100)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class ArmConfig(_Room):
    """A norm to compare: what ``model.norm`` takes, where it stands, and how its lambda is tuned."""

    norm: AnyNormMap
    lambdas: tuple[Positive, ...] = Field(
        (), strict=False, description="tuned at the best learning rate; every other arm gets as many further trials instead"
    )
    norm_placement: Placement = "pre"
    qk_norm: QKNorm = "none"


def _arm(given: Any) -> Any:
    """A norm alone stands for an arm of it; a mapping with a ``norm`` is an arm already."""
    return given if isinstance(given, dict) and "norm" in given else {"norm": given}


class SizeConfig(_Room):
    """A model's shape: these fields of ``model`` change with size, and no others."""

    num_layers: int = Field(gt=0)
    hidden_size: int = Field(gt=0)
    num_attention_heads: int = Field(gt=0)
    num_key_value_heads: int = Field(0, ge=0)
    ffn_hidden_size: int = Field(gt=0)


class TuningConfig(_Room):
    """How an arm's learning rate and lambda are found: the same trials for all."""

    size: str | None = Field(None, description="name of a size; the smallest by default")
    horizon: Horizon | None = Field(None, description="tokens a parameter; the shortest by default")
    seeds: tuple[Seed, ...] = Field((1,), strict=False, min_length=1)
    learning_rates: tuple[Rate, ...] = Field(strict=False, min_length=1, description="the grid, in equal ratios")
    further_trials: int = Field(
        0, ge=0, le=200, description="of every arm after the grid: its lambdas, or learning rates between those of the grid"
    )
    extensions: int = Field(
        2, ge=0, le=20, description="how often the grid may grow, in all arms alike, while an optimum is at its end"
    )


class TransferConfig(_Room):
    """From the tuned size to the others: the same rule for all arms."""

    rule: Literal["mup", "power_law", "constant"] = Field(
        "mup",
        description="mup: the same rate, in the maximal update parametrization (Yang et al., arXiv 2203.03466). "
        "power_law: times (N / N tuned)^exponent. constant: the same rate",
    )
    exponent: float = Field(-0.33, le=0, description="of the power law; about -1/3 in Porian et al., arXiv 2406.19146")
    check_factors: tuple[Factor, ...] = Field(
        (0.5, 2.0), strict=False, description="times the transferred rate, tried at the largest size; empty: no check"
    )
    check_seeds: tuple[Seed, ...] = Field((1,), strict=False)


class BudgetConfig(_Room):
    """What the study may take; ``plan`` refuses what does not fit."""

    hours: Positive | None = None
    flops: Positive | None = None


class LauncherConfig(_Room):
    """How a run is started."""

    at_once: int = Field(1, gt=0, description="runs at a time, of one `ibnorm lab run`")
    command: tuple[str, ...] = Field(
        ("{python}", "-m", "ibnorm_megatron.train", "{config}"),
        strict=False,
        min_length=1,
        description="words of the command, without a shell; {python}, {config}, {name} and {folder} are filled in. For 8 GPUs: "
        "[torchrun, --nproc-per-node, '8', -m, ibnorm_megatron.train, '{config}']; with srun in front inside an allocation",
    )
    attempts: int = Field(2, gt=0, description="starts of a run that ends for no reason of its own")
    keep: Literal["last", "none", "all"] = Field(
        "last",
        description="checkpoints of ended runs, once no branch needs them. last: the last one of main runs, none of others",
    )


class StudyConfig(_Room):
    """A comparison of norms.

    The identity ``control`` is LayerNorm by IBNorm's code: its difference from ``baseline`` is the noise of the comparison.
    """

    name: str = Field(pattern=r"^[\w-][\w.-]*$")
    base: PathText = Field(description="config file that all runs share, beside the study's file")
    overrides: tuple[str, ...] = Field((), strict=False, description="room.field=value, of all runs")
    dir: PathText = Field("", description="folder of runs, ledger and report; runs/NAME by default")
    arms: dict[str, Annotated[ArmConfig, BeforeValidator(_arm)]] = Field(min_length=2)
    baseline: str
    control: str | None = None
    sizes: dict[str, SizeConfig] = Field(min_length=1, description="the smallest first")
    horizons: tuple[Horizon, ...] = Field(
        strict=False, min_length=1, description="tokens a parameter; one run of the longest decays at each (wsd)"
    )
    seeds: tuple[Seed, ...] = Field(strict=False, min_length=1)
    batch_tokens: int | None = Field(None, gt=0, description="of a step; by the documented rule where it is left out")
    tuning: TuningConfig | None = None
    transfer: TransferConfig = TransferConfig()
    equivalence: float = Field(0.01, gt=0, lt=1, description="share of compute below which a difference is called none")
    budget: BudgetConfig = BudgetConfig()
    launcher: LauncherConfig = LauncherConfig()
    allow: tuple[Unfair, ...] = Field((), strict=False, description="unfair designs that are wanted all the same, by name")

    def problems(self) -> Iterator[Problem]:
        """What lies between fields and names nothing that is there."""
        for where, name in (("baseline", self.baseline), ("control", self.control)):
            if name is not None and name not in self.arms:
                yield Problem(where, repr(name), "there is no such arm", f"choose one of {', '.join(self.arms)}")
        if self.control is not None and self.control == self.baseline:
            yield Problem("control", repr(self.control), "it is the baseline itself", "add an arm of norm ibnorm_identity")
        if not any("{config}" in word for word in self.launcher.command):
            why = "no word of it holds {config}, so no run would know what it is to train"
            yield Problem("launcher.command", str(list(self.launcher.command)), why, "put '{config}' where it belongs")
        if self.tuning and self.tuning.size is not None and self.tuning.size not in self.sizes:
            where, known = "tuning.size", ", ".join(self.sizes)
            yield Problem(where, repr(self.tuning.size), "there is no such size", f"choose one of {known}")
        lists = {"seeds": self.seeds, "horizons": self.horizons, "transfer.check_seeds": self.transfer.check_seeds}
        lists["transfer.check_factors"] = self.transfer.check_factors
        if self.tuning:
            lists["tuning.seeds"] = self.tuning.seeds
        for where, values in lists.items():
            if len(set(values)) < len(values):
                yield Problem(where, str(list(values)), "one of them is there twice", "give each once")


@dataclass(frozen=True)
class Study:
    """A study that can be run: read, checked, and not unfair but where it says so.

    Attributes:
        path: the study's file.
        prepared: the data of all runs.
        overridden: ways in which it is unfair and allowed to be, with a sentence each, for the report's red line.
        configs: of every arm, size and lambda, but for what :meth:`run_config` fills in.
        recipes: batch, warm-up and steps by size.
        overrides: with which its file was read.
    """

    config: StudyConfig
    path: Path
    prepared: Prepared
    overridden: tuple[tuple[str, str], ...]
    configs: Mapping[Model, Config]
    recipes: Mapping[str, Recipe]
    overrides: tuple[str, ...] = ()
    _keys: dict[Trial, str] = field(default_factory=dict, compare=False, repr=False)

    @property
    def folder(self) -> Path:
        """Where runs, ledger and report are."""
        return Path(self.config.dir).expanduser() if self.config.dir else Path("runs") / self.config.name

    @property
    def tuned_size(self) -> str:
        """The size at which learning rates are tuned."""
        return tuned_size(self.config)

    @property
    def tuned_horizon(self) -> float:
        """Tokens a parameter at which learning rates are tuned."""
        given = self.config.tuning.horizon if self.config.tuning else None
        return min(self.config.horizons) if given is None else given

    @property
    def largest_size(self) -> str:
        """The size at which the transfer of the learning rate is checked."""
        return list(self.config.sizes)[-1]

    def parameters(self, size: str) -> int:
        """N: of attention and MLP, without embeddings, head and norms, so that it is the same in all arms."""
        return self.recipes[size].parameters

    def learning_rate(self, tuned: float, size: str) -> float:
        """A learning rate of the tuned size at another."""
        rule, numbers = self.config.transfer, (self.parameters(size), self.parameters(self.tuned_size))
        return float(f"{transferred(rule.rule, tuned, *numbers, rule.exponent):.6g}")

    def trunk(self, trial: Trial) -> Trial | None:
        """The run from whose state a branch goes on."""
        if trial.trunk is None:
            return None
        shorter = tuple(sorted(horizon for horizon in self.config.horizons if horizon < trial.trunk))
        return replace(trial, horizon=trial.trunk, branches=shorter, trunk=None)

    def tokens(self, trial: Trial) -> int:
        """Tokens seen at its end, those of its trunk included."""
        return self.recipes[trial.size].tokens(trial.horizon)

    def flops_per_token(self, size: str) -> int:
        """Model FLOPs of a token forward and backward; norms are not counted, so it is the same in all arms."""
        config = self.configs[next(iter(self.config.arms)), size, None]
        return config.model.flops_per_token(config.train.sequence_length)

    def flops(self, trial: Trial) -> float:
        """C: model FLOPs of all tokens that it has seen at its end, those of its trunk included."""
        return float(self.tokens(trial) * self.flops_per_token(trial.size))

    def run_config(self, trial: Trial) -> Config:
        """The complete config of a trial's training."""
        config = self._config(trial)
        run: dict[str, Any] = {"dir": str(self.folder / "runs" / self.name(trial))}
        if trunk := self.trunk(trial):
            state = checkpoint_name(self.recipes[trial.size].decay_begins(trial.horizon))
            run["branch_from"] = str(self.folder / "runs" / self.name(trunk) / "checkpoints" / state)
        rooms: dict[str, Any] = {"run": type(config.run).model_validate({**config.run.model_dump(), **run})}
        if config.log.wandb == "auto":  # a preset's; hundreds of small runs go to a server where the study asks for it by name
            rooms["log"] = config.log.model_copy(update={"wandb": "off"})
        return config.model_copy(update=rooms)

    def _config(self, trial: Trial) -> Config:
        """As :meth:`run_config`, without the folders' names, which are made of this config's hash."""
        recipe, config = self.recipes[trial.size], self.configs[trial.arm, trial.size, trial.strength]
        decided = {"lr": trial.learning_rate, "seed": trial.seed, **recipe.train_fields(trial.horizon)}
        evaluate = config.evaluate.model_copy(update={"batches": recipe.evaluation_batches})
        rooms: dict[str, Any] = {
            "evaluate": evaluate,
            "train": TrainConfig.model_validate({**config.train.model_dump(), **decided}),
        }
        if trial.branches:
            at = tuple(sorted({recipe.decay_begins(horizon) for horizon in trial.branches}))
            rooms["checkpoint"] = type(config.checkpoint).model_validate({**config.checkpoint.model_dump(), "at": at})
        return config.model_copy(update=rooms)

    def key(self, trial: Trial) -> str:
        """16 hex digits over everything that decides a run's result, and the state it leaves to branches.

        The stage is in it: a run by which a learning rate was chosen is not taken for one that is compared.
        """
        if trial not in self._keys:
            config, trunk = self._config(trial), self.trunk(trial)
            values = config.to_dict()
            for room, name in _CHANGES_NOTHING:
                values.get(room, {}).pop(name, None) if name else values.pop(room, None)
            parts = {
                "config": values,
                "stage": trial.stage,
                "branches": sorted(trial.branches),
                "plugins": sorted(plugin_hashes(config.plugins).values()),
                "data": [self.prepared.content_hash(), self.prepared.tokenizer.hash],
                "trunk": trunk and self.key(trunk),
            }
            self._keys[trial] = hash_text(json.dumps(parts, sort_keys=True))
        return self._keys[trial]

    def name(self, trial: Trial) -> str:
        """A folder's name: readable, and with the beginning of the key."""
        strength = [] if trial.strength is None else [f"lambda{trial.strength:g}"]
        parts = [trial.stage, trial.arm, trial.size, f"{trial.horizon:g}tpp", f"lr{trial.learning_rate:.4g}", *strength]
        return "-".join([*parts, f"seed{trial.seed}", self.key(trial)[:8]])


#: Rooms and fields of a run's config that change no result. Data and plugins are known by what they are, not by where.
_CHANGES_NOTHING = (
    ("plugins", ""),
    ("run", ""),
    ("log", ""),
    ("checkpoint", ""),
    ("evaluate", "interval"),
    ("data", "path"),
    ("data", "index_cache"),
    ("train", "replica_audit"),
)


def load_study(path: Path, overrides: Sequence[str] = ()) -> Study:
    """Read a study, its base config and its data, and check all of them.

    Args:
        path: a YAML file.
        overrides: ``field=value`` or ``room.field=value`` each, of the study's own fields.

    Raises:
        UserError: whatever is wrong, all at once: fields, arms and sizes that no run can have, data, and ways in which the
            design is unfair and does not say so in ``allow``.
    """
    config = _read_config(path, overrides)
    problems = list(between_fields(config))
    configs, found = configs_of(config, _beside(path, config.base))
    problems += found
    prepared, recipes = None, {}
    if not found:
        recipes = recipes_of(config, configs)
        problems += size_problems(config, recipes)
        some = next(iter(configs.values()))
        try:
            prepared = read_prepared(some.data)
            problems += data_problems(some, prepared)
        except UserError as error:
            problems += error.problems
    ways = unfair(config)
    for name, sentence in ways:
        if name not in config.allow:
            why, _, mend = sentence.rpartition(": ")
            name_it = f"{mend}; or name it in allow: [{name}], and the report says so in red"
            problems.append(Problem("the design", f"unfair ({name})", why, name_it))
    raise_if_any(problems)
    assert prepared is not None
    allowed = tuple(way for way in ways if way[0] in config.allow)
    return Study(config, path, prepared, allowed, configs, recipes, tuple(overrides))


def _read_config(path: Path, overrides: Sequence[str]) -> StudyConfig:
    where, mend = "the study", "give the path of a YAML file, such as configs/studies/small.yaml"
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UserError(Problem(where, str(path), f"it cannot be read ({why})", mend)) from None
    except ValueError as error:
        raise UserError(Problem(where, str(path), f"it is not valid YAML: {error}", "mend it there")) from None
    if not isinstance(values, dict):
        raise UserError(Problem(where, str(path), "it does not hold a mapping", "start from configs/studies/small.yaml"))
    if "model" in values and "arms" not in values:
        why, mend = "it is the config of a run", "write a study that names it in base, such as configs/studies/small.yaml"
        raise UserError(Problem(where, str(path), why, mend))
    problems = apply_overrides(overrides, values, rooms=False)
    try:
        config = StudyConfig.model_validate(values)
    except ValidationError as error:
        problems += [_own_words(detail) for detail in error.errors(include_url=False)]
    raise_if_any(problems)
    return config


def _own_words(detail: Any) -> Problem:
    problem = problem_of(StudyConfig, "study", detail)
    where = problem.where.removeprefix("study.")
    return replace(problem, where=where, mend=problem.mend.replace("to the config file", "to the study").replace("study.", ""))


def _beside(path: Path, base: str) -> Path:
    """The base config: beside the study's file, or else from the current folder on."""
    beside = path.parent / Path(base).expanduser()
    return beside if beside.exists() else Path(base).expanduser()
