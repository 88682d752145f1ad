"""The page in a browser: nothing runs out of it, nothing is asked for, nothing is blank, in light and in dark."""

from __future__ import annotations

from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from . import browser


@pytest.mark.parametrize("width", [360, 390, 1280])
@pytest.mark.parametrize("which", ["page", "foreign_page"])
def test_nothing_runs_out_of_the_page(which: str, width: int, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    found = browser.measure(request.getfixturevalue(which), width, tmp_path)
    assert found["width"] == width and found["scrollWidth"] == width
    assert found["outside"] == [] and found["cut"] == []
    assert found["resources"] == [], "the page asks for something"
    assert found["dead"] == []
    assert found["smallest"] >= 9, "texts of pictures are too small to read"
    assert all(wide <= width and wide > 0.6 * min(width, 768) and high > 100 for wide, high in found["pictures"])
    assert len(found["pictures"]) == (9 if which == "page" else 3)
    assert "ibnorm_log reaches layernorm's loss with 5.2" in found["text"]


def test_a_row_that_runs_out_is_found(page: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.html"
    wide = '<p style="width: 700px">too wide</p></main>'
    broken.write_text(page.read_text().replace("</main>", wide, 1))
    found = browser.measure(broken, 390, tmp_path)
    assert found["scrollWidth"] > 390 and any("too wide" in each for each in found["outside"])


@pytest.mark.parametrize(("dark", "paper"), [(False, (255, 255, 255)), (True, (0x15, 0x19, 0x1C))])
def test_it_is_drawn_in_light_and_in_dark(page: Path, tmp_path: Path, dark: bool, paper: tuple[int, int, int]) -> None:
    for width, height in ((390, 3000), (1280, 2000)):
        picture = matplotlib.image.imread(browser.screenshot(page, width, height, tmp_path, dark=dark))
        pixels = (255 * picture[:, :width, :3]).round().astype(int)
        ground = np.all(np.abs(pixels - np.array(paper)) <= 2, axis=-1)
        assert 0.5 < ground.mean() < 0.97, "the page has another colour, or nothing stands on it"
        rows = (~ground).any(axis=1)
        assert all(part.any() for part in np.array_split(rows, 20)), "a twentieth of the page is blank"
        levels = np.unique(pixels.reshape(-1, 3), axis=0)
        assert len(levels) > 100
