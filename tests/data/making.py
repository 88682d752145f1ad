"""Prepared folders of known documents, made without a tokenizer: token ids are whatever the test says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ibnorm_megatron.data.config import DataConfig
from ibnorm_megatron.data.manifest import SPLITS, Corpus, Manifest, Shard, Tokenizer
from ibnorm_megatron.data.permutation import mix
from ibnorm_megatron.data.prepared import Prepared, read_prepared
from ibnorm_megatron.data.shards import ShardWriter
from ibnorm_megatron.files import hash_file

END = 0
VOCABULARY = 50_000

#: Documents by split, in shards; each is ids with the end-of-document token.
Shards = Mapping[str, Sequence[Sequence[Sequence[int]]]]


def documents(count: int, first: int = 1, longest: int = 60, seed: int = 0) -> list[list[int]]:
    """Documents of 1 to ``longest`` tokens, no id twice in all of them but the end; ids from ``first`` on."""
    found = []
    for length in (1 + mix(seed, number) % longest for number in range(count)):  # the same with every numpy
        found.append([*range(first, first + length - 1), END])
        first += length - 1
    assert first <= VOCABULARY
    return found


def make(
    folder: Path,
    corpora: Mapping[str, Shards],
    weights: Mapping[str, float] | None = None,
    tokenizer: str = "a tokenizer",
    vocabulary: int = VOCABULARY,
) -> Path:
    """Write a prepared folder."""
    folder.mkdir(parents=True)
    (folder / "tokenizer.model").write_text(tokenizer)
    records = []
    for name, by_split in corpora.items():
        shards: dict[str, list[Shard]] = {split: [] for split in SPLITS}
        for split, contents in by_split.items():
            for number, content in enumerate(contents):
                writer = ShardWriter(folder, f"{name}-{split}-{number}", vocabulary)
                for document in content:
                    writer.add(np.array(document), len(document))
                shard = writer.finish()
                assert shard is not None
                shards[split].append(shard)
        weight = weights[name] if weights else None
        read = sum(shard.documents for of_split in shards.values() for shard in of_split)
        records.append(
            Corpus(name=name, source=name, source_hash="", weight=weight, documents_read=read, text_bytes_read=0, splits=shards)
        )
    kind = Tokenizer(kind="bpe", hash=hash_file(folder / "tokenizer.model"), vocab_size=vocabulary, end_of_document=END)
    Manifest(
        dtype="uint16" if vocabulary <= 65536 else "int32",
        tokenizer=kind,
        held_out={},
        corpora=records,
        unigram_entropy=len(corpora) * 1.5,
        recipe_hash="",
    ).write(folder)
    return folder


def read(*folders: Path, **fields: object) -> Prepared:
    """Read folders as a run would."""
    return read_prepared(DataConfig(path=[str(folder) for folder in folders], **fields))  # type: ignore[arg-type]
