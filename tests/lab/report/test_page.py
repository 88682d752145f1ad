"""What a report says, read as a file."""

from __future__ import annotations

import csv
import html.parser
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from ibnorm_megatron.errors import RunFailure
from ibnorm_megatron.lab import report
from ibnorm_megatron.lab.notes import Notes
from ibnorm_megatron.lab.report import claims, provenance, transfer, words
from ibnorm_megatron.lab.report.pictures.axes import apart, ratio_limits
from ibnorm_megatron.lab.report.view import View
from ibnorm_megatron.lab.results import Estimate

from . import example
from .conftest import EVIL, without_results

PICTURES = ("forest", "loss", "difference", "multiplier", "tuning", "strength", "realised", "cost", "stability")


class _Reader(html.parser.HTMLParser):
    """Sections' texts, ids, and everything that could ask for something outside."""

    def __init__(self) -> None:
        super().__init__()
        self.sections: dict[str, str] = {}
        self.ids: list[str] = []
        self.links: list[str] = []
        self.described: list[str] = []
        self.tags: set[str] = set()
        self._section = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.add(tag)
        if tag in ("section", "aside", "header", "footer"):
            self._section = found.get("id") or tag
            self.sections[self._section] = ""
        if found.get("id"):
            self.ids.append(str(found["id"]))
        self.links += [str(value) for name, value in attrs if name in ("href", "src", "xlink:href", "data", "action")]
        if found.get("role") == "img":
            self.described.append(str(found.get("aria-label")))

    def handle_data(self, data: str) -> None:
        if self._section:
            self.sections[self._section] += data


def read(page: Path) -> _Reader:
    reader = _Reader()
    reader.feed(page.read_text())
    return reader


def test_sections_stand_in_order_and_say_what_was_found(page: Path) -> None:
    sections = read(page).sections
    order = "header aside verdict forest scaling multiplier tuning lambda cost stability claims method runs footer"
    assert list(sections) == order.split()
    assert "unchecked_transfer" in sections["aside"] and "at the largest size" in sections["aside"]
    assert "look better than the arm is" in sections["aside"]
    for verdict in example.VERDICTS:
        assert words.typeset(verdict.sentence) in sections["verdict"]
    assert "compute multiplier 1.055 (1.047 to 1.063)" in sections["verdict"]
    assert "1.3\u202f×\u202f10¹⁴ FLOPs" in sections["verdict"]
    assert "c7c7af444b with changes (1 run)" in sections["method"] and "learning_rates: [0.001" in sections["method"]
    assert "(1) D = 20 x 98,304" in sections["method"]


def test_the_page_asks_for_nothing_outside(page: Path, foreign_page: Path) -> None:
    for each in (page, foreign_page):
        text, found = each.read_text(), read(each)
        assert not {"script", "img", "iframe", "object", "form"} & found.tags  # "link" would be a style sheet
        assert "link" not in found.tags and "@import" not in text and "default-src 'none'" in text
        for link in found.links:
            assert not re.match(r"[a-z]+:|//", link), link
        assert not re.findall(r"url\((?!#)[^)]*\)", text)


def test_every_place_is_there_once_and_every_link_leads_to_one(page: Path, foreign_page: Path) -> None:
    for each in (page, foreign_page):
        found = read(each)
        assert len(found.ids) == len(set(found.ids))
        assert {link[1:] for link in found.links if link.startswith("#")} <= set(found.ids)


def test_every_run_has_a_row_with_its_folder(page: Path) -> None:
    text = page.read_text()
    found = read(page)
    entries = example.entries()
    assert {f"run-{number}" for number in range(1, len(entries) + 2)} <= set(found.ids)
    for entry in entries:
        assert entry.folder in found.sections["runs"]
    assert f'href="../{entries[-1].folder}/"' in text, "a folder that is there has a link"
    assert f'href="../{entries[0].folder}/"' not in text
    assert "failed (tried again)" in found.sections["runs"]


def test_pictures_link_their_points_to_runs_and_tell_them(page: Path) -> None:
    text = page.read_text()
    figure = text[text.index('id="picture-loss"') : text.index('id="picture-difference"')]
    links = re.findall(r'<a href="#(run-\d+)" tabindex="-1"><title>([^<]*)</title>', figure)
    complete = [each for each in example.observations() if not each.failure]
    assert len(links) == 2 * len(complete), "a point a run, in the wide picture and in the narrow one"
    first = complete[0]
    assert f"{first.arm}, {first.size}, seed {first.seed}" in links[0][1] and f"{first.loss:.4f}" in links[0][1]


def test_pictures_are_described_and_take_the_page_s_colours(page: Path) -> None:
    found, text = read(page), page.read_text()
    assert all(len(description) > 20 for description in found.described)
    assert any("ibnorm_log 1.055" in description for description in found.described)
    assert "var(--arm1)" in text and "#00a0" not in text


def test_what_comes_from_outside_is_shown_and_never_obeyed(page: Path) -> None:
    text = page.read_text()
    assert "<script" not in text and "&lt;script&gt;" in text
    assert EVIL in read(page).sections["stability"]


def test_what_is_missing_is_said(page: Path, young_page: Path, foreign_page: Path) -> None:
    young, foreign = read(young_page).sections, read(foreign_page).sections
    assert "Not measured: no run's summary has sigma_over_lambda" in young["lambda"]
    assert not (young_page.parent / "realised.png").exists()
    assert "Not measured" not in read(page).sections["lambda"]
    assert "No arm has a verdict yet" in young["verdict"] and "No arm can be paired" in young["forest"]
    assert "tuning" not in foreign and "lambda" not in foreign
    assert "No surface could be fitted" in foreign["multiplier"]
    assert "throughput or memory was recorded" in foreign["cost"]
    assert "logged elsewhere" in foreign["method"] and "no surface: one horizon" in foreign["aside"]
    assert "loss minus that of layernorm −0.0173 (−0.0203 to −0.0142) nats" in foreign["verdict"]


def test_an_unfinished_study_says_so(page: Path, foreign_page: Path) -> None:
    text = read(page).sections["aside"]
    assert f"{len(example.entries())} of about 400 runs" in text and "an optimum is at the end of its grid" in text
    assert "Not finished" not in read(foreign_page).sections["aside"]


def test_interim_is_said_wherever_the_page_is_seen_from(page: Path, foreign_page: Path) -> None:
    text = page.read_text()
    assert "<title>example: a comparison of norms (interim)</title>" in text and "Verdict so far" in text
    assert "interim" not in foreign_page.read_text()[: foreign_page.read_text().index("<style>")]
    finished = View(example.analysis(), None, tuple(example.entries()), example.due())
    assert not finished.interim and replace(finished, notes=Notes(stuck="no disk")).interim


def test_a_rate_that_did_not_transfer_is_said_before_the_verdicts(tmp_path: Path) -> None:
    entries = example.entries()
    number = next(n for n, each in enumerate(entries) if each.trial.stage == "check" and each.trial.arm == "rmsnorm")
    assert list(transfer.remark(View(example.analysis(), None, tuple(entries), None))) == []
    entries[number] = replace(entries[number], loss=entries[number].loss - 0.05)
    view = View(example.analysis(), None, tuple(entries), None)
    (said,) = transfer.remark(view)
    assert said.startswith("At 1m a run at another learning rate than the transferred one ended lower: rmsnorm by 0.0")
    assert "nats at 0.5 times the rate. By so much" in said
    found = transfer.checked(view, "rmsnorm")
    assert [round(each.factor, 6) for each in found] == [0.5, 2.0] and found[0].difference < 0 < found[1].difference


def test_losses_lead_to_the_run_of_every_seed(page: Path) -> None:
    text = page.read_text()
    table = text[text.index("seed by seed") : text.index("Multiplier against compute</h2>")]
    assert len(re.findall(r'<a href="#run-\d+" title="seed \d">', table)) == len(example.observations())
    assert table.count(">none</a>") == sum(bool(each.failure) for each in example.observations())


def test_compute_counts_once_what_branches_share(tmp_path: Path) -> None:
    (trunk,) = [each for each in example.entries() if each.folder.endswith("main-layernorm-1m-20-1")]
    branch = replace(trunk, key="b", folder="runs/b", trial=replace(trunk.trial, horizon=5.0, trunk=20.0))
    study = example.study(tmp_path)
    recipe = study.recipes["1m"]
    trunk, branch = (
        replace(e, tokens=recipe.tokens(e.trial.horizon), flops=6.0 * recipe.tokens(e.trial.horizon)) for e in (trunk, branch)
    )
    again = replace(trunk, status="failed", loss=None)
    said = dict(provenance.facts(View(example.analysis(), study, (again, trunk, branch), None)))["compute"]
    own = recipe.tokens(20) + recipe.tokens(5) - recipe.decay_begins(5) * recipe.batch_tokens
    assert said.startswith(f"{words.power(6.0 * own)} FLOPs in 2 runs")


def test_ticks_between_close_numbers_differ() -> None:
    say = apart(2.31, 2.34)
    assert len({say(2.31 + 0.005 * number) for number in range(7)}) == 7
    assert apart(2.0, 4.0)(3.0) == "3"


def test_multipliers_far_apart_have_a_logarithmic_axis_that_ends() -> None:
    assert ratio_limits([0.98, 1.05])[2] is False
    low, high, logarithmic = ratio_limits([0.99, 1.01, 0.001, 75.0])
    assert logarithmic and 0.05 < low < 0.1 and 10 < high < 20


def test_constants_that_nobody_knows_say_so() -> None:
    assert words.constant(Estimate(1.1, 1.02, 1.19)) == "1.100 (1.020 to 1.190)"
    assert words.constant(Estimate(23, 0, 3.7e15), 0) == "23 (not known)"
    assert words.constant(Estimate(0.023, 0, math.inf)) == "0.023 (not known)"


def test_numbers_for_programs(page: Path) -> None:
    folder = page.parent
    for name in PICTURES:
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    analysis = json.loads((folder / "analysis.json").read_text(), parse_constant=lambda word: pytest.fail(word))
    truth = example.analysis()
    assert analysis["multipliers"][1]["mean"]["value"] == truth.multipliers[1].mean.value
    assert analysis["paired"][0]["by_signs"]["low"] is None, "an infinite end"
    lines = list(csv.DictReader((folder / "observations.csv").open()))
    assert len(lines) == len(truth.observations)
    assert float(lines[0]["loss"]) == truth.observations[0].loss and int(lines[0]["size"]) == truth.observations[0].parameters
    failed = [line for line in lines if line["failure"]]
    assert failed and all(line["loss"] == "" for line in failed)


def test_the_same_study_gives_the_same_page(tmp_path: Path) -> None:
    tuning = [entry for entry in example.entries() if entry.trial.stage == "further"]
    pages = [report.write(without_results(), None, tuning, None, tmp_path).read_bytes() for _ in range(2)]
    assert pages[0] == pages[1]


def test_claims_are_in_fixed_words_and_name_limits() -> None:
    view = View(example.analysis(), None, tuple(example.entries()), example.due())
    made = {claim.arm: claim for claim in claims.claims(view)}
    assert {arm: claim.level for arm, claim in made.items()} == {each.arm: each.level for each in example.VERDICTS}
    assert not made["ibnorm_tanh_relative"].supported and made["rmsnorm"].supported
    assert "2 runs of 18 diverged" in made["ibnorm_tanh"].evidence
    silent = " ".join(claims.silent(view))
    assert "Beyond 1.05\u202fM parameters" in silent and "351989b08be4a7fe" in silent and "0.001 to 0.016" in silent


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "report").write_text("a file")
    with pytest.raises(RunFailure, match="give another folder"):
        report.write(example.analysis(), None, [], None, tmp_path)
