"""Which steps are left out, which ones jump, and when a run stops for it: decided from global numbers, alike on every rank."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from .config import GuardConfig

#: Standard deviations of a normal distribution over its median absolute deviation.
_MAD_TO_SIGMA = 1.4826

#: The scale is at least this share of the median: of a series that hardly changes, noise is not a jump.
_LEAST_SCALE = 0.01

#: After this share of a window of jumps in a row, what was usual before is so no more.
_NEW_LEVEL = 4


@dataclass(frozen=True)
class Spike:
    """A jump upwards.

    Attributes:
        of: ``loss`` or ``grad_norm``.
        value: of this step.
        usual: the median of the steps before.
        deviations: how many robust standard deviations lie between the two.
    """

    of: str
    value: float
    usual: float
    deviations: float

    def __str__(self) -> str:
        what = {"loss": "the loss", "grad_norm": "the gradient's norm"}[self.of]
        return f"{what} jumps to {self.value:.4g} from a usual {self.usual:.4g} ({self.deviations:.0f} deviations)"


class Usual:
    """The running scale of a series: median and median absolute deviation of its last values.

    The deviation is the robust z-score of Iglewicz and Hoaglin (How to Detect and Handle Outliers, 1993): a few outliers in
    the window move neither median nor MAD, as they would a mean and a variance (Hampel, JASA 69, 1974).

    Args:
        window: values kept. There is no judgement before half of them are there.
    """

    def __init__(self, window: int) -> None:
        self._values: deque[float] = deque(maxlen=window)
        self._enough = window // 2

    def deviations(self, value: float) -> tuple[float, float]:
        """The median, and by how many robust standard deviations ``value`` is above it; 0 where too little is known."""
        if len(self._values) < self._enough:
            return math.nan, 0.0
        middle = median(self._values)
        spread = median(abs(known - middle) for known in self._values)
        scale = max(_MAD_TO_SIGMA * spread, _LEAST_SCALE * abs(middle), 1e-30)
        return middle, (value - middle) / scale

    def add(self, value: float) -> None:
        """One value more that is usual."""
        self._values.append(value)

    def forget(self) -> None:
        """Begin anew."""
        self._values.clear()

    def values(self) -> list[float]:
        """Those that say what is usual, the oldest first."""
        return list(self._values)


class Guard:
    """Judges every step of a run. What it knows is plain values, the same on every rank, and goes into checkpoints.

    Values of a step that jumps do not say what is usual. But after a quarter of a window of such steps in a row the
    level is taken for a new one: that step is taken, and the windows begin anew. So no run leaves out steps for ever.

    Attributes:
        skipped_steps: steps of the run that were left out, for whatever reason.
        failed_in_a_row: the last so many steps had no finite loss and gradient. A step that fp16 leaves out to find a loss
            scale counts neither way, unless its loss was not finite.
        spikes: of the last step.
        loss: mean over all labels of the last step, nan before the first that was judged.
        grad_norm: of that step.
    """

    def __init__(self, config: GuardConfig) -> None:
        self._config = config
        self._usual = {name: Usual(config.spike_window) for name in ("loss", "grad_norm")}
        self._flagged_in_a_row, self._failed, self._skipped = 0, False, False
        self.skipped_steps = self.failed_in_a_row = 0
        self.spikes: tuple[Spike, ...] = ()
        self.loss = self.grad_norm = math.nan

    @property
    def active(self) -> bool:
        """Whether steps are judged at all. If not, nothing is read from the device, and only the engine skips steps."""
        return self._config.stop_after > 0 or self._config.spikes != "off"

    @property
    def at_the_brink(self) -> bool:
        """Whether the run stops if the coming step fails too."""
        return self._config.stop_after > 0 and self.failed_in_a_row + 1 >= self._config.stop_after

    @property
    def exhausted(self) -> bool:
        """Whether the run has to stop."""
        return 0 < self._config.stop_after <= self.failed_in_a_row

    def judge(self, loss: float, grad_norm: float) -> bool:
        """Whether to leave out a step: before its update, from the mean loss over all labels and the whole gradient's norm.

        One whose gradient is not finite is left out by the engine, whatever is said here.
        """
        self.loss, self.grad_norm, self.spikes = loss, grad_norm, ()
        if not math.isfinite(loss) or not math.isfinite(grad_norm):
            return math.isfinite(grad_norm)
        return self._config.spikes != "off" and self._jumps({"loss": loss, "grad_norm": grad_norm})

    def _jumps(self, values: dict[str, float]) -> bool:
        """Whether a step with these values is to be left out; note what of them jumps, and what is usual now."""
        found = {name: self._usual[name].deviations(value) for name, value in values.items()}
        self.spikes = tuple(
            Spike(name, values[name], middle, above)
            for name, (middle, above) in found.items()
            if above > self._config.spike_threshold
        )
        self._flagged_in_a_row = self._flagged_in_a_row + 1 if self.spikes else 0
        new_level = self._flagged_in_a_row >= self._config.spike_window // _NEW_LEVEL
        if new_level:
            self._flagged_in_a_row = 0
        for name, usual in self._usual.items():
            if new_level:
                usual.forget()
            if new_level or not self.spikes:
                usual.add(values[name])
        return bool(self.spikes) and not new_level and self._config.spikes == "skip"

    def count(self, *, skipped: bool, searching: bool) -> None:
        """Say what became of the step.

        Args:
            skipped: whether it was left out.
            searching: whether fp16 left it out to find a loss scale.
        """
        self._skipped = skipped
        self.skipped_steps += skipped
        if not self.active:
            return
        self._failed = not math.isfinite(self.loss) or not (math.isfinite(self.grad_norm) or searching)
        if self._failed or not searching:
            self.failed_in_a_row = self.failed_in_a_row + 1 if self._failed else 0

    def reprieve(self) -> None:
        """Count failures from 0 again: a run that was stopped and is started again has as many tries as it had."""
        self.failed_in_a_row = 0

    def state(self) -> dict[str, Any]:
        """What a resumed run needs to judge as this one would."""
        return {
            "skipped_steps": self.skipped_steps,
            "failed_in_a_row": self.failed_in_a_row,
            "flagged_in_a_row": self._flagged_in_a_row,
            "usual": {name: usual.values() for name, usual in self._usual.items()},
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`state` gave. Of a longer window the last values are kept."""
        self.skipped_steps, self.failed_in_a_row = state["skipped_steps"], state["failed_in_a_row"]
        self._flagged_in_a_row = state["flagged_in_a_row"]
        for name, values in state["usual"].items():
            self._usual[name].forget()
            for value in values:
                self._usual[name].add(value)

    def events(self, step: int) -> list[dict[str, Any]]:
        """What there is to say of the last step: one record for each jump, or one if something was not finite."""
        if self._failed:
            seen = {
                "loss_seen": self.loss,
                "grad_norm_seen": self.grad_norm,
                "in_a_row": self.failed_in_a_row,
            }  # no record of a loss
            said = f"loss {self.loss:.4g}, gradient's norm {self.grad_norm:.4g}; the step is skipped"
            return [{"step": step, "event": "not_finite", **seen, "says": said}]
        ending = "; the step is skipped" if self._skipped else ""
        return [
            {"step": step, "event": "spike", **asdict(spike), "skipped": self._skipped, "says": f"{spike}{ending}"}
            for spike in self.spikes
        ]
