"""Training: ``torchrun -m ibnorm_megatron.train CONFIG [room.field=value ...]``, or :func:`main` from a script."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..config import Config
    from ..data.prepared import Prepared


#: What a system says of a disk, and not of our mistakes: full, over quota, read-only, forbidden, faulty, gone.
_DISKS_FAULT = {getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EROFS", "EACCES", "EPERM", "EIO", "EFBIG", "ESTALE")}

#: Seconds that other ranks stay when a run is refused: a launcher ends all ranks with the first, which may not have spoken yet.
_LET_THE_FIRST_SPEAK = 5.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what a config describes, as one rank of the world that a launcher made; returns the exit code.

    Args:
        arguments: a config file and overrides; the command line's by default. ``--local_rank``, which the deepspeed
            launcher adds, is ignored: the environment says it too.
    """
    import os
    import sys
    import time

    from ..errors import Problem, RunFailure, UserError, raise_if_any, run_command
    from ..quiet import quiet
    from .environment import launcher_problems

    rank, size = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    given = list(sys.argv[1:] if arguments is None else arguments)
    given = [argument for argument in given if not argument.startswith("--local_rank")]
    checked: list[tuple[Config, Prepared]] = []

    def check() -> None:
        raise_if_any(launcher_problems())
        if not given or given[0].startswith("-"):
            mend = "run: torchrun --nproc-per-node N -m ibnorm_megatron.train CONFIG [room.field=value ...]"
            raise UserError(Problem("the config file", "missing", "a run needs one", mend))
        from .run import check_run

        checked.append(check_run(given[0], given[1:], int(os.environ.get("WORLD_SIZE", "1"))))

    def train() -> int:
        quiet()
        from ..parallel.groups import World
        from .run import run

        try:
            return run(*checked[0], World.from_environment())
        except OSError as error:
            if error.errno not in _DISKS_FAULT or not error.filename:
                raise
            mend = "mend that; the same command goes on from the newest checkpoint"
            raise RunFailure(Problem("the file", str(error.filename), str(error.strerror).lower(), mend)) from None

    # Every rank checks the same and would say the same; what goes wrong later may be one rank's own.
    # A rank that is none of its world's speaks for itself.
    one_of_many = rank.isdecimal() and size.isdecimal() and 0 < int(rank) < int(size)
    refused = run_command(check, quiet=one_of_many)
    if refused and one_of_many:
        time.sleep(_LET_THE_FIRST_SPEAK)
    return refused or run_command(train, speaker="" if rank == "0" else f"[rank {rank}] ")
