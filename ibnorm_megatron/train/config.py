"""The typed configs of a training run: its length, optimizer, evaluation, checkpoints, records. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from math import isqrt
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from ..errors import Problem
from ..parallel.config import Precision
from ..validation import PathText


class _Room(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class TrainConfig(_Room):
    """Length, batch, precision and optimizer. A batch is counted in sequences, a learning rate per step of AdamW."""

    steps: int = Field(gt=0)
    sequence_length: int = Field(gt=0, description="tokens a sequence")
    global_batch_size: int = Field(gt=0, le=10**12, description="sequences a step, over all data-parallel ranks")
    micro_batch_size: int = Field(gt=0, description="most sequences a rank takes at once; the rest is gradient accumulation")
    seed: int = Field(1234, ge=0, lt=2**32, description="of initial weights, data order and dropout; NumPy takes 32 bits")
    precision: Precision = "bf16"
    lr: float = Field(gt=0, description="peak learning rate")
    min_lr_ratio: float = Field(0.1, ge=0, le=1, description="learning rate at the last step over the peak")
    schedule: Literal["cosine", "wsd"] = "cosine"
    warmup_fraction: float = Field(0.1, ge=0, lt=1, description="share of all steps in the linear warm-up")
    decay_fraction: float = Field(0.2, gt=0, le=1, description="share of all steps in the decay of the wsd schedule")
    weight_decay: float = Field(0.1, ge=0, description="on matrices; vectors (norms, biases) have none")
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.95, ge=0, lt=1)
    adam_eps: float = Field(1e-8, gt=0)
    grad_clip: float = Field(1.0, ge=0, description="largest gradient norm; 0 means no clipping")
    average_decay: float = Field(
        0, ge=0, lt=1, description="of a running mean of the weights, saved and evaluated beside them; 0 means none"
    )
    replica_audit: int = Field(
        100, ge=0, description="steps between checks that all copies of a weight are equal, bit for bit; 0 means never"
    )

    def tokens_per_step(self) -> int:
        """Tokens that one optimizer step sees."""
        return self.global_batch_size * self.sequence_length

    @property
    def warmup_steps(self) -> int:
        """Steps of the warm-up."""
        return round(self.warmup_fraction * self.steps)

    @property
    def peak_until(self) -> int:
        """The last step whose learning rate is the peak's."""
        if self.schedule == "cosine":
            return self.warmup_steps
        return self.steps - self.decay_steps

    @property
    def decay_steps(self) -> int:
        """Steps of the decay of the wsd schedule."""
        return max(1, round(self.decay_fraction * self.steps))

    def micro_batch(self, data_parallel: int) -> int:
        """Sequences that a rank takes at once: the largest number up to ``micro_batch_size`` that divides its share."""
        share = self.global_batch_size // data_parallel
        # Divisors come in pairs around the square root: a million steps for the largest batch that the field admits.
        divisors = (d for small in range(1, isqrt(share) + 1) if share % small == 0 for d in (small, share // small))
        return max(d for d in divisors if d <= self.micro_batch_size)

    def micro_batches(self, data_parallel: int) -> int:
        """Micro-batches that one rank takes a step."""
        return self.global_batch_size // (self.micro_batch(data_parallel) * data_parallel)

    def problems(self, data_parallel: int) -> Iterator[Problem]:
        """What of these numbers does not fit together."""
        if self.schedule == "wsd" and self.warmup_fraction + self.decay_fraction > 1:
            why = f"with train.warmup_fraction {self.warmup_fraction} it does not fit into the run"
            yield Problem("train.decay_fraction", str(self.decay_fraction), why, "let the two add up to 1 at most")
        if self.global_batch_size % data_parallel:
            why = f"{data_parallel} data-parallel ranks cannot share it equally"
            yield Problem("train.global_batch_size", str(self.global_batch_size), why, f"use a multiple of {data_parallel}")


class EvaluateConfig(_Room):
    """How often and on how much of the validation split the model is evaluated; the last step always is."""

    interval: int = Field(0, ge=0, description="steps between evaluations; 0 means only after the last step")
    batches: int = Field(8, gt=0, description="global batches an evaluation takes, or fewer if the split ends")


class CheckpointConfig(_Room):
    """How often training state is saved; the last step and a stop by SIGTERM always save."""

    interval: int = Field(1000, ge=0, description="steps between checkpoints; 0 means only where the run ends or stops")
    keep_last: int = Field(2, gt=0, description="how many of the newest are kept")
    keep_every: int = Field(0, ge=0, description="keep those of every so many steps for good; 0 means none of them")
    at: tuple[Annotated[int, Field(gt=0)], ...] = Field(
        (), strict=False, description="further steps after which state is saved, and kept for good: other runs may branch there"
    )
    background: bool = Field(True, description="write while training goes on; false waits for every file")


class GuardConfig(_Room):
    """What is done about a loss or gradient that is not finite, or far from those before it."""

    stop_after: int = Field(10, ge=0, description="steps in a row without a finite gradient after which a run stops; 0: never")
    spikes: Literal["off", "report", "skip"] = Field("report", description="what to do about a loss or gradient that jumps")
    spike_window: int = Field(128, ge=16, description="steps whose losses and gradient norms say what is usual")
    spike_threshold: float = Field(10.0, gt=0, description="robust standard deviations above the median that count as a jump")


class LogConfig(_Room):
    """Where metrics go, beside metrics.jsonl which is always written, and how often the norms are looked into."""

    interval: int = Field(1, gt=0, description="steps between records")
    console: bool = Field(True, description="progress on the terminal")
    tensorboard: bool = False
    wandb: Literal["off", "auto", "offline", "online"] = Field(
        "auto", description="Weights & Biases; auto: online where there is a key, else offline, into the run's folder"
    )
    wandb_project: str = "ibnorm_megatron"
    wandb_tags: tuple[Annotated[str, Field(min_length=1, max_length=64)], ...] = Field(
        (), strict=False, description="tags of the run there, each of 1 to 64 characters"
    )
    wandb_artifacts: Literal["none", "records", "checkpoint"] = Field(
        "none", description="what is uploaded where the run ends: its records, or these and the last checkpoint"
    )
    telemetry: int = Field(100, ge=0, description="steps between looks into the norms, for telemetry.jsonl; 0 means none")
    norm_cost: bool = Field(False, description="after the last step, time the norms alone and report their share of a step")


class RunConfig(_Room):
    """The folder of this run."""

    dir: PathText = "runs/default"
    resume: Literal["auto", "never"] = Field("auto", description="auto continues from the newest checkpoint in dir, if any")
    allow: tuple[str, ...] = Field((), strict=False, description="fields in which a resumed run may differ from its beginning")
    branch_from: PathText = Field(
        "",
        description="folder of another run's checkpoint: this run begins there, with that state, and ends as it says itself",
    )
    device: Literal["auto", "gpu"] = Field("auto", description="auto takes GPUs if there are any, or else the CPU; gpu insists")
    dead_after: float = Field(60.0, gt=0, description="seconds without a sign of life after which a rank counts as dead")
    stall_after: float = Field(1800.0, gt=0, description="seconds without a step after which a run reports where and ends")
    stop_within: float = Field(300.0, gt=0, description="seconds that a stop by a signal may take, saving included")
