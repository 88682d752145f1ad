"""``ibnorm estimate``: what will a run hold and take, and which layouts fit so many GPUs?"""

from __future__ import annotations

import argparse
from pathlib import Path

from . import add_config_arguments

HELP = "estimate memory of a rank, time of a run on a kind of GPU, and layouts that fit; by formula, starts nothing"


def configure(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument(
        "--gpus", type=int, metavar="N", help="processes; layouts that fit them are proposed. By default one copy"
    )
    known = "A100-40GB, A100, H100, H200, B200, L40S"  # --help imports no table of theirs
    parser.add_argument("--gpu", default="H100", metavar="NAME", help=f"{known}; H100 by default")
    parser.add_argument("--memory", type=float, metavar="GIB", help="of a GPU, by default what the kind has")
    parser.add_argument(
        "--gpus-per-node", type=int, default=8, metavar="N", help="8 by default; tensor ranks stay within a node"
    )
    parser.add_argument(
        "--efficiency",
        type=float,
        metavar="SHARE",
        help="of the GPU's peak that matrix products reach, messages and waiting left out; 0.6 by default",
    )
    parser.add_argument("--network", type=float, metavar="GB/S", help="of a GPU's share of the network, in one direction")
    parser.add_argument("--reserve", type=float, metavar="GIB", help="of a GPU for CUDA and NCCL, 2 by default")
    parser.add_argument("--top", type=int, default=8, metavar="N", help="layouts to show, 8 by default; 0 looks for none")
    parser.add_argument("--device", choices=["gpu", "cpu"], default="gpu", help="cpu: memory of a process, and no time")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write every number; replaces an earlier report")


def execute(arguments: argparse.Namespace) -> int:
    from ..errors import Problem, raise_if_any
    from ..estimate.run import Options, estimate
    from ..estimate.speed import EFFICIENCY
    from ..files import write_json
    from ..printing import wide_console
    from ..reports import check_json_path

    if not 0 <= arguments.top <= 1000:
        raise_if_any([Problem("--top", str(arguments.top), "it is no number of layouts", "give 0 to 1000")])
    if arguments.json:
        check_json_path(arguments.json, "estimate")
    options = Options(
        device=arguments.device,
        gpu=arguments.gpu,
        gpus=arguments.gpus,
        memory=arguments.memory,
        per_node=arguments.gpus_per_node,
        efficiency=EFFICIENCY if arguments.efficiency is None else arguments.efficiency,
        network=arguments.network,
        reserve=arguments.reserve,
        propose=arguments.top > 0,
    )
    found = estimate(arguments.config, arguments.overrides, options)
    console = wide_console()
    for table in found.tables(arguments.top):
        console.print(table)
    for note in found.notes():
        console.print(note, markup=False)
    if arguments.json:
        write_json(arguments.json, found.to_dict())
        console.print(f"every number is in {arguments.json}", markup=False)
    return 0
