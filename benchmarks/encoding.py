"""One way of turning text into token files, done once in a process of its own: what :mod:`benchmarks.data_prep` compares.

Nothing here imports torch, but for Megatron's writer: workers that are started anew would import it too, and be charged for it.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import xxhash

from data_prep.pieces import Work, pieces_of
from data_prep.recipe import make_recipe
from data_prep.sources import find_sources
from data_prep.workers import run_pieces
from ibnorm_megatron.data.manifest import Tokenizer
from ibnorm_megatron.data.shards import OpenShard
from ibnorm_megatron.quiet import quiet

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


if __name__ == "__main__":
    quiet()
    print(json.dumps(measure(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))))
