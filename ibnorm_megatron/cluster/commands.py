"""The command lines that start a run: torchrun on each host, DeepSpeed's launcher, Slurm, Apptainer."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from .request import Request


def torchrun(request: Request) -> str:
    """One line that is the same on every host."""
    line = _line({**_processes(request), **_meeting(request)}, ["bash", "launch/torchrun.sh", *_target(request)])
    return _on_each_host(request) + line


def deepspeed(request: Request) -> str:
    """One line on one of the hosts; its launcher goes to the others by ssh."""
    if not request.hostfile:
        return _line(_processes(request), ["bash", "launch/deepspeed.sh", *_target(request)])
    variables = {"HOSTFILE": request.hostfile, "LAUNCHER": request.ssh or "pdsh"}
    if request.master:
        variables |= _address(request)
    where = "# on one of the hosts, in the repository's folder, which all hosts have under this path\n"
    return where + _line(variables, ["bash", "launch/deepspeed.sh", *_target(request)])


def slurm(request: Request) -> str:
    """One line on a machine that has sbatch."""
    options = [f"--nodes={request.most}"]
    options += [f"--gpus-per-node={request.per_node}"] if request.gpus else []
    options += [f"--time={request.time}"] if request.time else []
    options += [f"--job-name={request.name}"] if request.name else []
    variables = {} if request.gpus else {"NPROC_PER_NODE": str(request.per_node)}
    if request.image:
        variables["IMAGE"] = request.image
    return _line(variables, ["sbatch", *options, "launch/slurm.sbatch", *_target(request)])


def apptainer(request: Request) -> str:
    """One line that is the same on every host; Apptainer itself reads which folders the image sees."""
    bound = {"APPTAINER_BIND": request.shared} if request.shared else {}  # it sees the folder that we are in anyhow
    variables = {"IMAGE": request.image, **bound, **_processes(request), **_meeting(request)}
    return _on_each_host(request) + _line(variables, ["bash", "launch/apptainer.sh", *_target(request)])


def _target(request: Request) -> list[str]:
    return [request.config_file, *request.overrides]


def _processes(request: Request) -> dict[str, str]:
    return {"NPROC_PER_NODE": str(request.per_node)}


def _meeting(request: Request) -> dict[str, str]:
    few, most = request.nodes
    variables = {"NNODES": str(most) if few == most else f"{few}:{most}", **_address(request)} if request.several else {}
    return variables | ({"MAX_RESTARTS": str(request.max_restarts)} if request.max_restarts else {})


def _address(request: Request) -> dict[str, str]:
    host, port = request.meeting_place()
    return {"MASTER_ADDR": host, "MASTER_PORT": str(port)}


def _on_each_host(request: Request) -> str:
    if not request.several:
        return ""
    hosts = f": {', '.join(request.hosts)}" if request.hosts else ""
    return f"# the same line on each of {request.most} hosts, in the repository's folder{hosts}\n"


def _line(variables: Mapping[str, str], words: Sequence[str]) -> str:
    """One command line for a POSIX shell."""
    return " ".join([*(f"{name}={shlex.quote(value)}" for name, value in variables.items()), shlex.join(words)]) + "\n"
