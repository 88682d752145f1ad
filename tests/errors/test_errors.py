"""Every row of docs/errors.md, run: exit code 2, those sentences and no others, and nothing written anywhere."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import matplotlib.font_manager  # noqa: F401  # decides on the folder of its cache once, and a test's HOME is another
import pytest

from ibnorm_megatron.cli import main
from ibnorm_megatron.train import main as train

from ..distributed import ROOT, environment
from .cases import AREAS
from .page import PAGE, page
from .rows import Row, as_nobody, furnish, snapshot

ROWS = [(area, row) for area, rows in AREAS.items() for row in rows]
HERE = [pytest.param(row, id=f"{area}: {row.what}") for area, row in ROWS if not row.alone]
ALONE = [pytest.param(row, id=f"{area}: {row.what}") for area, row in ROWS if row.alone]

#: What a launcher, a scheduler or a user's own shell may have said.
_VARIABLES = (
    "RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE LOCAL_SIZE MASTER_ADDR MASTER_PORT CXX WANDB_API_KEY WANDB_BASE_URL NETRC "
    "NNODES NODE_RANK NPROC_PER_NODE RDZV_CONF"
)


#: What commands that take long say of how far they are.
_PROGRESS = re.compile(r"^\w[\w ]* +\d+ % \(.*\)\n", re.MULTILINE)


@pytest.fixture
def here(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder in which a row is typed, which anybody may enter."""
    for name in _VARIABLES.split():
        monkeypatch.delenv(name, raising=False)
    folder = Path(tempfile.mkdtemp(prefix="ibnorm-errors-"))
    folder.chmod(0o755)
    furnish(folder, prepared)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder))
    yield folder
    shutil.rmtree(folder)


def _words(row: Row) -> tuple[dict[str, str], list[str]]:
    words = shlex.split(row.typed)
    count = next(number for number, word in enumerate(words) if "=" not in word)
    return dict(word.split("=", 1) for word in words[:count]), words[count:]


@pytest.mark.parametrize("row", HERE)
def test_what_is_wrong_is_said_and_nothing_is_written(
    row: Row, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if row.before:
        row.before(here, monkeypatch)
    variables, words = _words(row)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    before = snapshot(here)
    with as_nobody(row.nobody):
        if words[:3] == ["python", "-m", "ibnorm_megatron.train"]:
            code = train(words[3:])
        else:
            assert words[0] == "ibnorm"
            code = main(words[1:])
    told = capsys.readouterr()
    assert (code, told.out) == (2, "")
    assert row.fits(_PROGRESS.sub("", told.err)), told.err
    assert snapshot(here) == before


@pytest.mark.slow
@pytest.mark.parametrize("row", ALONE)
def test_it_is_the_same_in_a_process_of_its_own(row: Row, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if row.before:
        row.before(here, monkeypatch)
    variables, words = _words(row)
    before = snapshot(here)
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    given = {**environment(), "PYTHONPATH": path, **variables}
    done = subprocess.run(words, cwd=here, env=given, capture_output=True, text=True, timeout=300, check=False)
    said = [line for line in done.stderr.splitlines(keepends=True) if line.startswith("error: ")]
    assert row.fits("".join(said)), done.stderr
    assert "ibnorm_megatron/" not in done.stderr.replace(str(ROOT), ""), "a traceback of ours"
    if words[0] == "torchrun":  # it tells of its ranks' ends in its own words, and has its own exit code
        assert done.returncode
        assert "exitcode  : 2" in done.stderr
    else:
        assert done.returncode == 2
        assert "".join(said) == done.stderr
    assert snapshot(here) == before


def test_the_page_is_of_these_rows() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python -m tests.errors.page"


def test_rows_have_names_of_their_own() -> None:
    for area, rows in AREAS.items():
        assert len({row.what for row in rows}) == len(rows), area


def test_nothing_is_compared_loosely() -> None:
    """A placeholder stands for something, and for nothing else."""
    row = Row("x", "x", ("a is <a number>: b.",))
    assert row.fits("error: a is 7: b.\n")
    assert not row.fits("error: a is : b.\n")
    assert not row.fits("error: a is 7: b.\nerror: c\n")
    assert not row.fits("error: a is 7: bx\n")
