"""``ibnorm analyze``: what trained models do under quantisation, noise and other text, by norm, with intervals."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..errors import Problem

HELP = "ask trained models of held-out text: what few bits, noise and other text cost them, by norm"

#: Words of ``--only``; :data:`ibnorm_megatron.analysis.asking.REPORTS`, without importing it.
_REPORTS = ("information", "quantization", "robustness")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="folders of runs, whose newest checkpoint is taken, or of checkpoints"
    )
    parser.add_argument("--only", nargs="+", choices=_REPORTS, metavar="REPORT", help=f"some of {', '.join(_REPORTS)}")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="prepared text in place of the runs' own")
    parser.add_argument(
        "--domain",
        action="append",
        default=[],
        metavar="NAME=FOLDER",
        help="prepared text of another kind, in the runs' tokenizer; may be given several times",
    )
    parser.add_argument(
        "--site",
        action="append",
        default=[],
        metavar="SITE",
        help="a norm whose output information is about, such as layers.0.mlp_in; may be given several times",
    )
    parser.add_argument(
        "--tokens", type=int, default=65_536, metavar="N", help="labels of held-out text at most (default 65536)"
    )
    parser.add_argument(
        "--out", type=Path, metavar="NEW", help="write analysis.json, analysis.md and pictures into this new folder"
    )


def execute(arguments: argparse.Namespace) -> None:
    from ..errors import raise_if_any
    from ..printing import wide_console
    from ..progress import Progress
    from ..quiet import quiet

    raise_if_any(_problems(arguments))
    quiet()
    from ..analysis import asking, tables
    from ..analysis.arms import figures
    from ..analysis.opening import find_sources

    domains = dict(_split(given) for given in arguments.domain)
    reports = tuple(arguments.only or asking.REPORTS)
    question = asking.Question(reports, arguments.data, domains, arguments.tokens, tuple(arguments.site))
    sources = find_sources(arguments.runs)
    total = sum(asking.count(source, question) for source in sources)
    with Progress("asking", total, unit="evaluations") as progress:
        answers = asking.ask(sources, question, progress)
    found = figures(answers)
    tables.print_figures(found, wide_console())
    if arguments.out:
        from ..analysis.pictures import draw_all
        from ..files import new_folder

        with new_folder(arguments.out.expanduser()) as draft:
            tables.write_all(answers, found, draft)
            draw_all(found, draft)
        print(f"analysis: {arguments.out / 'analysis.md'}")


def _problems(arguments: argparse.Namespace) -> Iterator[Problem]:
    from ..errors import Problem

    names: list[str] = []
    for given in arguments.domain:
        name, path = _split(given)
        if not name or not str(path) or "=" not in given:
            yield Problem("--domain", repr(given), "it is not of the form NAME=FOLDER", "write --domain prose=data/prose")
        elif name == "own" or name in names:
            why = "that is the runs' own text" if name == "own" else "it is given twice"
            yield Problem("--domain", repr(name), why, "give another name")
        names.append(name)
    if arguments.tokens < 2:
        yield Problem("--tokens", str(arguments.tokens), "a label needs a token before it", "give a few thousand")
    if arguments.out is not None and arguments.out.expanduser().exists():
        yield Problem("--out", str(arguments.out), "it exists", "give the name of a new folder")
    elif arguments.out is not None and not arguments.out.expanduser().parent.is_dir():
        yield Problem("--out", str(arguments.out), f"there is no folder {arguments.out.parent}", "make it first")


def _split(given: str) -> tuple[str, Path]:
    name, _, path = given.partition("=")
    return name, Path(path).expanduser()
