"""What data costs a run: opening a large corpus, and how long a step's main thread waits for its batches.

    OMP_NUM_THREADS=1 python -m benchmarks.loader --out benchmarks/results/loader

The large corpus has real indices and a token file that is a hole: its documents are as many and as long as those of a real one,
and take no space. It is opened in new processes, the first of which builds the index. Steps are those of :class:`Trainer`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from array import array
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from ibnorm_megatron.config import Config, load_config
from ibnorm_megatron.data.config import DataConfig
from ibnorm_megatron.data.dataset import SequenceDataset
from ibnorm_megatron.data.loader import Loader
from ibnorm_megatron.data.manifest import Corpus, Manifest, Shard, Tokenizer
from ibnorm_megatron.data.prepared import read_prepared
from ibnorm_megatron.data.shards import ShardWriter
from ibnorm_megatron.files import hash_file
from ibnorm_megatron.parallel.groups import World, model_parallel, process_group
from ibnorm_megatron.quiet import quiet
from ibnorm_megatron.train.guard import Guard
from ibnorm_megatron.train.loop import Trainer
from ibnorm_megatron.train.run import build_engine
from ibnorm_megatron.train.run_folder import RunFolder

from .conditions import conditions, markdown_table

OPENED = ["process", "read and check s", "first sample s", "in all s", "of CPU s", "load", "grown by MiB", "next samples us"]
WAITED = ["model", "tokens a step", "made", "step ms", "waits ms", "share of the step"]

#: Models whose steps are taken, each with what one CPU can do of it.
MODELS = {
    "tiny_llama": ["train.global_batch_size=8"],
    "quickstart": ["parallel.tensor=1", "parallel.sequence=false"],
    "llama_60m": ["train.global_batch_size=4", "train.micro_batch_size=4"],
}


def synthetic(folder: Path, documents: int, tokens: int, vocabulary: int, *, hole: bool) -> Path:
    """A prepared folder of documents whose lengths are log-normal; ids are random, or all 0 in a ``hole``."""
    folder.mkdir(parents=True)
    (folder / "tokenizer.model").write_text("none")
    random = np.random.default_rng(0)
    lengths = random.lognormal(0, 1, documents)
    lengths = np.maximum(1, lengths * (tokens / lengths.sum())).astype(np.int32)
    shards = {}
    for split, own in (("train", lengths), ("validation", lengths[:1000])):
        writer = ShardWriter(folder, f"0-{split}", vocabulary)
        if hole:
            shards[split] = [_hole(writer, folder / f"0-{split}", own)]
        else:
            for length in own.tolist():
                writer.add(random.integers(1, vocabulary, length), length)
            shards[split] = [cast(Shard, writer.finish())]
    kind = Tokenizer(kind="bpe", hash=hash_file(folder / "tokenizer.model"), vocab_size=vocabulary, end_of_document=0)
    corpus = Corpus(
        name="made", source="made", source_hash="", documents_read=documents, text_bytes_read=0, splits=cast(Any, shards)
    )
    dtype = "uint16" if vocabulary <= 65536 else "int32"
    Manifest(dtype=cast(Any, dtype), tokenizer=kind, held_out={}, corpora=[corpus], unigram_entropy=1.0, recipe_hash="").write(
        folder
    )
    return folder


def _hole(writer: ShardWriter, prefix: Path, lengths: np.ndarray) -> Shard:
    """A shard whose index the real writer writes, and whose tokens nobody has."""
    writer._lengths = array("i", lengths.tobytes())
    with open(prefix.with_name(f"{prefix.name}.idx"), "wb") as index:
        writer._write_index(index)
        index.flush()
        os.fsync(index.fileno())  # as the writer does; else the reader's first fsync has to wait for these bytes
    writer.discard()
    tokens = int(lengths.sum(dtype=np.int64))
    with open(prefix.with_name(f"{prefix.name}.bin"), "wb") as file:
        file.truncate(tokens * 2)
    return Shard(
        name=prefix.name,
        documents=lengths.size,
        tokens=tokens,
        text_bytes=0,
        bin_size=tokens * 2,
        idx_size=prefix.with_name(f"{prefix.name}.idx").stat().st_size,
        bin_hash="of a hole" if tokens * 2 > 1 << 30 else hash_file(prefix.with_name(f"{prefix.name}.bin")),
        idx_hash=hash_file(prefix.with_name(f"{prefix.name}.idx")),
    )


def open_once(folder: Path, cache: Path, length: int) -> dict[str, float]:
    """Open a folder in this process as a run does, to the first sample; seconds, and bytes that the process grew by at most."""
    before, computed = _resident(), time.process_time()
    started = time.perf_counter()
    prepared = read_prepared(DataConfig(path=str(folder)))
    checked = time.perf_counter()
    dataset = SequenceDataset(prepared, "train", length, 1234, cache)
    dataset.sample(0)
    first, computed = time.perf_counter(), time.process_time() - computed
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    for index in range(1, 2001):
        dataset.sample(index)
    after = (time.perf_counter() - first) / 2000
    return {"checked": checked - started, "first": first - checked, "cpu": computed, "grown": grown, "sample": after}


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def opened(given: argparse.Namespace, folder: Path) -> list[list[str]]:
    """A line for every process that opens the corpus, one after another."""
    synthetic(folder / "data", given.documents, given.tokens, 32_000, hole=True)
    lines = []
    for name in ("the first, which builds", "the next, which finds it"):
        arguments = ["--child", str(folder / "data"), str(folder / "cache"), "--length", str(given.length)]
        done = subprocess.run(  # noqa: S603
            [sys.executable, "-m", "benchmarks.loader", *arguments], stdout=subprocess.PIPE, check=True, text=True
        )
        found = json.loads(done.stdout.splitlines()[-1])
        seconds = [found["checked"], found["first"], found["checked"] + found["first"], found["cpu"]]
        load = f"{os.getloadavg()[0]:.1f} on {os.cpu_count()}"
        lines.append(
            [name, *(f"{s:.2f}" for s in seconds), load, f"{found['grown'] / 2**20:.0f}", f"{found['sample'] * 1e6:.0f}"]
        )
    return lines


def waited(given: argparse.Namespace, folder: Path) -> list[list[str]]:
    """A line for every model, with batches made ahead and made when they are asked for."""
    lines = []
    for name in given.models:
        config = load_config(f"configs/{name}.yaml", [*MODELS[name], f"train.steps={given.steps + given.warm_up}"])
        if not (folder / name).exists():
            synthetic(folder / name, 4000, 2_000_000, config.model.vocab_size, hole=False)
        for ahead in (0, 1):
            steps, waits = _steps(config, folder / name, folder / "index", ahead, given.warm_up)
            step, wait = statistics.median(steps), statistics.median(waits)
            share = sum(waits) / sum(steps)
            made = "a step ahead" if ahead else "when asked for"
            tokens = str(config.train.tokens_per_step())
            lines.append([name, tokens, made, f"{1e3 * step:.1f}", f"{1e3 * wait:.3f}", f"{100 * share:.3f} %"])
    return lines


def _steps(config: Config, data: Path, cache: Path, ahead: int, warm_up: int) -> tuple[list[float], list[float]]:
    """Seconds of every step after the first few, and how many of them its main thread waited for batches."""
    prepared = read_prepared(DataConfig(path=str(data)))
    train, waits, steps = config.train, [], []
    with model_parallel(config.parallel, train.seed) as groups:
        engine = build_engine(config, groups)
        dataset = SequenceDataset(prepared, "train", train.sequence_length, train.seed, cache)
        loader = Loader(
            dataset,
            global_batch_size=train.global_batch_size,
            micro_batch_size=train.micro_batch(1),
            data_rank=0,
            data_size=1,
            ahead=ahead,
        )
        take = loader.batches

        def timed(first_sample: int) -> Any:
            started = time.perf_counter()
            batches = take(first_sample)
            waits.append(time.perf_counter() - started)
            return batches

        loader.batches = timed  # type: ignore[method-assign]
        trainer = Trainer(config, prepared, groups, engine, loader, RunFolder("unused"), [], Guard(config.guard))
        for _ in range(train.steps):
            started = time.perf_counter()
            trainer._step()
            steps.append(time.perf_counter() - started)
        loader.close()
        engine.close()
    return steps[warm_up:], waits[warm_up:]


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.loader", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--documents", type=int, default=20_000_000)
    parser.add_argument("--tokens", type=int, default=10_000_000_000)
    parser.add_argument("--length", type=int, default=2048, help="tokens of a sequence of the large corpus")
    parser.add_argument("--models", nargs="*", choices=sorted(MODELS), default=list(MODELS))
    parser.add_argument("--steps", type=int, default=20, help="of each model, timed")
    parser.add_argument("--warm-up", type=int, default=3, help="steps before them")
    parser.add_argument("--folder", type=Path, help="where the data and indices are made; a new temporary one by default")
    parser.add_argument("--out", type=Path, help="write OUT.md")
    parser.add_argument("--child", nargs=2, metavar=("FOLDER", "CACHE"), help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def write(out: Path, given: argparse.Namespace, tables: list[tuple[str, list[str], list[list[str]]]]) -> None:
    """OUT.md: the conditions and the tables."""
    method = (
        "a run's own code. Opening: each process is new; seconds of wall time, seconds that it computed, the machine's load "
        "(processes that wanted to run in the last minute, on so many cores), and how far the process's peak of resident "
        "memory, mapped files included, lies above what it was before; the next 2,000 samples come one by one, on the first "
        "touch of each of their documents. Waiting: the time that the main thread is in "
        f"Loader.batches, of {given.steps} steps after {given.warm_up} others; medians, and the share of all their time"
    )
    listed = [f"* {name}: {value}" for name, value in conditions("benchmarks.loader", method).items()]
    parts = ["# The loader", "\n".join(listed)]
    for title, heads, lines in tables:
        parts += [f"## {title}", markdown_table(heads, lines)]
    out.with_suffix(".md").write_text("\n\n".join(parts) + "\n")


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the tables, write the file."""
    quiet()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    given = parse(sys.argv[1:] if arguments is None else arguments)
    if given.child:
        folder, cache = map(Path, given.child)
        print(json.dumps(open_once(folder, cache, given.length)))
        return
    with tempfile.TemporaryDirectory(dir=given.folder) as temporary:
        title = f"Opening {given.tokens:,} tokens in {given.documents:,} documents, in sequences of {given.length}"
        tables = [(title, OPENED, opened(given, Path(temporary)))]
        if given.models:
            with process_group(World(0, 1, 0)):
                tables.append(("Waiting for batches", WAITED, waited(given, Path(temporary))))
    for title, heads, lines in tables:
        table = Table(*heads, title=title)
        for line in lines:
            table.add_row(*line)
        Console(width=120).print(table)
    if given.out:
        write(given.out, given, tables)


if __name__ == "__main__":
    main()
