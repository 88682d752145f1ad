"""The typed config of a study: which norms, at which sizes and horizons, tuned how, on what budget. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from ..errors import Problem
from ..model.norm_map import AnyNormMap, Placement, QKNorm
from ..validation import PathText

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
    horizon: Positive | None = Field(None, description="tokens a parameter; the shortest by default")
    seeds: tuple[int, ...] = Field((1,), strict=False, min_length=1)
    learning_rates: tuple[Positive, ...] = Field(strict=False, min_length=1, description="the grid, in equal ratios")
    further_trials: int = Field(
        0, ge=0, description="of every arm after the grid: its lambdas, or learning rates between those of the grid"
    )
    extensions: int = Field(
        2, ge=0, description="how often the grid may grow, in all arms alike, while an optimum is at its end"
    )


class TransferConfig(_Room):
    """From the tuned size to the others: the same rule for all arms."""

    rule: Literal["mup", "power_law", "constant"] = Field(
        "mup",
        description="mup: the same rate, in the maximal update parametrization (Yang et al., arXiv 2203.03466). "
        "power_law: times (N / N tuned)^exponent. constant: the same rate",
    )
    exponent: float = Field(-0.33, le=0, description="of the power law; about -1/3 in Porian et al., arXiv 2406.19146")
    check_factors: tuple[Positive, ...] = Field(
        (0.5, 2.0), strict=False, description="times the transferred rate, tried at the largest size; empty: no check"
    )
    check_seeds: tuple[int, ...] = Field((1,), strict=False)


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

    name: str = Field(pattern=r"^[\w.-]+$")
    base: PathText = Field(description="config file that all runs share, beside the study's file")
    overrides: tuple[str, ...] = Field((), strict=False, description="room.field=value, of all runs")
    dir: PathText = Field("", description="folder of runs, ledger and report; runs/NAME by default")
    arms: dict[str, Annotated[ArmConfig, BeforeValidator(_arm)]] = Field(min_length=2)
    baseline: str
    control: str | None = None
    sizes: dict[str, SizeConfig] = Field(min_length=1, description="the smallest first")
    horizons: tuple[Positive, ...] = Field(
        strict=False, min_length=1, description="tokens a parameter; one run of the longest decays at each (wsd)"
    )
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**32)], ...] = Field(strict=False, min_length=1)
    batch_tokens: int | None = Field(None, gt=0, description="of a step; by the documented rule where it is left out")
    tuning: TuningConfig | None = None
    transfer: TransferConfig = TransferConfig()
    equivalence: float = Field(0.01, gt=0, lt=1, description="share of compute below which a difference is called none")
    budget: BudgetConfig = BudgetConfig()
    launcher: LauncherConfig = LauncherConfig()
    allow: tuple[Unfair, ...] = Field((), strict=False, description="unfair designs that are wanted all the same, by name")

    def problems(self) -> Iterator[Problem]:
        """What lies between fields and names nothing that is there."""
        for field, name in (("baseline", self.baseline), ("control", self.control)):
            if name is not None and name not in self.arms:
                yield Problem(field, repr(name), "there is no such arm", f"choose one of {', '.join(self.arms)}")
        if self.control is not None and self.control == self.baseline:
            yield Problem("control", repr(self.control), "it is the baseline itself", "add an arm of norm ibnorm_identity")
        if self.tuning and self.tuning.size is not None and self.tuning.size not in self.sizes:
            where, known = "tuning.size", ", ".join(self.sizes)
            yield Problem(where, repr(self.tuning.size), "there is no such size", f"choose one of {known}")
        for field in ("seeds", "horizons"):
            values = getattr(self, field)
            if len(set(values)) < len(values):
                yield Problem(field, str(list(values)), "one of them is there twice", "give each once")
