"""``ibnorm launch --print``: the command or manifest that starts a config on hosts, schedulers and clusters."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from . import add_config_arguments

if TYPE_CHECKING:
    from ..cluster.request import Request
    from ..config import Config
    from ..errors import Problem

HELP = "print what starts a config on many hosts, Slurm or Kubernetes; refuses what cannot work"

_TARGETS = ("torchrun", "deepspeed", "slurm", "apptainer", "k8s-job", "k8s-pytorchjob", "k8s-trainjob")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--print", dest="target", required=True, choices=_TARGETS, metavar="TARGET", help=", ".join(_TARGETS))
    add_config_arguments(parser)
    parser.add_argument(
        "--nodes", default="1", metavar="N", help="hosts; MIN:MAX where a run may go on with fewer; 1 by default"
    )
    ranks = parser.add_mutually_exclusive_group()
    ranks.add_argument("--gpus-per-node", type=int, metavar="N", help="ranks on each host, each with a GPU")
    ranks.add_argument("--processes-per-node", type=int, metavar="N", help="ranks on each host, on CPUs")
    parser.add_argument("--shared", default="", metavar="PATH", help="a folder that all hosts see under this path")
    parser.add_argument("--master", default="", metavar="HOST[:PORT]", help="where the hosts meet; else the hostfile's first")
    parser.add_argument("--hostfile", default="", metavar="FILE", help="the hosts, a line like node1 slots=8 each")
    parser.add_argument("--ssh", default="", choices=("pdsh", "openssh"), help="how deepspeed reaches hosts; pdsh by default")
    parser.add_argument("--image", default="", help="of the container; a .sif file for apptainer")
    parser.add_argument("--claim", default="", metavar="NAME", help="Kubernetes: the volume claim to mount at --shared")
    parser.add_argument("--namespace", default="", metavar="NAME", help="Kubernetes: where the job is made")
    parser.add_argument("--name", default="", metavar="NAME", help="of the job; by default the last part of run.dir")
    parser.add_argument("--time", default="", metavar="HH:MM:SS", help="after which the job is ended")
    parser.add_argument("--max-restarts", type=int, default=0, metavar="N", help="how often dead ranks are started again")
    parser.add_argument(
        "--tensor-across-nodes", action="store_true", help="let ranks that share every matrix product sit on several hosts"
    )


def execute(arguments: argparse.Namespace) -> None:
    from ..cluster.request import problems as request_problems
    from ..cluster.targets import TARGETS
    from ..config import parse_config
    from ..errors import UserError, raise_if_any
    from .dry_run import prepared_data

    target = TARGETS[arguments.target]
    request, found = _request(arguments)
    config: Config | None = None
    for world in request.worlds or [None]:
        config, problems = parse_config(arguments.config, arguments.overrides, world_size=world)
        found += problems
    if config is not None:
        found += request_problems(request, config, target.needs)
        try:
            prepared_data(config)
        except UserError as error:
            found += error.problems
    raise_if_any(found)
    assert config is not None
    print(target.render(_named(request, config, target.needs.takes), config), end="")


def _request(arguments: argparse.Namespace) -> tuple[Request, list[Problem]]:
    from ..cluster.request import Request, read_hostfile
    from ..errors import Problem

    problems: list[Problem] = []
    found = re.fullmatch(r"([1-9]\d{0,5})(?::([1-9]\d{0,5}))?", arguments.nodes)
    if not found:
        why = "it is no number of hosts, and no range of such numbers"
        problems.append(Problem("--nodes", repr(arguments.nodes), why, "write it like 2, or 2:4"))
    nodes = (int(found[1]), int(found[2] or found[1])) if found else (1, 1)
    flag = "--processes-per-node" if arguments.processes_per_node is not None else "--gpus-per-node"
    per_node = arguments.processes_per_node if arguments.processes_per_node is not None else arguments.gpus_per_node
    if per_node is None:
        mend = "give --gpus-per-node N, or --processes-per-node N on CPUs"
        problems.append(Problem("--gpus-per-node", "missing", "the layout depends on it", mend))
    elif not 0 < per_node < 10**5:
        problems.append(Problem(flag, str(per_node), "a host has at least one rank", "give 1 or more"))
        per_node = None
    if arguments.max_restarts < 0:
        why = "there is no such number of restarts"
        problems.append(Problem("--max-restarts", str(arguments.max_restarts), why, "give 0 or more"))
    taken = ("master", "hostfile", "ssh", "image", "claim", "namespace", "name", "time", "shared", "tensor_across_nodes")
    given = {name: getattr(arguments, name) for name in taken}
    hosts = [name for name, _ in read_hostfile(arguments.hostfile)[0]] if arguments.hostfile else []
    request = Request(
        arguments.config,
        text=_text(arguments.config),
        overrides=tuple(arguments.overrides),
        nodes=nodes,
        per_node=per_node or 0,
        gpus=arguments.processes_per_node is None,
        max_restarts=max(0, arguments.max_restarts),
        hosts=tuple(hosts),
        **given,
    )
    return request, problems


def _text(path: str) -> str:
    """What the config file holds; empty where it cannot be read, which the config's own check says."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _named(request: Request, config: Config, takes: frozenset[str]) -> Request:
    """The request with a name for its job: that of the run's folder, in letters that every scheduler takes."""
    from dataclasses import replace

    if request.name or "name" not in takes:
        return request
    last = Path(config.run.dir).name.lower()
    name = re.sub(r"[^a-z0-9]+", "-", last).strip("-")[:40].strip("-")
    return replace(request, name=name if re.match(r"[a-z]", name) else f"run-{name}".strip("-")[:40])
