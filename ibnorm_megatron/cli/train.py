"""``ibnorm train``: one run on this machine, under torchrun where the layout needs more than one process."""

from __future__ import annotations

import argparse
import json
import os
import sys

from . import add_config_arguments

HELP = "train a config on this machine"


def configure(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument(
        "--nproc-per-node", type=int, metavar="N", help="processes to start; by default as many as one copy of the model needs"
    )
    parser.add_argument(
        "--max-restarts", type=int, default=0, metavar="N", help="how often to start again where a rank dies; 0 by default"
    )
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="FIELD",
        help="a field in which a resumed run may differ from its beginning; may be repeated, and adds to run.allow",
    )
    parser.add_argument("--tags", metavar="A,B", help="tags of the run in Weights & Biases, which are added to log.wandb_tags")


def execute(arguments: argparse.Namespace) -> int:
    from ..config import parse_config
    from ..errors import Problem, UserError
    from ..train import main
    from ..train.run import check_run

    processes, restarts, overrides = arguments.nproc_per_node, arguments.max_restarts, list(arguments.overrides)
    if restarts < 0:
        raise UserError(Problem("--max-restarts", str(restarts), "there is no such number of restarts", "give 0 or more"))
    tags = [tag.strip() for tag in arguments.tags.split(",")] if arguments.tags is not None else []
    if processes is None or arguments.allow or tags:
        config, _ = parse_config(arguments.config, overrides)
        if processes is None:
            processes = config.parallel.model_parallel if config else 1
        if config and arguments.allow:
            overrides.append(f"run.allow={json.dumps([*config.run.allow, *arguments.allow])}")
        if config and tags:
            overrides.append(f"log.wandb_tags={json.dumps(list(dict.fromkeys([*config.log.wandb_tags, *tags])))}")
            if config.log.wandb == "off":
                print("warning: --tags: log.wandb is off, and nobody else reads tags; set log.wandb=auto", file=sys.stderr)
    check_run(arguments.config, overrides, processes)
    target = [arguments.config, *overrides]
    if processes == 1 and not restarts:
        return main(target)
    return _launch(processes, restarts, ["-m", "ibnorm_megatron.train", *target])


def _launch(processes: int, restarts: int, target: list[str]) -> int:
    """Run ``python TARGET`` as so many ranks under torchrun, and pass signals on to them."""
    from ..cluster.agent import environment, supervise
    from ..cluster.rendezvous import Rendezvous

    own = Rendezvous(processes, max_restarts=restarts)
    return supervise(own.torchrun(sys.executable, target), environment(os.environ, own))
