"""Real trouble for one rank of a run: put into it before it trains (see :mod:`tests.workers.ranks`)."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any


def _before_batches(act: Callable[[int], None], rank: int = 1) -> None:
    """Let one rank do something before it gets the batches of a step, whose number it is told."""
    from ibnorm_megatron.data.loader import Loader

    if os.environ["RANK"] != str(rank):
        return
    batches = Loader.batches

    def acting(self: Loader, first_sample: int) -> Any:
        act(first_sample // 6 + 1)
        return batches(self, first_sample)

    Loader.batches = acting  # type: ignore[method-assign]


def hang_in_data() -> None:
    """Rank 1 waits for ever for the data of step 4."""
    _before_batches(lambda step: threading.Event().wait() if step == 4 else None)  # type: ignore[arg-type, return-value]


def hang_in_data_alone() -> None:
    """The only rank waits for ever for the data of step 4."""
    _before_batches(lambda step: threading.Event().wait() if step == 4 else None, rank=0)  # type: ignore[arg-type, return-value]


def slow_data() -> None:
    """Rank 1 waits for its data for a third of a second, until step 10."""
    _before_batches(lambda step: time.sleep(0.33 if step <= 10 else 0.0))


def raise_in_step() -> None:
    """Rank 1 has a bug in step 4."""

    def act(step: int) -> None:
        if step == 4:
            raise KeyError("no such document")

    _before_batches(act)


def fail_in_step() -> None:
    """Rank 1 cannot go on in step 4, and knows why."""

    def act(step: int) -> None:
        if step == 4:
            from ibnorm_megatron.errors import Problem, RunFailure

            raise RunFailure(Problem("the disk", "full", "no space is left", "make some"))

    _before_batches(act)


def hold_the_lock() -> None:
    """Rank 1 computes for 8 s within one call that keeps Python's lock, as an import or a compiler may."""

    def act(step: int) -> None:
        if step == 4:
            import re

            began = time.monotonic()
            # This pattern backtracks for ever; doubling until the call is long enough suits any machine.
            for letters in range(20, 40):
                re.match("(a|a)*b", "a" * letters)
                if time.monotonic() - began > 8:
                    return

    _before_batches(act)


def slow_computing() -> None:
    """Rank 1 computes for a third of a second more in every forward pass."""
    if os.environ["RANK"] != "1":
        return
    from ibnorm_megatron.model.language_model import LanguageModel

    forward = LanguageModel.forward

    def slowly(self: Any, *arguments: Any, **keywords: Any) -> Any:
        end = time.thread_time() + 0.33
        while time.thread_time() < end:
            pass
        return forward(self, *arguments, **keywords)

    LanguageModel.forward = slowly  # type: ignore[method-assign]


def impatient_wandb() -> None:
    """A run waits two seconds for its server to take it up, and eight for it to take the last records."""
    from ibnorm_megatron.train.callbacks import wandb_records

    wandb_records._OPENING, wandb_records._ENDING = 2.0, 8.0
    wandb_records._SETTINGS["init_timeout"] = 2.0


def wandb_that_raises() -> None:
    """The third record is one too many for it."""
    import wandb

    log, said = wandb.sdk.wandb_run.Run.log, []

    def raising(run: Any, data: dict[str, Any], *given: Any, **named: Any) -> None:
        said.append(data)
        if len(said) >= 3:
            raise RuntimeError("no more of this")
        log(run, data, *given, **named)

    wandb.sdk.wandb_run.Run.log = raising


def wandb_that_does_not_start() -> None:
    """Nothing of it works."""
    import wandb

    def init(**_: Any) -> None:
        raise OSError(28, "No space left on device")

    wandb.init = init
