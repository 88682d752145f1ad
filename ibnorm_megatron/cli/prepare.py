"""``ibnorm prepare``: text to tokenized shards."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

HELP = "turn text into a tokenizer and tokenized shards"

_EPILOG = """
A row of .jsonl or .parquet is a document, and so is a text file (.txt, .md, .py); all but .parquet may end in .gz. Text is
taken byte for byte. A text file longer than a hundredth of all sources (at least 1 kB, at most 100 kB) is cut into several
documents, at the first blank line after that length or the first line end after twice that length. Documents are held out
by a hash of their text, and at least one is.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EPILOG
    parser.add_argument(
        "sources", nargs="+", metavar="SOURCE", help="python-stdlib, or a file or folder of .txt, .jsonl, .parquet, .md or .py"
    )
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder to make; must not exist")
    parser.add_argument("--vocab-size", required=True, type=int, metavar="N", help="entries of the tokenizer")
    parser.add_argument("--tokenizer", choices=["bpe", "unigram"], default="bpe", help="kind of sentencepiece model")
    parser.add_argument("--text-field", default="text", metavar="NAME", help="field of JSON and parquet that holds the text")
    parser.add_argument(
        "--validation-fraction", type=float, default=0.05, metavar="X", help="share of documents held out (default 0.05)"
    )


def execute(arguments: argparse.Namespace) -> None:
    from ..quiet import quiet

    quiet()
    from data_prep.prepare import Options, prepare

    options = Options(
        sources=tuple(arguments.sources),
        out=arguments.out,
        vocab_size=arguments.vocab_size,
        tokenizer=arguments.tokenizer,
        text_field=arguments.text_field,
        validation_fraction=arguments.validation_fraction,
    )
    with _signals_as_exits():
        manifest = prepare(options)
    for split in ("train", "validation"):
        shards = manifest.shards(split)
        documents, text = sum(shard.documents for shard in shards), sum(shard.text_bytes for shard in shards)
        tokens = manifest.tokens(split)
        print(f"{split}: {documents:,} documents, {text / 1e6:.2f} MB, {tokens:,} tokens ({text / tokens:.2f} bytes a token)")
    print(f"unigram entropy {manifest.unigram_entropy:.3f} nats a token; written to {arguments.out}")


@contextmanager
def _signals_as_exits() -> Iterator[None]:
    """Let SIGTERM and Ctrl-C end the command by SystemExit, with a shell's exit code, so that half a folder is removed."""

    def leave(number: int, frame: FrameType | None) -> None:
        for each in before:
            signal.signal(each, signal.SIG_IGN)  # a second one would stop the removal
        sys.exit(128 + number)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in before:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
