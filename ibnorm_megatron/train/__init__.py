"""Training: ``torchrun -m ibnorm_megatron.train CONFIG [room.field=value ...]``, or :func:`main` from a script."""

from __future__ import annotations

from collections.abc import Sequence


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

    given = list(sys.argv[1:] if arguments is None else arguments)
    given = [argument for argument in given if not argument.startswith("--local_rank")]

    def command() -> int:
        if not given or given[0].startswith("-"):
            mend = "run: torchrun --nproc-per-node N -m ibnorm_megatron.train CONFIG [room.field=value ...]"
            raise UserError(Problem("the config file", "missing", "a run needs one", mend))
        from .run import check_run, run

        config, manifest = check_run(given[0], given[1:], int(os.environ.get("WORLD_SIZE", "1")))
        quiet()
        from ..parallel.groups import World

        return run(config, manifest, World.from_environment())

    return run_command(command, quiet=os.environ.get("RANK", "0") != "0")
