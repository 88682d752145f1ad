"""How fast text becomes tokens, beside Megatron-LM's way of doing it, and how much memory a hostile corpus takes.

    OMP_NUM_THREADS=1 python -m benchmarks.data_prep --out benchmarks/results/data_prep
    OMP_NUM_THREADS=1 python -m benchmarks.data_prep --hostile 2000 --out benchmarks/results/data_prep_memory

Text is Python sources of this environment, unless ``--text`` names JSON lines. Every way encodes the same documents
with the same sentencepiece model, in processes of its own; what is compared is megabytes a second of CPU time, in all its
processes, in the same round. Ids have to be the same, document for document.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from data_prep.recipe import TokenizerConfig
from data_prep.tokenizer import train_tokenizer
from ibnorm_megatron.quiet import quiet

from .conditions import conditions, markdown_table
from .encoding import WAYS

HEADS = ["way", "MB per CPU-second", "over Megatron's", "wall s", "MB/s of wall", "same ids"]


def installed_sources(path: Path, megabytes: int) -> None:
    """Write the Python sources of this environment as JSON lines: the standard library, then what is installed."""
    paths = sysconfig.get_paths()
    files = [file for root in (paths["stdlib"], paths["purelib"]) for file in sorted(Path(root).rglob("*.py"))]
    written = 0
    with open(path, "w") as out:
        for file in dict.fromkeys(files):
            try:
                text = file.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue  # a few tests are about other encodings
            if text and "\u2581" not in text:  # Megatron's way turns this character into a space, ours keeps it
                out.write(json.dumps({"text": text}) + "\n")
                written += len(text)
            if written > megabytes * 1e6:
                return


def compare(given: argparse.Namespace) -> list[list[str]]:
    """Every way, ``rounds`` times, in turn."""
    with tempfile.TemporaryDirectory() as place:
        text, model = given.text, Path(place)
        if text is None:
            text = model / "text.jsonl"
            installed_sources(text, given.megabytes)
        documents = [json.loads(line)["text"] for line in text.read_text().splitlines()]
        size = sum(len(document.encode()) for document in documents) / 1e6
        record = train_tokenizer(documents, model, TokenizerConfig(vocab_size=given.vocab_size))
        (model / "record").write_text(record.model_dump_json())
        found: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
        for _ in range(given.rounds):
            for way in WAYS:
                arguments = [sys.executable, "-m", "benchmarks.encoding", way, str(text), str(model), str(given.workers)]
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
    while True:  # rows of 33 MB, of four bytes a character in memory
        yield json.dumps({"text": "a giant document of many words \U0001f642 " * 910_000}, ensure_ascii=False) + "\n"


def _tiny() -> Iterator[str]:
    number = 0
    while True:
        yield "".join(f'{{"text": "{number + i}"}}\n' for i in range(10_000))
        number += 10_000


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--text", type=Path, help="JSON lines with a field text, in place of installed sources")
    parser.add_argument("--vocab-size", type=int, default=32_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--hostile", type=int, metavar="MB", help="measure the memory that so much of a hostile corpus takes")
    parser.add_argument("--out", type=Path, help="writes OUT.md")
    parser.add_argument("--megabytes", type=int, default=100, help="of sources, where --text is not given")
    given = parser.parse_args(arguments)
    quiet()
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
