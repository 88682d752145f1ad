"""What makes a comparison of norms unfair, or its result mean less than it seems to. Judged by the study's file alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .study import ArmConfig, StudyConfig, Unfair

#: Seeds below which a spread is hardly known.
LEAST_SEEDS = 3


def further_trials(config: StudyConfig) -> dict[str, int]:
    """Trials of each arm after the grid, of one tuning seed: its lambdas, and rates between up to ``further_trials``."""
    asked = config.tuning.further_trials if config.tuning else 0
    return {name: max(asked, len(arm.lambdas)) if config.tuning else 0 for name, arm in config.arms.items()}


def unfair(config: StudyConfig) -> list[tuple[Unfair, str]]:
    """Every way in which this design is unfair, whether the study allows it or not: name and sentence."""
    return [*_trials(config), *_design(config), *_tuning(config)]


def _trials(config: StudyConfig) -> Iterator[tuple[Unfair, str]]:
    """Everybody gets the grid, so that what follows it is all in which arms can differ."""
    counts = further_trials(config)
    tuned = {name: count for name, count in counts.items() if config.arms[name].lambdas}
    most = max(counts.values())
    behind = [name for name, count in counts.items() if count < most and name not in tuned]
    if behind:
        ahead = ", ".join(name for name, count in tuned.items() if count == most)
        yield (
            "one_arms_lambda",
            f"{ahead} gets {most} trials of lambda after the grid, and {', '.join(behind)} only {counts[behind[0]]} of its "
            f"learning rate: set tuning.further_trials to {most}",
        )
    if len(set(tuned.values())) > 1:
        shown = ", ".join(f"{name} {count}" for name, count in tuned.items())
        yield (
            "unequal_trials",
            f"arms whose lambda is tuned do not have equally many trials after the grid ({shown}): set tuning.further_trials "
            f"to {most}, or give each as many lambdas",
        )


def _design(config: StudyConfig) -> Iterator[tuple[Unfair, str]]:
    if config.control is None:
        yield (
            "no_control",
            "no arm is the baseline by another code path, so nobody knows the noise of the comparison itself: add an arm of "
            "norm ibnorm_identity and name it in control",
        )
    elif _is_another_norm(config):
        yield (
            "no_control",
            f"{config.control} is another norm than {config.baseline}, not the same by another code path, so nobody knows the "
            "noise of the comparison itself: name the arm in control that is the baseline by other code, as ibnorm_identity is",
        )
    if len(config.seeds) < LEAST_SEEDS:
        what = "is one seed" if len(config.seeds) == 1 else f"are {len(config.seeds)} seeds"
        yield "few_seeds", f"there {what}, and differences of this size come and go with the seed: give {LEAST_SEEDS} or more"
    if len(config.sizes) == 1:
        yield "one_size", "there is one size, so nothing can be said of another: give at least two"


def _tuning(config: StudyConfig) -> Iterator[tuple[Unfair, str]]:
    if config.tuning is None:
        yield (
            "untuned",
            "learning rates are not tuned, and the best one of one norm is not that of another: give tuning.learning_rates",
        )
    elif len(config.tuning.learning_rates) == 1:
        yield "untuned", "tuning.learning_rates is a single one, in which nothing can be best: give three or more"
    largest, transfer = list(config.sizes)[-1], config.transfer
    if tuned_size(config) == largest:
        return
    what = f"whether the transferred learning rate is near the best at {largest} is"
    if not transfer.check_factors or not transfer.check_seeds:
        name = "check_seeds" if transfer.check_factors else "check_factors"
        yield "unchecked_transfer", f"{what} not checked: give transfer.{name}"
    elif min(transfer.check_factors) > 1 or max(transfer.check_factors) < 1:
        yield "unchecked_transfer", f"{what} checked on one side only: give transfer.check_factors below 1 and above"


def _is_another_norm(config: StudyConfig) -> bool:
    """Whether the control is certainly no second path to the baseline. Of a baseline that compresses nobody here can tell."""
    named = [config.arms.get(name or "") for name in (config.baseline, config.control)]
    if named[0] is None or named[1] is None:
        return False
    baseline, control = (_plain(arm) for arm in named if arm)
    return baseline is not None and baseline != control


def _plain(arm: ArmConfig) -> object:
    """What an arm is, if it is LayerNorm or RMSNorm by whatever code at every site: where, centred or not, biased or not."""
    found = {}
    for site, norm in arm.norm.root.items():
        values = norm.model_dump(by_alias=True)
        if norm.kind not in ("layernorm", "rmsnorm", "ibnorm") or values.get("compression") not in (None, "identity", "linear"):
            return None
        found[site] = (values["center"], values["bias"])
    return found, arm.norm_placement, arm.qk_norm


def tuned_size(config: StudyConfig) -> str:
    """The size at which learning rates are tuned; the smallest where the study names none that is there."""
    given = config.tuning.size if config.tuning else None
    return given if given in config.sizes else next(iter(config.sizes))
