"""``ibnorm train``: one run on this machine, under torchrun where the layout needs more than one process."""

from __future__ import annotations

import argparse
import os
import sys

from . import add_config_arguments

HELP = "train a config on this machine"


def configure(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument(
        "--nproc-per-node", type=int, metavar="N", help="processes to start; by default as many as one copy of the model needs"
    )


def execute(arguments: argparse.Namespace) -> int:
    from ..config import parse_config
    from ..train import main
    from ..train.run import check_run

    processes = arguments.nproc_per_node
    if processes is None:
        config, _ = parse_config(arguments.config, arguments.overrides)
        processes = config.parallel.model_parallel if config else 1
    check_run(arguments.config, arguments.overrides, processes)
    target = [arguments.config, *arguments.overrides]
    if processes == 1:
        return main(target)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    os.execv(sys.executable, [*torchrun, "-m", "ibnorm_megatron.train", *target])  # noqa: S606 (no shell, own interpreter)
