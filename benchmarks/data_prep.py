"""How fast text becomes tokens, beside Megatron-LM's way of doing it, and how much memory a hostile corpus takes.

    OMP_NUM_THREADS=1 python -m benchmarks.data_prep --out benchmarks/results/data_prep
    OMP_NUM_THREADS=1 python -m benchmarks.data_prep --hostile 2000 --out benchmarks/results/data_prep_memory

Text is the Python standard library, tests included, unless ``--text`` names JSON lines. Every way encodes the same documents
with the same sentencepiece model, in processes of its own; what is compared is megabytes a second of CPU time, in all its
processes, in the same round. Ids have to be the same, document for document.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import xxhash
from rich.console import Console
from rich.table import Table

from data_prep.pieces import Work, pieces_of
from data_prep.recipe import TokenizerConfig, make_recipe
from data_prep.sources import find_sources
from data_prep.tokenizer import train_tokenizer
from data_prep.workers import run_pieces
from ibnorm_megatron.data.manifest import Tokenizer
from ibnorm_megatron.data.shards import OpenShard
from ibnorm_megatron.quiet import quiet

from .conditions import conditions, markdown_table

HEADS = ["way", "MB per CPU-second", "over Megatron's", "wall s", "MB/s of wall", "same ids"]

_model: sentencepiece.SentencePieceProcessor


def _begin(path: str) -> None:
    global _model
    _model = sentencepiece.SentencePieceProcessor(model_file=path)


def _encode_line(line: str) -> list[int]:
    return [*_model.encode(json.loads(line)["text"]), _model.eos_id()]


def megatron_way(text: Path, folder: Path, record: Tokenizer, workers: int) -> Callable[[], None]:
    """As Megatron-LM's tools/preprocess_data.py: workers encode lines, one process gathers the ids and writes them."""
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    def do() -> None:
        builder = IndexedDatasetBuilder(str(folder / "out.bin"), dtype=np.uint16)
        with (
            multiprocessing.get_context("fork").Pool(workers, _begin, (str(folder / record.file),)) as pool,
            open(text) as lines,
        ):
            for ids in pool.imap(_encode_line, lines, 32):
                builder.add_document(ids, [len(ids)])
            builder.finalize(str(folder / "out.idx"))
            pool.close()
            pool.join()

    return do


def our_way(text: Path, folder: Path, record: Tokenizer, workers: int, encoder: str = "sentencepiece") -> Callable[[], None]:
    """The stage ``encode`` of ``ibnorm prepare``: reading, split, shards, hashes, fsync and reports included."""
    values = {
        "sources": [{"path": str(text), "name": "out"}],
        "tokenizer": {"vocab_size": record.vocab_size, "encoder": encoder},
    }
    recipe = make_recipe({**values, "piece_bytes": 8 << 20})
    (folder / "work").mkdir()

    def do() -> None:
        sources = find_sources(recipe.sources, recipe.names(), recipe.piece_bytes)
        work = Work(folder, recipe, sources, record)
        run_pieces(work, "encode", pieces_of(sources, recipe.piece_bytes), workers, "encoding")

    return do


WAYS: dict[str, Callable[[Path, Path, Tokenizer, int], Callable[[], None]]] = {
    "Megatron's one writer": megatron_way,
    "ibnorm prepare": our_way,
    "ibnorm prepare, kitoken": lambda *given: our_way(*given, encoder="kitoken"),
    "ibnorm prepare, gigatoken": lambda *given: our_way(*given, encoder="gigatoken"),
}


def measure(way: str, text: str, model: str, workers: int) -> dict[str, Any]:
    """Do it once, here, and say what it took; imports are not counted."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        record = Tokenizer.model_validate_json(Path(model, "record").read_text())
        (folder / record.file).symlink_to(Path(model, record.file))
        do = WAYS[way](Path(text), folder, record, workers)
        before, begin = _cpu(), time.perf_counter()
        do()
        wall = time.perf_counter() - begin
        return {"cpu": _cpu() - before, "wall": wall, "ids": _digest(folder)}


def _cpu() -> float:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


def _digest(folder: Path) -> str:
    """A hash of all documents' ids, whatever their order."""
    hashes = []
    for index in folder.glob("*.idx"):
        shard = OpenShard(index.with_suffix(""))
        hashes += [xxhash.xxh3_64_hexdigest(shard[i].tobytes()) for i in range(len(shard))]
    return xxhash.xxh3_64_hexdigest("".join(sorted(hashes)).encode())


def standard_library(path: Path) -> None:
    """Write its sources as JSON lines."""
    root = Path(sysconfig.get_paths()["stdlib"])
    with open(path, "w") as out:
        for file in sorted(root.rglob("*.py")):
            if not {"site-packages", "dist-packages"} & set(file.parts):
                try:
                    text = file.read_text(encoding="utf-8")
                except UnicodeDecodeError:
                    continue  # a few tests are about other encodings
                if text:
                    out.write(json.dumps({"text": text}) + "\n")


def compare(given: argparse.Namespace) -> list[list[str]]:
    """Every way, ``rounds`` times, in turn."""
    with tempfile.TemporaryDirectory() as place:
        text, model = given.text, Path(place)
        if text is None:
            text = model / "text.jsonl"
            standard_library(text)
        documents = [json.loads(line)["text"] for line in text.read_text().splitlines()]
        size = sum(len(document.encode()) for document in documents) / 1e6
        record = train_tokenizer(documents, model, TokenizerConfig(vocab_size=given.vocab_size))
        (model / "record").write_text(record.model_dump_json())
        found: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
        for _ in range(given.rounds):
            for way in WAYS:
                arguments = [sys.executable, "-m", "benchmarks.data_prep", "--measure", way, "--text", str(text)]
                arguments += ["--model", str(model), "--workers", str(given.workers)]
                done = subprocess.run(arguments, capture_output=True, text=True, check=False)  # noqa: S603
                if done.returncode:
                    raise SystemExit(done.stderr)
                found[way].append(json.loads(done.stdout.splitlines()[-1]))
    base = found["Megatron's one writer"]
    print(f"{size:.1f} MB, {len(documents):,} documents", file=sys.stderr)
    return [
        [
            way,
            f"{statistics.median(size / run['cpu'] for run in runs):.2f}",
            f"{statistics.median(theirs['cpu'] / run['cpu'] for run, theirs in zip(runs, base, strict=True)):.2f}",
            f"{statistics.median(run['wall'] for run in runs):.1f}",
            f"{statistics.median(size / run['wall'] for run in runs):.1f}",
            "yes" if {run["ids"] for run in runs} == {base[0]["ids"]} else "NO",
        ]
        for way, runs in found.items()
    ]


def hostile(given: argparse.Namespace) -> list[list[str]]:
    """Prepare megabytes of what takes most memory, and say what it took."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name, pieces in (("line.txt", _line), ("solid.txt", _solid), ("giants.jsonl", _giants), ("tiny.jsonl", _tiny)):
            with open(folder / name, "w") as out:
                written = 0
                for piece in pieces():
                    out.write(piece)
                    written += len(piece)
                    if written >= given.hostile * 1e6 / 4:
                        break
        sources = sorted(folder.iterdir())
        size = sum(file.stat().st_size for file in sources)
        code = "import sys; from ibnorm_megatron.cli import main; sys.exit(main())"
        arguments = [sys.executable, "-c", code, "prepare", *map(str, sources), "--out", str(folder / "out")]
        begin = time.perf_counter()
        process = subprocess.Popen(  # noqa: S603
            [*arguments, "--vocab-size", "8000", "--workers", str(given.workers)], stdout=subprocess.PIPE
        )
        peaks: dict[int, int] = {}
        while process.poll() is None:
            for number in (process.pid, *_children(process.pid)):
                peaks[number] = max(peaks.get(number, 0), _peak(number))
            time.sleep(0.05)
        if process.returncode:
            raise SystemExit(f"ibnorm prepare ended with {process.returncode}")
        wall = time.perf_counter() - begin
        own = peaks.pop(process.pid)
        rows = [["corpus", f"{size / 1e6:.0f} MB: " + ", ".join(file.name for file in sources)]]
        rows += [["whole command", f"{wall:.0f} s, {given.workers} workers"]]
        rows += [["parent's peak", f"{own >> 10} MiB"], ["largest worker's peak", f"{max(peaks.values()) >> 10} MiB"]]
        return rows


def _children(number: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{number}/task/{number}/children").read_text().split()]
    except OSError:
        return []


def _peak(number: int) -> int:
    """Most resident memory so far, in KiB."""
    try:
        status = Path(f"/proc/{number}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")), 0)


def _line() -> Iterator[str]:
    while True:  # one line without an end
        yield "words and more words, and then " * 10_000


def _solid() -> Iterator[str]:
    random = np.random.default_rng(0)
    while True:  # no space at all
        yield bytes(random.integers(97, 123, 1 << 20, dtype=np.uint8)).decode()


def _giants() -> Iterator[str]:
    while True:  # rows of 66 MB, of four bytes a character in memory
        yield json.dumps({"text": "a giant document of many words \U0001f642 " * 1_830_000}, ensure_ascii=False) + "\n"


def _tiny() -> Iterator[str]:
    number = 0
    while True:
        yield "".join(f'{{"text": "{number + i}"}}\n' for i in range(10_000))
        number += 10_000


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--text", type=Path, help="JSON lines with a field text, in place of the standard library")
    parser.add_argument("--vocab-size", type=int, default=32_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--hostile", type=int, metavar="MB", help="measure the memory that so much of a hostile corpus takes")
    parser.add_argument("--out", type=Path, help="writes OUT.md")
    parser.add_argument("--measure", choices=list(WAYS), help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    quiet()
    if given.measure:
        print(json.dumps(measure(given.measure, given.text, given.model, given.workers)))
        return
    heads, rows = (["what", "found"], hostile(given)) if given.hostile else (HEADS, compare(given))
    table = Table(*heads)
    for row in rows:
        table.add_row(*row)
    Console(width=140).print(table)
    if given.out:
        method = f"{given.rounds} rounds, medians; ratios within a round" if not given.hostile else "VmHWM of every process"
        told = {**conditions("benchmarks.data_prep", method), "load": f"{os.getloadavg()[0]:.1f} at the end"}
        lines = [
            f"# {'Memory for a hostile corpus' if given.hostile else 'Encoding text'}",
            "",
            markdown_table(heads, rows),
            "",
        ]
        lines += [f"* {name}: {value}" for name, value in told.items()]
        given.out.with_suffix(".md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
