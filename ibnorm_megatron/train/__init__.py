"""Training: ``torchrun -m ibnorm_megatron.train CONFIG [room.field=value ...]``, or :func:`main` from a script."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..config import Config
    from ..data.prepared import Prepared


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what a config describes, as one rank of the world that a launcher made; returns the exit code.

    Args:
        arguments: a config file and overrides; the command line's by default. ``--local_rank``, which the deepspeed
            launcher adds, is ignored: the environment says it too.
    """
    import os
    import sys

    from ..errors import Problem, UserError, run_command
    from ..quiet import quiet

    rank = os.environ.get("RANK", "0")
    given = list(sys.argv[1:] if arguments is None else arguments)
    given = [argument for argument in given if not argument.startswith("--local_rank")]
    checked: list[tuple[Config, Prepared]] = []

    def check() -> None:
        if not given or given[0].startswith("-"):
            mend = "run: torchrun --nproc-per-node N -m ibnorm_megatron.train CONFIG [room.field=value ...]"
            raise UserError(Problem("the config file", "missing", "a run needs one", mend))
        from .run import check_run

        checked.append(check_run(given[0], given[1:], int(os.environ.get("WORLD_SIZE", "1"))))

    def train() -> int:
        quiet()
        from ..parallel.groups import World
        from .run import run

        return run(*checked[0], World.from_environment())

    # Every rank checks the same and would say the same; what goes wrong later may be one rank's own.
    refused = run_command(check, quiet=rank != "0")
    return refused or run_command(train, speaker="" if rank == "0" else f"[rank {rank}] ")
