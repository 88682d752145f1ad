"""A Slurm of the test's own: munged, slurmctld and two virtual nodes on this machine, in a folder, ended by pid.

Nothing of it touches a Slurm that may be installed: sockets, ports, keys, spool folders and configuration are its own.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from benchmarks.ports import free_port

from ..distributed import ROOT, environment

NODES = ("n1", "n2")

#: ``linuxproc`` and ``task/none`` need no cgroups. ``cred_expire=5``: a job that was requeued starts again after seconds and
#: not after two minutes. ``OverTimeLimit``: on a busy machine a job has minutes to hear that its time is up. Jobs in ``high``
#: take the nodes of those in ``low``, which have ``GraceTime`` seconds to save.
_CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CredType=cred/munge
SlurmctldPort={controller}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
ReturnToService=2
KillWait=5
MessageTimeout=60
OverTimeLimit=3
MinJobAge=600
SlurmdParameters=config_overrides
NodeName=n[1-2] NodeAddr=127.0.0.1 NodeHostname={host} Port=[{first}-{last}] CPUs=2 RealMemory=4000 State=UNKNOWN
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 GraceTime=60 PreemptMode=REQUEUE MaxTime=INFINITE State=UP
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """Why there can be no Slurm here; empty where there can."""
    if os.geteuid() != 0:
        return "Slurm's daemons need root"
    absent = [name for name in ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue") if not shutil.which(name)]
    return f"{', '.join(absent)} not found: apt-get install slurm-wlm munge" if absent else ""


class Slurm:
    """Its daemons, from start to end; use as a context manager.

    Args:
        folder: for everything that they keep. Its path is short enough for a socket (100 characters).
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._daemons: list[subprocess.Popen[bytes]] = []
        self._environ = {**_without_slurm(environment()), "SLURM_CONF": str(folder / "slurm.conf")}

    def __enter__(self) -> Slurm:
        try:
            self._start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _start(self) -> None:
        munge = self.folder / "munge"
        for place in (munge, self.folder / "state", self.folder / "spool"):
            place.mkdir(parents=True, mode=0o755)
        (key := munge / "key").write_bytes(secrets.token_bytes(128))
        key.chmod(0o600)
        # Whoever made the folders above decides about their modes: --force says that this is meant.
        places = [f"--{name}-file={munge / name}" for name in ("key", "pid", "log", "seed")]
        self._daemon("munged", "--foreground", "--force", f"--socket={munge / 'socket'}", *places)
        self._wait(lambda: (munge / "socket").exists(), "munged")
        controller, first = free_port(), _free_neighbours()
        host = socket.gethostname().partition(".")[0]
        conf = _CONF.format(folder=self.folder, host=host, controller=controller, first=first, last=first + 1)
        (self.folder / "slurm.conf").write_text(conf)
        self._daemon("slurmctld", "-D", "-c")
        for node in NODES:
            self._daemon("slurmd", "-D", "-N", node)
        self._wait(lambda: self._say("sinfo", "-h", "-o", "%D %t", "-p", "low").split() == ["2", "idle"], "two idle nodes")

    def _daemon(self, *words: str) -> None:
        log = open(self.folder / f"{words[0]}.{len(self._daemons)}.out", "wb")  # noqa: SIM115 (theirs)
        with log:
            self._daemons.append(subprocess.Popen(words, env=self._environ, stdout=log, stderr=log, start_new_session=True))

    def _end(self) -> None:
        """End jobs, then daemons, then what is left of them: by pid, and only what has this folder in its environment."""
        if len(self._daemons) > 1:
            self._say("scancel", "--user=root")
            with suppress(TimeoutError):
                self.until(lambda: not self._say("squeue", "-h"), 30)
        for daemon in reversed(self._daemons):
            daemon.terminate()
        for daemon in self._daemons:
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get("SLURM_CONF") == self._environ["SLURM_CONF"]:
                    process.kill()

    def _say(self, *words: str) -> str:
        return subprocess.run(words, env=self._environ, capture_output=True, text=True, timeout=60, check=False).stdout.strip()

    def _wait(self, until: Callable[[], bool], what: str) -> None:
        try:
            self.until(until, 30)
        except TimeoutError:
            logs = "\n".join(f"{log.name}:\n{log.read_text()[-3000:]}" for log in self.folder.glob("*.log"))
            raise TimeoutError(f"{what}: not there after 30 s\n{logs}") from None

    @staticmethod
    def until(true: Callable[[], bool], seconds: float) -> None:
        """Wait for something to be so.

        Raises:
            TimeoutError: it is not, after so many seconds.
        """
        deadline = time.monotonic() + seconds
        while not true():
            if time.monotonic() > deadline:
                raise TimeoutError
            time.sleep(0.1)

    def sbatch(self, *words: object, cwd: Path = ROOT, **variables: str) -> str:
        """Submit a job, and return its number."""
        given = ["sbatch", "--parsable", *map(str, words)]
        environ = {**self._environ, **variables}
        done = subprocess.run(given, cwd=cwd, env=environ, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def scancel(self, *words: str) -> None:
        """``scancel WORDS``."""
        self._say("scancel", *words)

    def change(self, number: str, **values: str) -> None:
        """``scontrol update`` of a job."""
        self._say("scontrol", "update", f"JobId={number}", *(f"{name}={value}" for name, value in values.items()))

    def job(self, number: str) -> dict[str, str]:
        """What ``scontrol show job`` says of it: ``JobState``, ``Restarts``, ``ExitCode``, ..."""
        return self.tasks(number)[0]

    def tasks(self, number: str) -> list[dict[str, str]]:
        """The same of every task of an array."""
        said: list[str] = []

        def answered() -> bool:  # a controller on a busy machine may not, at first
            said[:] = self._say("scontrol", "-o", "show", "job", number).splitlines()
            return bool(said)

        self.until(answered, 120)
        return [dict(re.findall(r"(\w+)=(\S*)", task)) for task in said]

    def ended(self, number: str, seconds: float) -> dict[str, str]:
        """Wait for a job, all of it, to end for good, and return what is then said of it."""
        over = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "OUT_OF_MEMORY"}
        self.until(lambda: all(task["JobState"] in over for task in self.tasks(number)), seconds)
        return self.job(number)


def _without_slurm(environ: dict[str, str]) -> dict[str, str]:
    """Without what a Slurm around the tests has said, and with the names of its programs' folder."""
    kept = {name: value for name, value in environ.items() if not name.startswith(("SLURM", "SBATCH", "SRUN"))}
    return {**kept, "PATH": f"{kept['PATH']}{os.pathsep}/usr/sbin"}


def _free_neighbours() -> int:
    """The first of two free ports that follow one another."""
    for first in range(21000, 32000, 2):
        try:
            with socket.socket() as one, socket.socket() as other:
                one.bind(("", first))
                other.bind(("", first + 1))
        except OSError:
            continue
        return first
    raise OSError("no two free ports between 21000 and 32000")
