"""Two hosts on one machine: network namespaces with addresses and names of their own, on a bridge in a third.

Nothing outside these namespaces is changed but ``/etc/netns``, where ``ip netns exec`` looks for a namespace's own files. All
names hold this process's id, so that two suites on one machine do not meet.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ..distributed import ROOT, environment

NODES = ("node1", "node2")
ADDRESSES = {"node1": "10.77.0.1", "node2": "10.77.0.2"}
_ETC = Path("/etc/netns")


class Missing(Exception):
    """Why there can be no such hosts here."""


class Program:
    """A program on one of the hosts, in a session of its own."""

    def __init__(self, words: Sequence[str], log: Path, environ: Mapping[str, str], cwd: Path) -> None:
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "wb") as output:
            given = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": subprocess.STDOUT}
            self._process = subprocess.Popen(words, env=dict(environ), cwd=cwd, start_new_session=True, **given)

    @property
    def said(self) -> str:
        """All that it has printed so far."""
        return self.log.read_text(errors="replace")

    @property
    def pid(self) -> int:
        """Of the program itself: the wrappers around it became it."""
        return self._process.pid

    def code(self, seconds: float) -> int | None:
        """Its exit code; None if it goes on after so long."""
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(max(0.0, seconds))
        return None

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it and what is left in its session."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


class Hosts:
    """Both hosts, until :meth:`down`.

    Raises:
        Missing: what they would need.
    """

    def __init__(self) -> None:
        if os.geteuid() != 0:
            raise Missing("network namespaces need root")
        for program in ("ip", "unshare", "hostname"):
            if shutil.which(program) is None:
                raise Missing(f"there is no program {program} (Debian: apt-get install iproute2 util-linux hostname)")
        self._names = {node: f"ib{os.getpid()}-{secrets.token_hex(2)}-{node}" for node in ("switch", *NODES)}
        try:
            self._up()
        except subprocess.CalledProcessError as error:
            self.down()
            raise Missing(f"this system gives no network namespaces ({error.stderr.strip()})") from None

    def _up(self) -> None:
        switch = self._names["switch"]
        _ip("netns", "add", switch)
        _ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", switch, "link", "set", "bridge", "up")
        names = "".join(f"{address} {node}\n" for node, address in ADDRESSES.items())
        for node in NODES:
            name = self._names[node]
            _ip("netns", "add", name)
            self.etc(node).mkdir(parents=True)
            (self.etc(node) / "hosts").write_text(f"127.0.0.1 localhost\n{names}")
            _ip("link", "add", node, "netns", switch, "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip("-n", switch, "link", "set", node, "master", "bridge", "up")
            _ip("-n", name, "addr", "add", f"{ADDRESSES[node]}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _ip("-n", name, "link", "set", device, "up")

    def etc(self, node: str) -> Path:
        """A folder whose entries stand in the place of those of ``/etc`` on that host."""
        return _ETC / self._names[node]

    def words(self, node: str, *words: str) -> list[str]:
        """The command that runs ``words`` on a host, without a process in between."""
        named = ["unshare", "--uts", "bash", "-c", 'hostname "$0" && exec "$@"', node]
        return ["ip", "netns", "exec", self._names[node], *named, *words]

    def start(self, node: str, *words: str, log: Path, cwd: Path = ROOT, **environ: str) -> Program:
        """Start a program on a host."""
        return Program(self.words(node, *words), log, {**environment(), **environ}, cwd)

    def cut_off(self, node: str) -> None:
        """Take a host's cable out of the bridge: it keeps its link, and nothing that it sends arrives, nor is refused."""
        _ip("-n", self._names["switch"], "link", "set", node, "nomaster")

    def reconnect(self, node: str) -> None:
        """Put the cable back."""
        _ip("-n", self._names["switch"], "link", "set", node, "master", "bridge", "up")

    def processes(self, node: str) -> list[int]:
        """The ids of all processes on a host."""
        done = subprocess.run(["ip", "netns", "pids", self._names[node]], capture_output=True, text=True, check=False)
        return [int(word) for word in done.stdout.split()]

    def ours(self, node: str) -> list[str]:
        """The command lines of this project's processes on a host: launchers and ranks, and no ssh servers."""
        lines = []
        for pid in self.processes(node):
            with suppress(OSError):  # it has ended meanwhile
                lines.append(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        return [line for line in lines if "ibnorm_megatron" in line]

    def down(self) -> None:
        """Remove all of it, with the processes that are still there."""
        for node, name in self._names.items():
            for _ in range(50):
                running = self.processes(node)
                for pid in running:  # they are in a namespace that only we know
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                if not running:
                    break
                time.sleep(0.1)
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)
            shutil.rmtree(_ETC / name, ignore_errors=True)
        with suppress(OSError):
            _ETC.rmdir()  # if nobody else has files there


@contextmanager
def two_hosts() -> Iterator[Hosts]:
    """As :class:`Hosts`, gone afterwards."""
    hosts = Hosts()
    try:
        yield hosts
    finally:
        hosts.down()


def wait_until(what: Callable[[], object], seconds: float, programs: Sequence[Program] = ()) -> float:
    """Wait for something to be so; the seconds that took. Fails with what the programs said."""
    began = time.monotonic()
    while not what():
        said = "\n".join(f"{program.log.name}:\n{program.said[-4000:]}" for program in programs)
        ended = [program.log.name for program in programs if program.code(0) is not None]
        assert time.monotonic() - began < seconds and len(ended) < max(1, len(programs)), said
        time.sleep(0.05)
    return time.monotonic() - began


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], capture_output=True, text=True, check=True)
