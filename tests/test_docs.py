"""What docs/ shows can be done as it stands there."""

from __future__ import annotations

import re

from data_prep.recipe import make_recipe
from ibnorm_megatron.yaml12 import parse_yaml

from .distributed import ROOT


def test_the_recipe_in_the_page_about_data_is_one() -> None:
    (text,) = re.findall(r"<!-- recipe -->\n```yaml\n(.*?)```", (ROOT / "docs" / "data.md").read_text(), flags=re.DOTALL)
    recipe = make_recipe(parse_yaml(text))
    assert recipe.names() == ["web", "code", "wiki"]
    assert recipe.cleaning.gopher and recipe.cleaning.gopher.max_words is None
    assert recipe.cleaning.decontaminate and recipe.cleaning.near_duplicates


def test_links_between_pages_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
