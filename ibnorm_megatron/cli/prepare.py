"""``ibnorm prepare``: text to tokenized shards."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from ..errors import Problem, UserError

if TYPE_CHECKING:
    from data_prep.recipe import Recipe

HELP = "turn text into a tokenizer and tokenized shards"

_EPILOG = """
A row of .jsonl or .parquet is a document, and so is a text file (.txt, .md, .rst, .py) or a page (.html); all but .parquet may
end in .gz or .zst. Text is taken byte for byte. A text file longer than 100 kB is cut into several documents, at the first
blank line after that length or the first line end after twice that length; one that is given by itself, after a hundredth of
it. Documents are held out by a hash of their text. Stopped at any moment, the same command goes on where it was.
docs/data.md tells of recipes, cleaning, and the stages for many machines.
"""

#: What of a recipe the command line can say by itself: option, path in the recipe.
_OPTIONS = {
    "vocab_size": ("tokenizer", "vocab_size"),
    "encoder": ("tokenizer", "encoder"),
    "encoding_errors": ("encoding_errors",),
    "validation_fraction": ("validation_fraction",),
    "test_fraction": ("test_fraction",),
}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EPILOG
    parser.add_argument(
        "sources",
        nargs="*",
        metavar="SOURCE",
        help="a file, folder or glob, python-stdlib, debian:PACKAGE, or dataset:NAME for the datasets library",
    )
    parser.add_argument("--recipe", type=Path, metavar="FILE", help="a YAML recipe, in place of sources and what else is asked")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder to make; must not exist")
    parser.add_argument("--vocab-size", type=int, metavar="N", help="entries of the tokenizer to train")
    parser.add_argument(
        "--tokenizer", metavar="KIND", help="bpe (default) or unigram to train one, or a .model or tokenizer.json"
    )
    parser.add_argument("--encoder", choices=["sentencepiece", "kitoken", "gigatoken"], help="a faster encoder, checked first")
    parser.add_argument("--text-field", metavar="NAME", help="field of rows that holds the text (default text)")
    parser.add_argument("--encoding-errors", choices=["strict", "replace"], help="bytes that are no text (default strict)")
    parser.add_argument("--validation-fraction", type=float, metavar="X", help="share of documents held out (default 0.05)")
    parser.add_argument("--test-fraction", type=float, metavar="X", help="share of documents for a test (default 0)")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: the machine's cores)")
    parser.add_argument(
        "--stage",
        choices=["all", "tokenizer", "scan", "duplicates", "encode", "finish"],
        default="all",
        help="do one stage only, for preparing on many machines",
    )
    parser.add_argument(
        "--task", default="0", metavar="I", help="which share of the stage, from 0; auto: from Slurm's or torchrun's variables"
    )
    parser.add_argument("--tasks", type=int, metavar="N", help="how many shares there are")


def execute(arguments: argparse.Namespace) -> None:
    from ..quiet import quiet

    quiet()
    from data_prep.prepare import Options, prepare

    from ..data.manifest import SPLITS

    if arguments.workers is not None and arguments.workers < 1:
        raise UserError(Problem("--workers", str(arguments.workers), "somebody has to work", "give 1 or more"))
    task, tasks = _task(arguments.task, arguments.tasks)
    options = Options(_recipe(arguments), arguments.out, arguments.workers, arguments.stage, task, tasks)
    with _signals_as_exits():
        manifest = prepare(options)
    if manifest is None:
        print(f"the stage {arguments.stage} is done" + (f" for task {task} of {tasks}" if tasks > 1 else ""))
        return
    for corpus in manifest.corpora:
        dropped = ", ".join(f"{rule.documents:,} by {rule.rule}" for rule in corpus.dropped)
        told = f"; dropped: {dropped}" if dropped else ""
        print(f"{corpus.name}: {corpus.documents_read:,} documents, {corpus.text_bytes_read / 1e6:.2f} MB read{told}")
    for split in SPLITS:
        if shards := manifest.shards(split):
            documents, text = sum(shard.documents for shard in shards), sum(shard.text_bytes for shard in shards)
            tokens = manifest.tokens(split)
            told = f"{tokens:,} tokens ({text / tokens:.2f} bytes a token)"
            print(f"{split}: {documents:,} documents, {text / 1e6:.2f} MB, {told}")
    print(f"unigram entropy {manifest.unigram_entropy:.3f} nats a token; written to {arguments.out}")


def _recipe(arguments: argparse.Namespace) -> Recipe:
    from data_prep.recipe import make_recipe, read_recipe

    given = {name for name in (*_OPTIONS, "tokenizer", "text_field") if getattr(arguments, name) is not None}
    if arguments.recipe is not None:
        also = ["SOURCE"] * bool(arguments.sources) + [f"--{name.replace('_', '-')}" for name in sorted(given)]
        if also:
            why = "the recipe says everything that decides what the folder holds"
            raise UserError(Problem("--recipe", f"given with {', '.join(also)}", why, "say it in the recipe"))
        return read_recipe(arguments.recipe)
    if not arguments.sources:
        raise UserError(Problem("the sources", "empty", "there is nothing to read", "name a file, a folder or python-stdlib"))
    values: dict[str, Any] = {"sources": [_source(source, arguments.text_field) for source in arguments.sources]}
    values["tokenizer"] = {}
    if arguments.tokenizer in (None, "bpe", "unigram"):
        values["tokenizer"]["kind"] = arguments.tokenizer or "bpe"
    else:
        values["tokenizer"]["file"] = arguments.tokenizer
    for name in given & _OPTIONS.keys():
        *rooms, field = _OPTIONS[name]
        (values[rooms[0]] if rooms else values)[field] = getattr(arguments, name)
    return make_recipe(values)


def _source(source: str, text_field: str | None) -> dict[str, Any]:
    kind, _, name = source.partition(":")
    values: dict[str, Any] = {"dataset": name} if kind == "dataset" and name else {"path": source}
    return values | ({"text_field": text_field} if text_field is not None else {})


def _task(task: str, tasks: int | None) -> tuple[int, int]:
    """Which share of how many; ``auto`` takes a Slurm array's numbers, or torchrun's."""
    if task == "auto":
        for number, count in (
            ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"),
            ("RANK", "WORLD_SIZE"),
            ("SLURM_PROCID", "SLURM_NTASKS"),
        ):
            if number in os.environ and count in os.environ:
                first = _number("SLURM_ARRAY_TASK_MIN", "0") if number == "SLURM_ARRAY_TASK_ID" else 0
                return _number(number) - first, _number(count)
        why = "neither a Slurm array's variables nor torchrun's are set"
        raise UserError(Problem("--task", "auto", why, "give a number"))
    if not (task.isdecimal() and len(task) < 10):
        raise UserError(Problem("--task", repr(task), "it is no number from 0", "give a number, or auto"))
    if tasks is not None and tasks < 1:
        raise UserError(Problem("--tasks", str(tasks), "there is no such number of shares", "give 1 or more"))
    return int(task), tasks or 1


def _number(variable: str, default: str = "") -> int:
    value = os.environ.get(variable, default)
    if not (value.isdecimal() and len(value) < 10):
        raise UserError(Problem(variable, repr(value), "it is no number from 0", "set it right, or give --task a number"))
    return int(value)


@contextmanager
def _signals_as_exits() -> Iterator[None]:
    """Let SIGTERM and Ctrl-C end the command by SystemExit, with a shell's exit code, so that nothing half written is left."""

    def leave(number: int, frame: FrameType | None) -> None:
        for each in before:
            signal.signal(each, signal.SIG_IGN)  # a second one would stop the removal
        print("stopped; the same command goes on from here", file=sys.stderr)
        sys.exit(128 + number)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in before:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
