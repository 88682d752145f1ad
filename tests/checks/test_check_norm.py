"""The checks of a norm pass for every norm there is, and notice each broken promise."""

from __future__ import annotations

from pathlib import Path

import pytest

from ibnorm_megatron.checks.norm import check_alone, check_norm
from ibnorm_megatron.checks.sharding import check_sharding
from ibnorm_megatron.cli import main
from ibnorm_megatron.errors import raise_if_any
from ibnorm_megatron.norms import norm_names, parse_norm
from ibnorm_megatron.norms.compression import ALIASES
from ibnorm_megatron.plugins import load_plugins

PLUGIN = str(Path(__file__).with_name("broken_norms.py"))
SHIPPED = [name for name in norm_names() if name.removeprefix("ibnorm_") not in ALIASES]


@pytest.mark.parametrize("name", SHIPPED)
def test_every_norm_keeps_its_promises(name: str) -> None:
    broken = [finding for finding in check_alone(parse_norm(name)) if finding.kept is False]
    assert not broken


def test_every_norm_is_the_same_on_two_ranks() -> None:
    """Tokens spread as with sequence parallelism, and columns spread as inside a sub-layer: y, dx, every gradient."""
    configs = [parse_norm(name) for name in SHIPPED]
    for name, findings in zip(SHIPPED, check_sharding(configs), strict=True):
        assert [finding.kept for finding in findings] == [True, True], (name, findings)


@pytest.mark.parametrize(
    ("norm", "promise"),
    [
        ("ibnorm_falling", "f never falls"),
        ("ibnorm_unbounded", "0 <= f(r) <= r, literal"),
        ("ibnorm_wrong_slope", "slope is f's derivative"),
        ("ibnorm_wrong_slope_at_zero", "slope(0) = slope_at_zero"),
        ("ibnorm_offset", "f(0) = 0"),
        ("ibnorm_wrong_odd", "odd is f"),
        ({"kind": "broken", "fault": "miscounted"}, "num_params"),
        ({"kind": "broken", "fault": "detached"}, "gradcheck"),
        ({"kind": "broken", "fault": "low_precision"}, "bf16"),
        ({"kind": "broken", "fault": "rows"}, "a row with NaN"),
        ({"kind": "broken", "fault": "raises"}, "the check of rows raises no error"),
        ("ibnorm_raising", "the check of the compression raises no error"),
    ],
    ids=str,
)
def test_a_broken_promise_is_noticed(norm: object, promise: str) -> None:
    raise_if_any(load_plugins([PLUGIN]))
    broken = [finding.what for finding in check_alone(parse_norm(norm)) if finding.kept is False]
    assert any(promise in what for what in broken), broken


def test_a_norm_that_goes_wrong_on_two_ranks_is_noticed() -> None:
    raise_if_any(load_plugins([PLUGIN]))
    faults = [{"kind": "broken", "fault": fault} for fault in ("unmarked", "nan_on_the_last_rank")]
    configs = [parse_norm(norm) for norm in (*faults, "broken", "unsharded")]
    unmarked, poisoned, local, unsharded = check_sharding(configs, [PLUGIN])
    assert "inf off" in poisoned[1].figure
    assert unmarked[0].kept is False
    assert "gradient of weight" in unmarked[0].figure
    assert [finding.kept for finding in local] == [True, False]  # its mean is over its own columns
    assert [finding.kept for finding in unsharded] == [True, None]


def test_an_error_on_one_of_two_ranks_is_a_broken_promise() -> None:
    raise_if_any(load_plugins([PLUGIN]))
    findings = list(check_norm(parse_norm({"kind": "broken", "fault": "raises_on_one_rank"}), [PLUGIN]))
    broken = [(finding.what, finding.figure) for finding in findings if finding.kept is False]
    assert broken == [("the check on two ranks raises no error", "ValueError: it cannot be computed")]


def test_the_command_reports_and_exits_with_1(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["check-norm", "{kind: broken, fault: detached}", "--plugin", PLUGIN]) == 1
    said = capsys.readouterr().out
    assert "BROKEN" in said
    assert "Jacobian mismatch" in said
    assert main(["check-norm", "rmsnorm"]) == 0
    assert "everything is kept" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["rmsnrm"], "did you mean 'rmsnorm'?"),
        (
            ["{kind: ibnorm, lambda: 0, eps: x}"],
            "eps: Input should be a valid number, and lambda: Input should be greater than 0; change it.",
        ),
        (["rmsnorm", "--plugin", "nowhere.py"], "plugins is nowhere.py: there is no such Python file"),
    ],
)
def test_the_command_refuses(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-norm", *arguments]) == 2
    assert says in capsys.readouterr().err
