"""``ibnorm data``: look into a prepared folder, and check all of it."""

from __future__ import annotations

import argparse
import io
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..printing import printable, wide_console
from ..printing import table as new_table

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from data_prep.inspection import Lengths

    from ..data.manifest import Manifest

HELP = "look into a prepared data folder, or check every byte of it"

_INSPECT = "show what a prepared folder holds: sizes, lengths, what was dropped, the tokenizer, documents at random"
_VERIFY = "check everything in a prepared folder; exit code 1 if something is wrong"

_SAMPLES = 3

#: Characters of an example in the report of what was dropped.
_EXAMPLE = 160


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    inspect = actions.add_parser("inspect", help=_INSPECT, description=_INSPECT)
    inspect.add_argument("folder", type=Path, metavar="FOLDER", help="a folder that ibnorm prepare made")
    inspect.add_argument("--samples", type=int, default=_SAMPLES, metavar="N", help=f"documents to show (default {_SAMPLES})")
    inspect.add_argument("--seed", type=int, default=0, metavar="S", help="which documents (default 0)")
    inspect.add_argument(
        "--split", choices=["train", "validation", "test"], default="train", help="of samples and picture (default train)"
    )
    inspect.add_argument("--picture", type=Path, metavar="FILE", help="draw lengths and frequencies there (.png, .svg or .pdf)")
    verify = actions.add_parser("verify", help=_VERIFY, description=_VERIFY)
    verify.add_argument("folder", type=Path, metavar="FOLDER", help="a folder that ibnorm prepare made")
    verify.add_argument("--full", action="store_true", help="look at every training document as text, not at one in 64")


def execute(arguments: argparse.Namespace) -> int:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # documents hold what a terminal's encoding may lack
    arguments.folder = Path(os.path.expanduser(arguments.folder))  # Path's own raises for a user that is not there
    return {"inspect": _inspect, "verify": _verify}[arguments.action](arguments)


def _verify(arguments: argparse.Namespace) -> int:
    from data_prep.verification import verify_folder

    result = verify_folder(arguments.folder, full=arguments.full, visible=True)
    for finding in result.findings:
        print(f"error: {printable(str(finding))}", file=sys.stderr)
    for note in result.notes:
        print(printable(note))
    if result.findings:
        things = "thing is" if len(result.findings) == 1 else "things are"
        print(f"{len(result.findings):,} {things} wrong with {printable(str(arguments.folder))}")
        return 1
    print(f"all is well: {result.totals}")
    return 0


def _inspect(arguments: argparse.Namespace) -> int:
    from data_prep.inspection import check_folder, count_tokens, draw_samples, read_card
    from data_prep.pictures import check_picture, draw

    from ..data.manifest import read_manifest
    from ..errors import Problem, UserError

    if arguments.samples < 0:
        raise UserError(Problem("--samples", str(arguments.samples), "it is no number of documents", "give 0 or more"))
    check_folder(arguments.folder)
    if arguments.picture:
        check_picture(arguments.picture)
    folder, manifest = arguments.folder, read_manifest(arguments.folder)
    samples = draw_samples(folder, manifest, arguments.split, arguments.samples, arguments.seed)
    console = wide_console()
    table, lengths = _corpora(folder, manifest, arguments.split)
    console.print(table)
    _print_dropped(console, manifest)
    console.print(_tokenizer(manifest, read_card(folder)))
    for sample in samples:
        where = f"corpus {sample.corpus}, shard {sample.shard}, document {sample.document:,}, {sample.tokens:,} tokens"
        console.print(printable(where), markup=False, emoji=False, style="bold", soft_wrap=True)
        text = printable(sample.text, lines=True) + (" ..." if sample.cut else "")
        for line in text.split("\n"):  # a margin, so that no line of a document looks like one of ours
            console.print(f"  | {line}", markup=False, emoji=False, soft_wrap=True)
    if arguments.picture:
        counts = count_tokens(folder, manifest, arguments.split, visible=True)
        title = f"{folder}, {arguments.split} split"
        draw(arguments.picture, printable(title), lengths, counts, manifest.tokens(arguments.split))
        console.print(f"picture: {arguments.picture}", markup=False, emoji=False, soft_wrap=True)
    return 0


def _text(value: str) -> Any:
    """A cell of a table that is text from outside: no markup, no control characters."""
    from rich.text import Text

    return Text(printable(value))


def _corpora(folder: Path, manifest: Manifest, split: str) -> tuple[Table, dict[str, Lengths]]:
    """One line a corpus and split; and the lengths of one split's documents by corpus, for a picture."""
    from data_prep.inspection import measure

    from ..data.manifest import SPLITS

    columns = ("documents", "tokens", "MB", "bytes a token", "weight", "mean", "median", "95 %", "longest")
    table = new_table(
        f"{printable(str(folder))}: documents, and their lengths in tokens",
        "corpus",
        "split",
        *columns,
        left=2,
        overflow="fold",
    )
    lengths = {}
    for corpus in manifest.corpora:
        for name in SPLITS:
            if not (shards := corpus.splits.get(name)):
                continue
            measured = measure(folder, manifest, shards)
            if name == split:
                lengths[corpus.name] = measured
            documents, tokens = sum(shard.documents for shard in shards), sum(shard.tokens for shard in shards)
            text = sum(shard.text_bytes for shard in shards)
            table.add_row(
                _text(corpus.name),
                name,
                f"{documents:,}",
                f"{tokens:,}",
                f"{text / 1e6:,.2f}",
                f"{text / tokens:.2f}",
                "-" if corpus.weight is None else f"{corpus.weight:g}",
                f"{tokens / documents:,.1f}",
                *(f"{measured.quantile(share):,}" for share in (0.5, 0.95, 1.0)),
            )
    return table, lengths


def _print_dropped(console: Console, manifest: Manifest) -> None:
    from data_prep.inspection import dropped_rows

    table = new_table("dropped", "corpus", "rule", "first example", "documents", "MB", left=3, overflow="fold")
    for corpus in manifest.corpora:
        for rule, documents, text_bytes, example in dropped_rows(corpus):
            shown = example if len(example) <= _EXAMPLE else example[:_EXAMPLE] + " ..."
            table.add_row(_text(corpus.name), _text(rule), _text(shown), f"{documents:,}", f"{text_bytes / 1e6:,.2f}")
    if table.row_count:
        console.print(table)
    for corpus in manifest.corpora:
        told = [f"{corpus.documents_read:,} documents read, {corpus.text_bytes_read / 1e6:,.2f} MB"]
        told += ["none dropped"] * (not corpus.dropped)
        told += [f"{corpus.removed_lines:,} lines taken out of documents"] * bool(corpus.removed_lines)
        told += [f"{corpus.replaced:,} bytes that are no text became U+FFFD"] * bool(corpus.replaced)
        line = printable(f"{corpus.name} from {corpus.source}: {', '.join(told)}")
        console.print(line, markup=False, emoji=False, soft_wrap=True)


def _tokenizer(manifest: Manifest, card: dict[str, Any] | None) -> Table:
    tokenizer = manifest.tokenizer
    table = new_table("tokenizer", "what", "value", overflow="fold")
    table.add_row("kind", tokenizer.kind)
    table.add_row("hash", _text(tokenizer.hash))
    table.add_row("vocabulary", f"{tokenizer.vocab_size:,}")
    table.add_row("end of document", str(tokenizer.end_of_document))
    for name, label in (
        ("fertility", "tokens a word"),
        ("bytes_per_token", "bytes a token, ends left out"),
        ("entries_unused_in_training_text", "entries unused in training text"),
    ):
        table.add_row(label, _text(_number((card or {}).get(name))))
    table.add_row("unigram entropy, nats a token", f"{manifest.unigram_entropy:.3f}")
    table.caption = None if card is not None else "there is no tokenizer card that can be read"
    return table


def _number(value: object) -> str:
    """A number of a card, which may hold anything."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"
