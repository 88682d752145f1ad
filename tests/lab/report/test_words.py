"""Numbers as readers want them; colours that everybody can tell apart."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import numpy as np
import pytest

from ibnorm_megatron.lab.report import style, words
from ibnorm_megatron.lab.results import Estimate

T = words.THIN


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (words.loss(3.14159), "3.1416"),
        (words.loss(math.nan), "–"),
        (words.difference(-0.00123), "−0.0012"),
        (words.difference(math.inf), "+∞"),
        (words.power(3.04e15), f"3.0{T}×{T}10¹⁵"),
        (words.power(1e12, 0), "10¹²"),
        (words.power(math.nan), "–"),
        (words.count(1_234_567), f"1.23{T}M"),
        (words.count(98_304), f"98.3{T}k"),
        (words.count(12), "12"),
        (words.rate(0.0004), f"4{T}×{T}10⁻⁴"),
        (words.rate(0.0028), "0.0028"),
        (words.seconds(30), f"30{T}s"),
        (words.seconds(9000), f"2.5{T}h"),
        (words.memory(3 * 2**29), f"1.50{T}GiB"),
        (words.memory(2**28), f"256{T}MiB"),
        (words.p_value(0.00001), f"<{T}0.001"),
        (words.p_value(0.0321), "0.032"),
        (words.margin(0.01), f"1{T}%"),
        (words.multiplier(Estimate(1.0312, 1.012, 1.05)), "1.031 (1.012 to 1.050)"),
        (words.multiplier(Estimate(1.02, 0.0, math.inf)), "1.020 (0 to ∞)"),
        (words.multiplier(None), "–"),
        (words.listing(["a", "b", "c"]), "a, b and c"),
        (words.plural(1, "run"), "1 run"),
        (
            words.typeset("-0.3 to 3e15. Holm p < 0.001, 95 %, a-1, is nan.."),
            f"−0.3 to 3{T}×{T}10¹⁵. Holm p{T}<{T}0.001, 95{T}%, a-1, is nan.",
        ),
    ],
)
def test_numbers(said: str, expected: str) -> None:
    assert said == expected


def _linear(colour: str) -> np.ndarray:
    channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def _contrast(one: str, other: str) -> float:
    lights = sorted(float(_linear(each) @ [0.2126, 0.7152, 0.0722]) for each in (one, other))
    return (lights[1] + 0.05) / (lights[0] + 0.05)


@pytest.mark.parametrize("colours", [style.LIGHT, style.DARK], ids=["light", "dark"])
def test_contrast(colours: Mapping[str, str]) -> None:
    """WCAG 2.2: 4.5 to 1 for text, 3 to 1 for what has to be told apart from its ground."""
    assert set(colours) == set(style.STAND_INS) and len(set(style.STAND_INS.values())) == len(style.STAND_INS)
    for role in ("ink", "soft", "bad"):
        assert _contrast(colours[role], colours["paper"]) >= 4.5, role
    for role in colours:
        if role.startswith("arm"):
            assert _contrast(colours[role], colours["paper"]) >= 3, role


#: Machado, Oliveira and Fernandes (IEEE TVCG 15, 2009): what is seen without one kind of cone, of linear RGB.
_BLIND = {
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
}


def _lab(linear: np.ndarray) -> np.ndarray:
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ linear.clip(0, 1)
    x, y, z = np.cbrt(np.maximum(xyz / [0.9505, 1.0, 1.089], 0.008856))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("colours", [style.LIGHT, style.DARK], ids=["light", "dark"])
@pytest.mark.parametrize("kind", _BLIND)
def test_first_arms_can_be_told_apart_without_one_kind_of_cone(colours: Mapping[str, str], kind: str) -> None:
    seen = {role: _lab(np.array(_BLIND[kind]) @ _linear(colours[role])) for role in colours if role.startswith("arm")}
    for one, other in itertools.combinations([f"arm{number}" for number in range(6)], 2):
        assert np.linalg.norm(seen[one] - seen[other]) > 15, (one, other)


def test_looks_differ_by_their_marker_too() -> None:
    arms = [f"arm {number}" for number in range(40)]
    found = style.looks(arms, "arm 3")
    assert len(set(found.values())) == len(arms)
    assert len({look.marker for look in [found[arm] for arm in arms[:8]]}) == 8
    assert found["arm 3"].role == "arm0"
