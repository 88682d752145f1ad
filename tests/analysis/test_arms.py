"""Means over seeds and differences paired by seed, against scipy's tests; tables and pictures of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from ibnorm_megatron.analysis.arms import Figure, figures
from ibnorm_megatron.analysis.asking import Answer
from ibnorm_megatron.analysis.pictures import draw_all
from ibnorm_megatron.analysis.quantization import FORMATS, Quantized
from ibnorm_megatron.analysis.robustness import Disturbed, Domain
from ibnorm_megatron.analysis.tables import markdown, write_all
from ibnorm_megatron.lab.results import Estimate


def _near(value: float) -> Estimate:
    return Estimate(value, value - 0.01, value + 0.02)


def _answer(norm: str, seed: int, shift: float) -> Answer:
    draw = np.random.default_rng([seed, len(norm)])
    value = lambda: _near(float(shift + seed / 100 + draw.normal(0, 0.01)))  # noqa: E731
    quantized = [Quantized("norm", "token", kind, layer, value(), 0.1) for layer in (None, 0, 1) for kind in FORMATS]
    disturbed = [Disturbed(kind, strength, value()) for kind in ("noise", "drop") for strength in (0.1, 0.2)]
    domain = Domain("own", value(), value(), 3, 100)
    return Answer(
        f"runs/{norm}-{seed}", "step-00000030", 30, norm, seed, value(), tuple(quantized), tuple(disturbed), (domain,), value()
    )


ANSWERS = [
    _answer(norm, seed, shift) for norm, shift in (("layernorm", 2.0), ("a|b", 2.1), ("c", 2.0)) for seed in (1, 2, 3, 4)
]


def _values(norm: str, seeds: tuple[int, ...]) -> list[float]:
    return [one.loss.value for one in ANSWERS if one.norm == norm and one.seed in seeds]


def test_means_and_differences_are_students() -> None:
    found = {(one.name, one.arm): one for one in figures(ANSWERS[:-1]) if one.report == "loss"}
    base, other, short = (found["validation", arm] for arm in ("layernorm", "a|b", "c"))
    own = _values("layernorm", (1, 2, 3, 4))
    assert base.difference is None
    low, high = stats.t.interval(0.95, 3, np.mean(own), stats.sem(own))
    assert (base.value.value, base.value.low, base.value.high) == pytest.approx((np.mean(own), low, high))
    tested = stats.ttest_rel(_values("a|b", (1, 2, 3, 4)), own)
    assert other.difference is not None
    assert other.p == pytest.approx(tested.pvalue)
    ends = tested.confidence_interval(0.95)
    assert (other.difference.low, other.difference.high) == pytest.approx((ends.low, ends.high))
    assert short.seeds == (1, 2, 3)
    assert short.p == pytest.approx(stats.ttest_rel(_values("c", (1, 2, 3)), own[:3]).pvalue)
    smaller, larger = sorted((other.p, short.p))
    assert sorted((other.p_holm, short.p_holm)) == pytest.approx([min(1, 2 * smaller), max(min(1, 2 * smaller), larger)])


def test_one_run_has_the_interval_of_its_documents() -> None:
    one = next(figure for figure in figures(ANSWERS[:1]) if figure.report == "loss")
    assert one.value == ANSWERS[0].loss
    assert one.difference is None


def test_files_hold_all_of_it(tmp_path: Path) -> None:
    found: list[Figure] = figures(ANSWERS)
    write_all(ANSWERS, found, tmp_path)
    values = json.loads((tmp_path / "analysis.json").read_text())
    assert len(values["runs"]) == len(ANSWERS)
    assert len(values["figures"]) == len(found) == 3 * (1 + 3 * len(FORMATS) + 4 + 2)
    text = markdown(ANSWERS, found)
    rows = [line for line in text.splitlines() if line.startswith("| norm, token, int3 ")]
    assert len(rows) == 3
    assert "a\\|b" in rows[1]
    assert all(answer.run.replace("|", "\\|") in text for answer in ANSWERS)
    pictures = draw_all(found, tmp_path)
    assert [path.name for path in pictures] == ["quantization.png", "layers.png", "robustness.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in pictures)
    assert draw_all([one for one in found if one.report == "loss"], tmp_path) == []
