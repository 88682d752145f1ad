"""All rows, by area. A new area is a new line here; a new row is a new line in its file."""

from __future__ import annotations

from .analysis_rows import ANALYSIS
from .branch_rows import BRANCH
from .checkpoint_rows import CHECKPOINT
from .command_rows import COMMANDS, PREPARE
from .comparing_rows import COMPARE
from .config_rows import CONFIG
from .data_rows import DATA
from .environment_rows import ENVIRONMENT
from .estimate_rows import ESTIMATE
from .fit_rows import FIT
from .lab_rows import LAB
from .launch_rows import LAUNCH
from .layout_rows import LAYOUT
from .norm_rows import NORMS
from .rows import Row
from .run_rows import RUN

AREAS: dict[str, tuple[Row, ...]] = {
    "Config files and overrides": CONFIG,
    "Norms": NORMS,
    "Layouts": LAYOUT,
    "Prepared data": DATA,
    "Run folders": RUN,
    "Checkpoints": CHECKPOINT,
    "Branches of runs": BRANCH,
    "The machine and the launcher": ENVIRONMENT,
    "Starting on many hosts": LAUNCH,
    "Preparing data": PREPARE,
    "Comparing and verifying": COMPARE,
    "Estimates": ESTIMATE,
    "Studies": LAB,
    "Asking trained models": ANALYSIS,
    "Results from elsewhere": FIT,
    "Command lines": COMMANDS,
}
