"""What somebody wants to start, and what of it cannot work on the hosts that it is for."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ..config import Config
from ..errors import Problem, UserError
from .rendezvous import DEFAULT_PORT

#: D-HH:MM:SS, HH:MM:SS, MM:SS, MM or D-HH, as Slurm reads them.
_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<numbers>\d+(?::\d+){0,2})")
#: A name that Kubernetes takes for a Job, whose pods add to it, and a Service.
_LABEL = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?")
_HOST_LINE = re.compile(r"(\S+)(?:\s+slots=(\d+))?")


@dataclass(frozen=True)
class Request:
    """A config and the hosts that it shall run on.

    Attributes:
        config_file: the path as it was given; ``text`` is what it holds.
        overrides: ``room.field=value`` each.
        nodes: fewest and most hosts.
        per_node: ranks on each, 0 where nobody said; ``gpus`` says whether each has a GPU.
        shared: a folder that all hosts see under this path, "" if none was named.
        master: ``HOST[:PORT]`` where the hosts meet.
        hostfile: lists the hosts as DeepSpeed reads them.
        ssh: how DeepSpeed's launcher reaches them, ``pdsh`` or ``openssh``.
        image: for containers; ``claim`` is the volume claim that is mounted at ``shared``.
        tensor_across_nodes: the layout may spread one matrix product over hosts.
    """

    config_file: str
    text: str = ""
    overrides: Sequence[str] = ()
    nodes: tuple[int, int] = (1, 1)
    per_node: int = 1
    gpus: bool = True
    shared: str = ""
    master: str = ""
    hostfile: str = ""
    ssh: str = ""
    image: str = ""
    claim: str = ""
    namespace: str = ""
    name: str = ""
    time: str = ""
    max_restarts: int = 0
    tensor_across_nodes: bool = False
    hosts: Sequence[str] = field(default=())

    @property
    def worlds(self) -> list[int]:
        """The numbers of ranks with which it may start; none where nobody said how many a host has."""
        return sorted({nodes * self.per_node for nodes in self.nodes}) if self.per_node else []

    @property
    def most(self) -> int:
        """The most hosts."""
        return self.nodes[1]

    @property
    def several(self) -> bool:
        """Whether it is for more than one host."""
        return self.most > 1

    def meeting_place(self) -> tuple[str, int]:
        """Name and port at which the hosts meet; the first of the hostfile where nothing else was said."""
        host, _, port = self.master.partition(":")
        return host or (self.hosts[0] if self.hosts else ""), int(port or DEFAULT_PORT)

    def seconds(self) -> int | None:
        """The time limit, None if there is none or it is no time."""
        given = _TIME.fullmatch(self.time)
        if not given:
            return None
        numbers = [int(number) for number in given["numbers"].split(":")]
        days = int(given["days"] or 0)
        if given["days"]:  # D-HH[:MM[:SS]]
            hours, minutes, seconds = [*numbers, 0, 0][:3]
        else:  # MM, MM:SS, HH:MM:SS
            hours, minutes, seconds = {1: [0, *numbers, 0], 2: [0, *numbers], 3: numbers}[len(numbers)]
        return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def read_hostfile(path: str) -> tuple[list[tuple[str, int | None]], list[Problem]]:
    """The hosts in a DeepSpeed hostfile, ``NAME slots=N`` a line, and what is wrong with it."""
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        return [], [
            Problem("--hostfile", path, f"it cannot be read ({why})", "give a file with a line like node1 slots=8 a host")
        ]
    hosts, problems = [], []
    for number, line in enumerate(lines, start=1):
        line = line.partition("#")[0].strip()
        found = _HOST_LINE.fullmatch(line)
        if line and not found:
            problems.append(Problem(f"line {number} of {path}", repr(line), "it names no host", "write it like node1 slots=8"))
        elif found:
            hosts.append((found[1], int(found[2]) if found[2] else None))
    if not hosts and not problems:
        problems.append(Problem("--hostfile", path, "it names no host", "write a line like node1 slots=8 for each"))
    return hosts, problems


def problems(request: Request, config: Config, needs: Needs) -> Iterator[Problem]:
    """What of a request cannot work, beside what the config says itself of these numbers of ranks.

    Args:
        request: what is wanted.
        config: a refused field in it ends the checks that read it, and no others.
        needs: what the target asks for and takes.
    """
    yield from _options(request, needs)
    yield from _hosts(request, needs)
    for check in (_tensor_groups, _folders, _plugins):
        with suppress(UserError):  # what was refused is reported already
            yield from check(request, config, needs)


@dataclass(frozen=True)
class Needs:
    """What a target takes.

    Attributes:
        target: its name.
        takes: options that have a meaning for it, beside those that all have.
        wants: options that it cannot do without; those in ``several`` for more than one host only.
        several: see there.
        contained: ranks see the shared folder and nothing else that whoever prints this sees; it outlives them.
        elastic: the number of hosts may be a range.
    """

    target: str
    takes: frozenset[str] = frozenset()
    wants: tuple[str, ...] = ()
    several: tuple[str, ...] = ()
    contained: bool = False
    elastic: bool = False


#: Options by their attribute, with what they look like.
_OPTIONS = {
    "master": "--master HOST[:PORT]",
    "hostfile": "--hostfile FILE",
    "ssh": "--ssh pdsh or --ssh openssh",
    "image": "--image IMAGE",
    "claim": "--claim NAME",
    "namespace": "--namespace NAME",
    "name": "--name NAME",
    "time": "--time HH:MM:SS",
    "max_restarts": "--max-restarts N",
}
_MEANING = {
    "master": "the hosts have to meet somewhere",
    "hostfile": "DeepSpeed's launcher has to know the hosts",
    "image": "a container runs an image",
    "claim": "pods see the shared folder through a claim on a volume",
}


def _options(request: Request, needs: Needs) -> Iterator[Problem]:
    for name in _OPTIONS:
        flag, given = f"--{name.replace('_', '-')}", getattr(request, name)
        if given and name not in needs.takes:
            yield Problem(flag, str(given), f"it has no effect on the target {needs.target}", "leave it out")
    for name in (*needs.wants, *(needs.several if request.several else ())):
        instead = name == "master" and request.hosts
        if not getattr(request, name) and not instead:
            yield Problem(f"--{name}", "missing", _MEANING[name], f"give {_OPTIONS[name]}")
    few, most = request.nodes
    if few > most:
        yield Problem("--nodes", f"{few}:{most}", "the fewest hosts are more than the most", "write it like 2:4")
    elif few != most and not needs.elastic:
        why = f"the target {needs.target} starts a number of hosts, and no range"
        yield Problem("--nodes", f"{few}:{most}", why, f"give one number, such as {most}")
    elif few != most and not request.max_restarts:
        why = "a run goes on with fewer hosts by starting its ranks again, and --max-restarts is 0"
        yield Problem("--nodes", f"{few}:{most}", why, "give --max-restarts 1 or more")
    if request.time and not request.seconds():
        yield Problem("--time", repr(request.time), "it is no time", "write it like 30 (minutes), 12:00:00 or 2-12:00:00")
    for flag, given in (("--name", request.name), ("--namespace", request.namespace), ("--claim", request.claim)):
        if given and needs.target.startswith("k8s") and not _LABEL.fullmatch(given):
            why = "Kubernetes takes up to 40 small letters, digits and hyphens, a letter first and no hyphen last"
            yield Problem(flag, repr(given), why, "choose another")
    _, _, port = request.master.partition(":")
    if port and not (port.isdecimal() and 0 < int(port) < 65_536):
        yield Problem("--master", repr(request.master), "what follows the colon is no port", "write it like node1:29500")


def _hosts(request: Request, needs: Needs) -> Iterator[Problem]:
    if not request.hostfile:
        return
    hosts, found = read_hostfile(request.hostfile)
    yield from found
    if hosts and not found and len(hosts) != request.most:
        why = f"it names {len(hosts)} hosts, and --nodes is {request.most}"
        yield Problem("--hostfile", request.hostfile, why, f"set --nodes {len(hosts)}, or mend the file")
    for name, slots in hosts:
        if slots is None and needs.target == "deepspeed":
            mend = f"write {name} slots={request.per_node or 'N'}"
            yield Problem("--hostfile", request.hostfile, f"it gives {name} no slots, and DeepSpeed reads no such line", mend)
        if slots is not None and 0 < request.per_node != slots:
            why = f"it gives {name} {slots} slots, and {request.per_node} ranks are asked for on each host"
            yield Problem("--hostfile", request.hostfile, why, f"write slots={request.per_node}, the same for every host")


def _tensor_groups(request: Request, config: Config, needs: Needs) -> Iterator[Problem]:
    """Ranks of one tensor group follow one another, so a group crosses hosts unless its size divides a host's ranks."""
    tensor, per_node = config.parallel.tensor, request.per_node
    if not request.several or per_node % tensor == 0 or request.tensor_across_nodes:
        return
    why = f"with {per_node} ranks a host, ranks that share every matrix product sit on several hosts"
    fitting = max(divisor for divisor in range(1, per_node + 1) if per_node % divisor == 0 and divisor <= tensor)
    mend = f"set parallel.tensor={fitting} and parallel.pipeline or parallel.zero_stage for the rest, or --tensor-across-nodes"
    yield Problem("parallel.tensor", str(tensor), why, mend)


def _folders(request: Request, config: Config, needs: Needs) -> Iterator[Problem]:
    """Folders that all hosts, or what comes after a container, have to see."""
    given = request.shared
    if not given:
        if request.several or needs.contained:
            who = "every host has to see run.dir and data.path" if request.several else "run.dir has to outlive the container"
            yield Problem("--shared", "missing", who, "give --shared with the path of a folder that they all have")
        return
    shared = Path(given)
    if not shared.is_absolute():
        yield Problem("--shared", repr(given), "it means another folder on every host", "write it from / on")
        return
    if not needs.contained and not shared.is_dir():
        why = "there is no such folder here, and hosts see it under one name"
        yield Problem("--shared", given, why, "mount it, or print this on one of the hosts")
        return
    for where, path in _places(config):
        if not _below(path, shared, needs.contained):
            said = (
                "an image has folders of its own, so paths are written from / on" if needs.contained else "hosts see no other"
            )
            yield Problem(where, path, f"it is not below --shared {given}, and {said}", f"put it below {given}")


def _plugins(request: Request, config: Config, needs: Needs) -> Iterator[Problem]:
    """Files that every rank reads."""
    if needs.contained and request.shared:
        for path in config.plugins:
            if not _below(path, Path(request.shared), contained=True):
                why = f"it is not below --shared {request.shared}, and ranks in an image see no other file of yours"
                yield Problem("plugins", path, why, f"put it below {request.shared} and write its path from / on")


def _places(config: Config) -> Iterator[tuple[str, str]]:
    yield "run.dir", config.run.dir
    yield from (("data.path", path) for path in ([config.data.path] if isinstance(config.data.path, str) else config.data.path))
    if config.run.branch_from:
        yield "run.branch_from", config.run.branch_from


def _below(path: str, shared: Path, contained: bool) -> bool:
    """Whether a path leads below the shared folder. In a container links and the folder we are in mean nothing."""
    if contained:
        return Path(os.path.normpath(path)).is_relative_to(os.path.normpath(shared)) and os.path.isabs(path)
    return Path(path).expanduser().resolve().is_relative_to(shared.resolve())
