"""Putting the reports of all pieces together: the manifest, and the tokenizer's card."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import xxhash

from ibnorm_megatron.data.manifest import SPLITS, Corpus, Dropped, Manifest, Shard, SplitName, Tokenizer
from ibnorm_megatron.data.shards import dtype_for
from ibnorm_megatron.errors import Problem, UserError
from ibnorm_megatron.files import write_json

from .pieces import Piece, PieceReport
from .recipe import Recipe
from .sources import Source

CARD = "tokenizer_card.json"

_EXAMPLES = 3


def make_manifest(
    recipe: Recipe,
    sources: Sequence[Source],
    pieces: Sequence[Piece],
    reports: Sequence[PieceReport],
    tokenizer: Tokenizer,
    counts: np.ndarray,
) -> Manifest:
    """The manifest of a folder, from what its pieces report.

    Args:
        counts: how often each token occurs in the training documents, ``[vocab_size]``.

    Raises:
        UserError: a split would hold no document, or a weighted corpus nothing to train on.
    """
    _check_splits(recipe, reports)
    corpora = []
    for number, source in enumerate(sources):
        own = [report for piece, report in zip(pieces, reports, strict=True) if piece.source == number]
        splits: dict[SplitName, list[Shard]] = {
            split: [report.shards[split] for report in own if split in report.shards] for split in SPLITS
        }
        if source.asked.weight is not None and not splits["train"]:
            why = f"it has weight {source.asked.weight} and no document to train on"
            raise UserError(Problem("the source", source.asked.place, why, "take it out, or drop fewer of its documents"))
        corpora.append(
            Corpus(
                name=source.name,
                source=_printable(source.asked.place),
                source_hash=_hash_of(report.source_hash for report in own),
                weight=source.asked.weight,
                documents_read=sum(report.documents_read for report in own),
                text_bytes_read=sum(report.text_bytes_read for report in own),
                replaced=sum(report.replaced for report in own),
                removed_lines=sum(report.removed_lines for report in own),
                dropped=_together(dropped for report in own for dropped in report.dropped),
                splits={split: shards for split, shards in splits.items() if shards},
            )
        )
    share = counts[counts > 0] / counts.sum()
    return Manifest(
        dtype=np.dtype(dtype_for(tokenizer.vocab_size)).name,
        tokenizer=tokenizer,
        held_out={"validation": recipe.validation_fraction, "test": recipe.test_fraction},
        corpora=corpora,
        unigram_entropy=float(-(share * np.log(share)).sum()),
        recipe_hash=recipe.hash(),
    )


def write_card(folder: Path, recipe: Recipe, manifest: Manifest, reports: Sequence[PieceReport], counts: np.ndarray) -> None:
    """Write the tokenizer's card: what it is, how it was made, and how well it fits this text."""
    tokenizer, asked = manifest.tokenizer, recipe.tokenizer
    shards = [shard for split in SPLITS for shard in manifest.shards(split)]
    documents = sum(shard.documents for shard in shards)
    tokens = sum(shard.tokens for shard in shards) - documents
    text_bytes = sum(shard.text_bytes for shard in shards)
    words, word_tokens = (sum(getattr(report, name) for report in reports) for name in ("sampled_words", "sampled_tokens"))
    trained = {"sampled_lines": asked.sentences, "sampled_bytes": asked.sample_bytes, "normalization": "none"}
    write_json(
        folder / CARD,
        {
            "file": tokenizer.file,
            "kind": tokenizer.kind,
            "hash": tokenizer.hash,
            "vocab_size": tokenizer.vocab_size,
            "end_of_document": tokenizer.end_of_document,
            "trained_here": None if asked.file else trained,
            "text_bytes": text_bytes,
            "tokens_without_ends": tokens,
            "bytes_per_token": text_bytes / tokens if tokens else None,
            "fertility": word_tokens / words if words else None,
            "fertility_documents": sum(report.sampled_documents for report in reports),
            "entries_unused_in_training_text": int((counts == 0).sum()),
        },
    )


def _check_splits(recipe: Recipe, reports: Sequence[PieceReport]) -> None:
    kept = sum(shard.documents for report in reports for shard in report.shards.values())
    if not kept:
        read = sum(report.documents_read for report in reports)
        found = "without any text" if not read else f"{read:,} documents, all of them dropped"
        raise UserError(Problem("all that the sources hold", found, "there is nothing to train on", "give more, or drop less"))
    lowest, highest = min(report.lowest for report in reports), max(report.highest for report in reports)
    if not any("validation" in report.shards for report in reports):
        share = math.ceil((lowest + 1e-9) * 1e4) / 1e4
        why = f"none of {kept:,} documents falls into it, by the hash of their text"
        mend = f"give more documents, or use {share:.4f} or more"
        if share >= 1 - recipe.test_fraction or lowest == highest:
            mend = "give more documents: rows, files, or plain text of more lines"
        raise UserError(Problem("--validation-fraction", str(recipe.validation_fraction), why, mend))
    if recipe.test_fraction and not any("test" in report.shards for report in reports):
        share = math.ceil((1 - highest + 1e-9) * 1e4) / 1e4
        why = f"none of {kept:,} documents falls into it, by the hash of their text"
        mend = f"give more documents, or use {share:.4f} or more, or 0"
        raise UserError(Problem("--test-fraction", str(recipe.test_fraction), why, mend))
    if not any("train" in report.shards for report in reports):
        why = f"all of {kept:,} documents are held out, by the hash of their text"
        mend = "give more documents: rows, files, or plain text of more lines"
        raise UserError(Problem("--validation-fraction", str(recipe.validation_fraction), why, mend))


def _together(dropped: Iterable[Dropped]) -> list[Dropped]:
    """One entry a rule, with the first examples."""
    rules: dict[str, Dropped] = {}
    for new in dropped:
        before = rules.get(new.rule)
        rules[new.rule] = (
            new
            if before is None
            else Dropped(
                rule=new.rule,
                documents=before.documents + new.documents,
                text_bytes=before.text_bytes + new.text_bytes,
                examples=[*before.examples, *new.examples][:_EXAMPLES],
            )
        )
    return sorted(rules.values(), key=lambda entry: entry.rule)


def _hash_of(hashes: Iterable[str]) -> str:
    return xxhash.xxh3_64_hexdigest("".join(hashes).encode())


def _printable(place: str) -> str:
    """A path may hold bytes that are no text; the manifest is UTF-8."""
    return place.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
