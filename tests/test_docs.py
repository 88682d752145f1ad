"""What docs/ shows can be done as it stands there."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from data_prep.recipe import make_recipe
from ibnorm_megatron.yaml12 import parse_yaml

from .distributed import ROOT


def test_the_recipe_in_the_page_about_data_is_one() -> None:
    (text,) = re.findall(r"<!-- recipe -->\n```yaml\n(.*?)```", (ROOT / "docs" / "data.md").read_text(), flags=re.DOTALL)
    recipe = make_recipe(parse_yaml(text))
    assert recipe.names() == ["web", "code", "wiki"]
    assert recipe.cleaning.gopher and recipe.cleaning.gopher.max_words is None
    assert recipe.cleaning.decontaminate and recipe.cleaning.near_duplicates


def test_the_example_of_a_converted_model_prints_what_it_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"<!-- convert -->\n```python\n(.*?)```", (ROOT / "docs" / "convert.md").read_text(), flags=re.DOTALL)
    (said,) = re.findall(r"  # (.*?) \.\.\.\n", code)
    (tmp_path / "example.py").write_text(code)
    runpy.run_path(str(tmp_path / "example.py"))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 and lines[0].startswith(said)


def test_links_between_pages_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
