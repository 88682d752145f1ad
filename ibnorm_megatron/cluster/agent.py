"""``python -m ibnorm_megatron.cluster.agent CONFIG [room.field=value ...]``: one host's launcher, which ends when it should.

It starts torchrun for this host's ranks, hands signals to the ranks, and looks after torchrun itself. A launcher whose host is
cut off from the others sits in a read from the rendezvous that no signal interrupts, until TCP gives up after a quarter of an
hour; its ranks have ended by then (:mod:`ibnorm_megatron.train.liveness`). So where there are no ranks, and the rendezvous that
had answered does not any more, the launcher is killed after a bound.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence

import psutil

from ..errors import Problem, RunFailure, UserError, run_command
from ..processes import ending_with_parent
from .rendezvous import Rendezvous, answers, interface_of, route_to, visible_gpus

_TICK = 1.0  # seconds
#: How long torchrun may take to end once it has no ranks and was asked to.
_ENDING = 60.0
_STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
_USAGE = "run: launch/torchrun.sh CONFIG [room.field=value ...]"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run this host's part of a run, as the environment describes it; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    return run_command(lambda: launch(given, os.environ))


def launch(arguments: list[str], environ: Mapping[str, str]) -> int:
    """Check what can be checked on one host, wait until the hosts can meet, and run the ranks.

    Raises:
        UserError: the variables, the config, or its layout on so many ranks.
        RunFailure: the other hosts do not come, or this host was cut off from them.
    """
    if not arguments or arguments[0].startswith("-"):
        raise UserError(Problem("the config file", "missing", "a run needs one", _USAGE))
    own = Rendezvous.from_environment(environ, visible_gpus() or 1)
    check(arguments, own)
    if own.several and not own.serves:
        _wait_for_rendezvous(own)
    words = own.torchrun(sys.executable, ["-m", "ibnorm_megatron.train", *arguments])
    return supervise(words, environment(environ, own), own)


def check(arguments: list[str], own: Rendezvous) -> None:
    """Refuse, on every host and before any starts, a config that cannot run on so many ranks."""
    from ..config import parse_config
    from ..errors import raise_if_any

    worlds = sorted({nodes * own.processes for nodes in own.nodes})
    found = [problem for world in worlds for problem in parse_config(arguments[0], arguments[1:], world_size=world)[1]]
    raise_if_any(found)


def environment(environ: Mapping[str, str], own: Rendezvous) -> dict[str, str]:
    """The launcher's environment: torchrun says anew which rank is which, and gloo learns which network leads to the others."""
    of_others = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")  # an operator's, for programs without a launcher
    # Under a scheduler that signals every process itself torchrun is told to leave signals alone (launch/slurm.sbatch).
    kept = "PET_SIGNALS_TO_HANDLE"
    given = {
        name: value
        for name, value in environ.items()
        if name not in of_others and (name == kept or not name.startswith("PET_"))
    }
    if own.max_restarts or not own.several:
        # Restarted ranks that meet at the launcher's own store find there what those before them left, and wait for the dead.
        given["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    interface = interface_of(route_to(own.address)) if own.several else ""
    if interface:  # or else it takes that of the host's name, which Debian has on the loopback
        given.setdefault("GLOO_SOCKET_IFNAME", interface)
    return given


def supervise(words: Sequence[str], environ: Mapping[str, str], own: Rendezvous | None = None) -> int:
    """Run torchrun, pass signals on to its ranks, and return its exit code.

    torchrun that is signalled itself ends with exit code 1, whatever its ranks do. It gets a session of its own, so that
    neither a terminal's Ctrl-C nor a signal to this process reaches it; the ranks stop, and torchrun reports how.

    Args:
        words: the command.
        environ: its whole environment.
        own: this host's part, where other hosts take part too.

    Raises:
        RunFailure: torchrun had to be killed, since its host is cut off, or since it did not end when asked to.
    """
    # Slurm sends SIGUSR1 to every process of a job, and torchrun would die of it. What is ignored stays so in a program that
    # is started; the ranks listen again.
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    # Where this process is killed by force, torchrun is told to stop, and its ranks save.
    own_end = {"start_new_session": True, "preexec_fn": ending_with_parent()}
    with subprocess.Popen(list(words), env=dict(environ), **own_end) as torchrun:  # noqa: S603 (no shell)
        signal.signal(signal.SIGUSR1, before)
        asked: list[int] = []

        def forward(number: int, frame: object) -> None:
            asked.append(number)
            with contextlib.suppress(psutil.NoSuchProcess):
                itself = psutil.Process(torchrun.pid)
                for process in itself.children() or [itself]:
                    process.send_signal(number)

        previous = {number: signal.signal(number, forward) for number in _STOPS}
        try:
            return _watched(torchrun, own, lambda: bool(asked))
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def _watched(torchrun: subprocess.Popen[bytes], own: Rendezvous | None, asked: Callable[[], bool]) -> int:
    """Its exit code, unless it has to be killed."""
    cut_off_for, ending_for, last = 0.0, 0.0, time.monotonic()
    visits = own is not None and own.several and not own.serves  # the host at which all meet is never cut off from itself
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return torchrun.wait(_TICK)
        # A process that was itself suspended has waited for nothing meanwhile.
        elapsed, last = min(time.monotonic() - last, 10 * _TICK), time.monotonic()
        if _has_ranks(torchrun.pid):
            cut_off_for = ending_for = 0.0
            continue
        ending_for += elapsed if asked() else 0.0
        if ending_for > _ENDING:
            why = f"it has no ranks, and has not ended {ending_for:.0f} s after it was asked to"
            _kill(torchrun, Problem("torchrun", "killed", why, _AGAIN))
        if own is not None and visits:
            cut_off_for = 0.0 if answers(own.address, own.port) else cut_off_for + elapsed
            if cut_off_for > own.cut_off_after:
                place = f"{own.address}:{own.port}"
                why = f"no rank is left here and {place}, where the hosts meet, has not answered for {cut_off_for:.0f} s"
                _kill(torchrun, Problem("this host", "cut off", why, _AGAIN))


_AGAIN = "the same command goes on from the newest checkpoint"


def _has_ranks(pid: int) -> bool:
    """Whether torchrun has children that run."""
    with contextlib.suppress(psutil.Error):
        return any(child.status() != psutil.STATUS_ZOMBIE for child in psutil.Process(pid).children())
    return False


def _kill(torchrun: subprocess.Popen[bytes], problem: Problem) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(torchrun.pid, signal.SIGKILL)  # its session has no process of anybody else's
    torchrun.wait()
    raise RunFailure(problem)


def _wait_for_rendezvous(own: Rendezvous) -> None:
    """Wait for the host at which all meet: torchrun would give up after a minute."""
    deadline = time.monotonic() + own.join_timeout
    while not answers(own.address, own.port):
        if time.monotonic() > deadline:
            why = f"no launcher has answered there for {own.join_timeout} s"
            mend = "start it on that host too, or see whether the address and the port are right and open"
            raise RunFailure(Problem("the hosts' meeting place", f"{own.address}:{own.port}", why, mend))
        time.sleep(_TICK)


if __name__ == "__main__":
    sys.exit(main())
