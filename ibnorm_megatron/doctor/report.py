"""The whole examination, and how it is shown: a table for people, plain values for programs, secrets in neither."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..devices import has_gpu_driver
from ..files import for_json
from ..printing import printable
from ..redaction import HIDDEN, hide_secrets, is_secret
from . import compilers, libraries, network, storage, system
from .finding import Finding, guarded, ok
from .torch_side import Probe

if TYPE_CHECKING:
    from rich.table import Table

#: Beginnings of the names of variables that change what a run does.
_VARIABLES = re.compile(
    "CUDA|CXX|DEEPSPEED|DS_|FI_|GLOO|HF_|IBNORM|KMP|LD_|LOCAL_|MASTER_|MKL|NCCL|NVIDIA|NVTE|OMP|PET_|PYTHON|RANK|SLURM|"
    "TORCH|TP_SOCKET|TRITON|TZ|UCX|WANDB|WORLD_SIZE"
)


@dataclass(frozen=True)
class Report:
    """All findings, in the order of their areas, already without secrets."""

    findings: tuple[Finding, ...]
    seconds: float

    @property
    def exit_code(self) -> int:
        """1 where something stops every run."""
        return int(any(finding.status == "problem" for finding in self.findings))

    def table(self) -> Table:
        """A line for each finding, with its mend below it."""
        from rich.markup import escape
        from rich.table import Table

        table = Table(title=f"ibnorm doctor: ibnorm_megatron {__version__}", title_justify="left")
        for column in ("", "area", "what", "found"):
            table.add_column(column, overflow="fold")
        marks = {"ok": "[green]ok[/]", "warning": "[yellow]warning[/]", "problem": "[bold red]PROBLEM[/]"}
        for finding in self.findings:
            text = escape(finding.says) + (f"\n[bold]{escape(finding.mend)}[/]" if finding.mend else "")
            table.add_row(marks[finding.status], finding.area, escape(finding.name), text)
        return table

    def verdict(self) -> str:
        """The last line."""
        count = {status: sum(finding.status == status for finding in self.findings) for status in ("problem", "warning")}
        said = [f"{number} {status}{'s' if number > 1 else ''}" for status, number in count.items() if number]
        stops = "nothing stops a run" if not self.exit_code else "mend the problems first: runs will not work"
        return f"{', '.join(said) or 'no problems'}; {stops} ({self.seconds:.1f} s)"

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "format": "ibnorm doctor",
            "ibnorm_megatron": __version__,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(self.seconds, 3),
            "exit_code": self.exit_code,
            "findings": [for_json(vars(finding)) for finding in self.findings],
        }


def examine(folder: Path, environ: Mapping[str, str] = os.environ) -> Report:
    """Look at everything.

    Args:
        folder: where runs would be; a few files are written into a new folder in it, which is removed.
        environ: what the user's shell and a launcher say.
    """
    started, gpu = time.monotonic(), has_gpu_driver()
    probe = Probe(environ)  # the slowest of all, while others go on
    checks = (
        (system.AREA, "operating system", system.kind),
        (system.AREA, "clock", system.clock),
        (system.AREA, "locale", partial(system.language, environ)),
        (system.AREA, "cores", partial(system.cores, environ)),
        (system.AREA, "memory", system.memory),
        (system.AREA, "limits", system.limits),
        (libraries.AREA, "versions", libraries.versions),
        (libraries.AREA, "optional", libraries.optional),
        (libraries.AREA, "log.wandb: auto", partial(libraries.records, environ)),
        (compilers.AREA, "programs", partial(compilers.programs, environ, gpu)),
        (storage.AREA, "shared memory", partial(storage.shared_memory, gpu)),
        (storage.AREA, f"folder {folder}", partial(storage.folder, folder)),
        (network.AREA, "launcher", partial(network.launcher, environ)),
        (network.AREA, "names", network.names),
        (network.AREA, "interfaces", partial(network.chosen_interfaces, environ)),
        (network.AREA, "ports", partial(network.ports, environ)),
        ("torch", "probe", partial(probe.findings, gpu)),
        ("environment", "variables", partial(_variables, environ)),
    )
    found = [_clean(finding, environ) for area, name, check in checks for finding in guarded(area, name, check)]
    return Report(tuple(found), time.monotonic() - started)


def _variables(environ: Mapping[str, str]) -> Iterable[Finding]:
    chosen = {name: environ[name] for name in sorted(environ) if _VARIABLES.match(name)}
    shown = {name: HIDDEN if is_secret(name) else value for name, value in chosen.items()}
    says = ", ".join(f"{name}={value}" for name, value in shown.items())
    yield ok("environment", "variables", says or "none that matters here", variables=shown)


def _clean(finding: Finding, environ: Mapping[str, str]) -> Finding:
    def clean(value: Any) -> Any:
        if isinstance(value, str):
            return hide_secrets(_without_home(value, environ), environ)
        if isinstance(value, dict):
            return {clean(name): clean(one) for name, one in value.items()}
        return [clean(one) for one in value] if isinstance(value, list | tuple) else value

    texts = (printable(clean(text)) for text in (finding.name, finding.says, finding.mend))
    name, says, mend = texts
    return Finding(finding.area, name, finding.status, says, mend, clean(finding.data))


def _without_home(text: str, environ: Mapping[str, str]) -> str:
    """Paths below the user's home as ~: a user's name is nobody's business in a report."""
    home = environ.get("HOME", "").rstrip("/")
    return text.replace(f"{home}/", "~/") if len(home) > 1 else text
