"""What the environment says of this host's part in a run, and the torchrun command that it makes.

Schedulers and people set the same few variables on every host; Kubeflow's operators set torchrun's own (``PET_...``), which
stand in where ours are not set.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

import psutil

from ..devices import has_gpu_driver
from ..errors import Problem, raise_if_any

DEFAULT_PORT = 29500
#: Seconds that a host waits for the others to come; images are pulled and queues move meanwhile.
DEFAULT_JOIN_TIMEOUT = 900
#: Seconds without ranks and without an answer from the rendezvous after which a host counts as cut off.
DEFAULT_CUT_OFF_AFTER = 30

_RANGE = re.compile(r"[1-9]\d{0,5}(:[1-9]\d{0,5})?")
_VALUES = "give a whole number"


@dataclass(frozen=True)
class Rendezvous:
    """One host's part.

    Attributes:
        processes: ranks on this host.
        nodes: fewest and most hosts; they differ where the run may go on with fewer.
        node_rank: of this host, None where nobody said.
        address: where the hosts meet; empty on one host alone.
        port: there.
        run_id: tells runs apart that meet at one address.
        max_restarts: how often ranks are started again where some die.
        join_timeout: seconds that hosts wait for one another.
        cut_off_after: seconds without ranks and without an answer from the rendezvous after which this host gives up.
        conf: further ``--rdzv-conf`` of torchrun, such as ``last_call_timeout=5``.
    """

    processes: int
    nodes: tuple[int, int] = (1, 1)
    node_rank: int | None = None
    address: str = ""
    port: int = DEFAULT_PORT
    run_id: str = "ibnorm"
    max_restarts: int = 0
    join_timeout: int = DEFAULT_JOIN_TIMEOUT
    cut_off_after: int = DEFAULT_CUT_OFF_AFTER
    conf: str = ""

    @staticmethod
    def from_environment(environ: Mapping[str, str], processes: int) -> Rendezvous:
        """Read the variables; ``processes`` is how many ranks this host has where they say nothing.

        Raises:
            UserError: everything in them that cannot work, at once.
        """
        reading = _Reading(environ)
        few, most = reading.nodes("NNODES", "PET_NNODES")
        own = Rendezvous(
            processes=reading.number("NPROC_PER_NODE", "PET_NPROC_PER_NODE", default=processes, least=1),
            nodes=(few, most),
            node_rank=reading.number("NODE_RANK", "PET_NODE_RANK", default=-1),
            address=reading.text("MASTER_ADDR", "PET_MASTER_ADDR"),
            port=reading.number("MASTER_PORT", "PET_MASTER_PORT", default=DEFAULT_PORT, least=1, most=65_535),
            run_id=reading.text("RDZV_ID") or "ibnorm",
            max_restarts=reading.number("MAX_RESTARTS", default=0),
            join_timeout=reading.number("JOIN_TIMEOUT", default=DEFAULT_JOIN_TIMEOUT, least=1),
            cut_off_after=reading.number("CUT_OFF_AFTER", default=DEFAULT_CUT_OFF_AFTER, least=1),
            conf=reading.text("RDZV_CONF"),
        )
        raise_if_any([*reading.problems, *own._problems()])
        return own if own.node_rank != -1 else Rendezvous(**{**own.__dict__, "node_rank": None})

    @property
    def several(self) -> bool:
        """Whether other hosts may take part."""
        return self.nodes[1] > 1

    @property
    def serves(self) -> bool:
        """Whether the hosts meet on this one."""
        return self.node_rank == 0 if self.node_rank is not None else is_own(self.address)

    def torchrun(self, python: str, target: list[str]) -> list[str]:
        """The command that runs ``python TARGET`` as this host's ranks."""
        words = [python, "-m", "torch.distributed.run", "--nproc-per-node", str(self.processes)]
        words += ["--max-restarts", str(self.max_restarts)]
        if not self.several:
            return [*words, "--standalone", *target]
        few, most = self.nodes
        words += ["--nnodes", str(most) if few == most else f"{few}:{most}", "--rdzv-backend", "c10d"]
        words += ["--rdzv-endpoint", f"{self.address}:{self.port}", "--rdzv-id", self.run_id]
        conf = [f"join_timeout={self.join_timeout}"]
        if self.node_rank is not None:  # by names torchrun may not see whose the address is: a service's, a load balancer's
            conf.append(f"is_host={str(self.serves).lower()}")
        words += ["--rdzv-conf", ",".join([*conf, *filter(None, [self.conf])])]
        own = route_to(self.address)
        if own:  # or else it gives the host's name, which others may not be able to resolve
            words += ["--local-addr", own]
        return [*words, *target]

    def _problems(self) -> Iterator[Problem]:
        few, most = self.nodes
        if few > most:
            yield Problem("NNODES", f"{few}:{most}", "the fewest hosts are more than the most", "write it like 2:4")
        if most > 1 and not self.address:
            why = f"{most} hosts have to meet somewhere"
            yield Problem("MASTER_ADDR", "missing", why, "set it to the name or address of one of them, the same on all")
        if self.node_rank is not None and self.node_rank >= most:
            yield Problem("NODE_RANK", str(self.node_rank), f"there are {most} hosts, numbered from 0", "give a lower one")
        if self.conf and not re.fullmatch(r"\w+=[^,=]+(,\w+=[^,=]+)*", self.conf):
            why = "it is no list of settings for torchrun's rendezvous"
            yield Problem("RDZV_CONF", repr(self.conf), why, "write it like last_call_timeout=5,close_timeout=5")


class _Reading:
    """Variables as numbers, with what is wrong about them."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.problems: list[Problem] = []

    def text(self, *names: str) -> str:
        """The first of these variables that is not empty."""
        return next((self._environ[name].strip() for name in names if self._environ.get(name, "").strip()), "")

    def number(self, *names: str, default: int, least: int = 0, most: int = 10**6) -> int:
        """A whole number from ``least`` to ``most``."""
        given = self.text(*names)
        if not given:
            return default
        if given.isascii() and given.isdecimal() and len(given) < 10 and least <= int(given) <= most:
            return int(given)
        upto = f" to {most}" if most < 10**6 else ""
        self.problems.append(Problem(names[0], repr(given), f"it is no whole number from {least}{upto}", _VALUES))
        return default

    def nodes(self, *names: str) -> tuple[int, int]:
        """How many hosts: ``N``, or ``MIN:MAX``."""
        given = self.text(*names) or "1"
        if not _RANGE.fullmatch(given):
            why = "it is no number of hosts, and no range of such numbers"
            self.problems.append(Problem(names[0], repr(given), why, "write it like 2, or 2:4 for at least 2 and at most 4"))
            return 1, 1
        few, _, most = given.partition(":")
        return int(few), int(most or few)


def addresses_of(name: str) -> list[str]:
    """The addresses of a host's name, or none where it has none yet."""
    with suppress(OSError, UnicodeError):
        return [str(found[4][0]) for found in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)]
    return []


def is_own(name: str) -> bool:
    """Whether a name or address is this host's."""
    own = {address.address for addresses in psutil.net_if_addrs().values() for address in addresses}
    return any(address in own or address.startswith("127.") for address in addresses_of(name))


def route_to(name: str) -> str:
    """This host's address as one at ``name`` sees it; empty where that is not known, or the loopback. Sends nothing."""
    for address in addresses_of(name):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 9))
            own = str(probe.getsockname()[0])
            if not own.startswith("127.") and own != "::1":
                return own
    return ""


def interface_of(address: str) -> str:
    """The network interface that has an address; empty if none has."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(each.address.partition("%")[0] == address for each in addresses):
            return name
    return ""


def answers(name: str, port: int, seconds: float = 2.0) -> bool:
    """Whether somebody accepts connections there."""
    with suppress(OSError, UnicodeError), socket.create_connection((name, port), seconds):
        return True
    return False


def visible_gpus() -> int:
    """How many GPUs this host's ranks can use, by torch where there is a driver; 0 on a host without one."""
    if not has_gpu_driver():
        return 0
    import torch

    return torch.cuda.device_count()
