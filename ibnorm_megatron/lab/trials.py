"""One training of a study, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict

#: tune: the grid of learning rates. further: lambdas, or rates between. main: what is compared. check: the largest size at
#: other rates than the transferred one.
Stage = Literal["tune", "further", "main", "check"]


#: How pydantic reads one from JSON: no field more, none converted.
_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Trial:
    """What one process trains, said by the study's own names: everything else follows from the study's file.

    Attributes:
        stage: what it is for.
        arm, size: names in the study.
        seed: of initial weights and data order.
        learning_rate: the peak, as the size's config has it.
        strength: lambda where the study tunes it; None leaves the norm's own.
        horizon: tokens a parameter at its end.
        branches: shorter horizons for whose decays this run saves its state on the way.
        trunk: the horizon of the run that it goes on from, at the step where its own decay begins; None from the beginning.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    stage: Stage
    arm: str
    size: str
    seed: int
    learning_rate: float
    strength: float | None
    horizon: float
    branches: tuple[float, ...] = ()
    trunk: float | None = None


Status = Literal["complete", "diverged", "failed"]


@dataclass(frozen=True)
class Entry:
    """A line of the ledger: a trial that has ended, however it did.

    Attributes:
        trial: what was asked.
        key: hash of all that decides the result: config, data, tokenizer, and the trunk's key.
        folder: the run's, relative to the study's.
        status: diverged: the loss is not finite, or the guard stopped it. failed: anything else; it may be tried again.
        reason: the sentence it ended with, where it is not complete.
        parameters: N, without embeddings, head and norms.
        tokens: labels seen since the very beginning, those of the trunk included.
        flops: model FLOPs of those tokens; the trunk's part is in it.
        loss: validation loss in nats a token, None unless complete.
        seconds: time in steps since the very beginning: the median step's seconds times steps.
        found: other figures of the run's summary, by the names there (val_bits_per_byte, tokens_per_second, peak_memory_bytes,
            norm_share, spikes, ...).
        matching: what has to be equal over all arms of a seed: hashes of shared initial weights and of the order of samples,
            steps, batch, schedule, FLOPs.
        started, ended: ISO 8601, UTC.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    trial: Trial
    key: str
    folder: str
    status: Status
    reason: str
    parameters: int
    tokens: int
    flops: float
    loss: float | None
    seconds: float | None
    found: dict[str, Any]
    matching: dict[str, Any]
    started: str
    ended: str
