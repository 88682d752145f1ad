"""``ibnorm train``: one run on this machine, under torchrun where the layout needs more than one process."""

from __future__ import annotations

import argparse
import contextlib
import signal
import subprocess
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
    return _launch(processes, ["-m", "ibnorm_megatron.train", *target])


def _launch(processes: int, target: list[str]) -> int:
    """Run ``python TARGET`` as so many ranks under torchrun, and pass signals on to them.

    torchrun that is signalled itself ends with exit code 1, whatever its ranks do. It gets a session of its own, so that
    neither a terminal's Ctrl-C nor a signal to this process reaches it; the ranks stop, and torchrun reports how.
    """
    import psutil

    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    with subprocess.Popen([*torchrun, *target], start_new_session=True) as agent:  # noqa: S603 (no shell, own interpreter)

        def forward(number: int, frame: object) -> None:
            with contextlib.suppress(psutil.NoSuchProcess):
                torchrun_itself = psutil.Process(agent.pid)
                for process in torchrun_itself.children() or [torchrun_itself]:
                    process.send_signal(number)

        previous = {number: signal.signal(number, forward) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            return agent.wait()
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
