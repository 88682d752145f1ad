"""What is shown of a running study, on a terminal and without one; and what a run has recorded so far."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import pytest
from rich.console import Console

from ibnorm_megatron.lab import live
from ibnorm_megatron.lab.design import main_trials
from ibnorm_megatron.lab.live import Live, duration, headline
from ibnorm_megatron.lab.progress import Running, Snapshot, first_step, flops_left, running
from ibnorm_megatron.lab.runner import due_of
from ibnorm_megatron.lab.study import Study
from ibnorm_megatron.lab.trials import Trial

from .running import SIZE, loaded, pretended

MOMENT = Snapshot(
    stage="main",
    done=7,
    diverged=1,
    failed=2,
    total=40,
    running=(
        Running("main-log-s-5tpp", 0, 120, 1000, 3.25, 12345.6, 200.0),
        Running("main-layernorm-s-5tpp", 0, 0, 1000, math.nan, math.nan, math.nan),
    ),
    seconds_left=7200.0,
)


def test_the_whole_study_is_a_line() -> None:
    assert headline("t", MOMENT) == "t: main, 7 of about 40 done, 2 running, 1 diverged, 2 failed, about 2 h 00 min left"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (math.nan, ""),
        (math.inf, ""),
        (0, "0 s"),
        (89, "89 s"),
        (90, "2 min"),
        (5340, "89 min"),
        (5460, "1 h 31 min"),
        (2e5, "2.3 days"),
    ],
)
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_a_terminal_shows_a_table() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120, color_system=None)
    with Live("t", console) as shown:
        shown.say("started main-[red]log")
        shown.show(MOMENT)
    text = screen.getvalue()
    for part in ("started main-[red]log", "7 of about 40 done", "main-log-s-5tpp", "120/1,000", "3.2500", "12,346", "3 min"):
        assert part in text


def test_without_a_terminal_lines_come_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(live.time, "monotonic", lambda: clock[0])
    said = io.StringIO()
    with Live("t", Console(file=said, width=40)) as shown:
        for clock[0] in (1.0, 30.0, 59.0, 61.5, 62.0):
            shown.show(MOMENT)
    assert said.getvalue().splitlines() == [headline("t", MOMENT)] * 2


def test_progress_is_read_from_the_end_of_what_a_run_writes(tmp_path: Path, prepared: Path) -> None:
    study = loaded(pretended(tmp_path, prepared))
    trial = due_of(study, []).trials[0]
    folder = study.folder / "runs" / study.name(trial)
    found = running(study, trial)
    assert (found.step, found.steps) == (0, 25)
    assert math.isnan(found.loss) and math.isnan(found.seconds_left)
    folder.mkdir(parents=True)
    records = [
        {"step": n, "loss": None if n == 20 else 5.0, "tokens_per_second": 10.0, "step_seconds": 2.0} for n in range(1, 21)
    ]
    lines = [json.dumps({**record, "padding": "x" * 2000}) for record in records]
    lines.append(json.dumps({"step": 20, "event": "spike", "says": "it jumps"}))
    (folder / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 21, "lo')
    found = running(study, trial)
    assert (found.step, found.seconds_left) == (20, 10.0)
    assert math.isnan(found.loss)


def test_what_is_left_counts_of_a_branch_only_its_own_part(tmp_path: Path, prepared: Path) -> None:
    sizes = {"s": SIZE, "m": {**SIZE, "ffn_hidden_size": 64}}
    study = loaded(
        pretended(
            tmp_path,
            prepared,
            horizons=[10, 20],
            sizes=sizes,
            allow=["few_seeds", "untuned", "unchecked_transfer"],
            transfer={"rule": "constant", "check_factors": []},
        )
    )
    due = due_of(study, [])
    trunks = [trial for trial in due.trials if trial.trunk is None]
    assert len(trunks) == len(due.trials) == 6
    branches = {first_step(study, branch): study.flops(branch) for branch in _branches(study)}
    assert list(branches) == [40, 64]  # of 50 and 80 steps; the last fifth decays
    expected = 3 * (sum({study.flops(trunk) for trunk in trunks}) + sum(0.2 * flops for flops in branches.values()))
    assert flops_left(study, [], due) == pytest.approx(expected, rel=1e-6)


def _branches(study: Study) -> list[Trial]:
    trials = main_trials(study, due_of(study, []).choices)
    return sorted(
        (trial for trial in trials if trial.trunk and trial.arm == "log"), key=lambda trial: study.parameters(trial.size)
    )
