"""``ibnorm data verify``: is everything in a prepared folder what its manifest says, and does that make sense?

Opening a folder checks sizes and hashes, which finds what changed since it was made. This check also finds what was wrong when
the hashes were taken: it counts the bytes of text that the tokens stand for, looks where documents end, and asks the hash of
their text which split they belong to. What nothing else in the folder depends on cannot be checked: the names and hashes of
sources, weights, examples of dropped documents, and the fertility on the tokenizer's card.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ibnorm_megatron.data.manifest import MANIFEST, SPLITS, Manifest, Shard, Tokenizer, check_file, load_manifest
from ibnorm_megatron.data.shards import dtype_for
from ibnorm_megatron.data.tokenizer import token_texts
from ibnorm_megatron.errors import Problem, UserError
from ibnorm_megatron.progress import Progress

from .inspection import check_folder
from .manifests import CARD
from .shard_checks import MEND, SAMPLE, Advance, Reading, ShardCheck
from .splits import Splits

_AGAIN = "prepare the data again into a new folder"

#: Entries of a vocabulary that are counted: a manifest that says more is damaged, and must not ask for all memory.
_MOST_COUNTED = 1 << 24

#: What a card holds that no token can confirm.
_FREE = {"trained_here", "fertility", "fertility_documents"}


@dataclass
class Verification:
    """What the check of a folder found.

    Attributes:
        findings: what is wrong, each once.
        notes: what could not be checked, and why, as sentences.
        totals: what the folder holds, as one line; empty if its manifest cannot be read.
    """

    findings: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    totals: str = ""


def verify_folder(folder: Path, *, full: bool = False, visible: bool = False) -> Verification:
    """Check everything in a prepared folder. Reads every byte once, and those of documents that become text twice.

    Args:
        folder: the one to check.
        full: turn every training document into text, instead of one in 64.
        visible: show progress.

    Raises:
        UserError: there is no prepared data there.
    """
    result = Verification()
    check_folder(folder)
    try:
        manifest = load_manifest(folder)
    except UserError as error:
        result.findings += error.problems
        return result
    result.totals = _totals(manifest)
    result.findings += _check_manifest(folder, manifest)
    result.findings += _strays(folder, manifest)
    texts = _check_tokenizer(folder, manifest.tokenizer, result)
    held_out = manifest.held_out
    reading = Reading(
        dtype=manifest.dtype,
        vocab_size=min(manifest.tokenizer.vocab_size, _MOST_COUNTED),
        end=manifest.tokenizer.end_of_document,
        texts=texts,
        splits=Splits(held_out.get("validation", 0.0), held_out.get("test", 0.0)),
        full=full,
    )
    with Progress("verifying", total=_work(manifest, reading), unit="B", visible=visible) as progress:
        counts = _check_shards(folder, manifest, reading, result, progress.advance)
    if counts is not None:
        result.findings += _check_entropy(folder, manifest, counts)
    result.findings += _check_card(folder, manifest, counts)
    if texts is not None and not full:
        result.notes.append(f"One training document in {SAMPLE} was looked at as text, and every one that is held out.")
    result.findings = list(dict.fromkeys(result.findings))
    return result


def _totals(manifest: Manifest) -> str:
    shards = [shard for split in SPLITS for shard in manifest.shards(split)]
    documents, tokens = sum(shard.documents for shard in shards), sum(shard.tokens for shard in shards)
    text = sum(shard.text_bytes for shard in shards) / 1e6
    return f"{len(shards):,} shards, {documents:,} documents, {tokens:,} tokens, {text:,.2f} MB of text"


def _work(manifest: Manifest, reading: Reading) -> int:
    """Bytes to read, about."""
    twice = [split for split in SPLITS if reading.texts is not None and reading.step(split) == 1]
    return sum(shard.bin_size * (2 if split in twice else 1) for split in SPLITS for shard in manifest.shards(split))


def _check_manifest(folder: Path, manifest: Manifest) -> Iterator[Problem]:
    """The manifest with itself."""
    where, tokenizer = str(folder / MANIFEST), manifest.tokenizer
    if np.iinfo(manifest.dtype).max < tokenizer.vocab_size - 1:
        wanted = np.dtype(dtype_for(tokenizer.vocab_size)).name
        why = (
            f"{tokenizer.vocab_size:,} entries of the tokenizer do not fit into it, and ids wrapped ({wanted} would hold them)"
        )
        yield Problem(f"dtype in {where}", manifest.dtype, why, _AGAIN)
    for split, share in manifest.held_out.items():
        if not 0 <= share < 1:
            yield Problem(f"held_out.{split} in {where}", str(share), "it is no share of the documents", _AGAIN)
        elif share and not manifest.shards(split):
            yield Problem(f"the {split} split in {where}", "empty", f"{share:g} of the documents should be in it", _AGAIN)
    for corpus in manifest.corpora:
        for split in (split for split, shards in corpus.splits.items() if not shards):
            yield Problem(f"the {split} split of {corpus.name} in {where}", "empty", "a split that is named has shards", _AGAIN)
        dropped = sum(rule.documents for rule in corpus.dropped)
        if corpus.documents + dropped != corpus.documents_read:
            why = f"its shards have {corpus.documents:,} and its rules dropped {dropped:,}, which should be all of them"
            yield Problem(f"documents_read of {corpus.name} in {where}", f"{corpus.documents_read:,}", why, _AGAIN)
    seen: dict[str, Shard] = {}
    for shard in (shard for split in SPLITS for shard in manifest.shards(split)):
        first = seen.setdefault(shard.bin_hash, shard)
        if first is not shard:
            why = f"it holds the tokens of {first.name}, so the same documents are there twice"
            yield Problem(f"the shard {shard.name} in {folder}", "a copy", why, "prepare again from sources that differ")


def _strays(folder: Path, manifest: Manifest) -> Iterator[Problem]:
    """Files that look as if they were used."""
    known = {f"{shard.name}{end}" for split in SPLITS for shard in manifest.shards(split) for end in (".bin", ".idx")}
    known |= {manifest.tokenizer.file}
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        why = f"its files cannot be listed ({error.strerror}), so strays were not looked for"
        yield Problem("the folder", str(folder), why, "let it be read")
        return
    for name in names:
        if name.startswith(".") and ".tmp-" in name:
            why = "it is what something that was killed while writing left behind"
            yield Problem(f"the file {folder / name}", "a stray", why, "remove it")
        elif name not in known and (name.endswith((".bin", ".idx")) or name in ("tokenizer.model", "tokenizer.json")):
            why = f"{MANIFEST} does not name it, so nothing ever reads it"
            yield Problem(f"the file {folder / name}", "a stray", why, "remove it, or prepare again with its text")


def _check_tokenizer(folder: Path, tokenizer: Tokenizer, result: Verification) -> list[bytes] | None:
    """What the tokenizer's tokens stand for, or None if that is not known or does not tell a document's bytes."""
    path = folder / tokenizer.file
    if problem := check_file(path, None, tokenizer.hash):  # a damaged one is never handed to a library
        result.findings.append(problem)
        result.notes.append(f"{path} is not the tokenizer that wrote the tokens, so what they stand for was not checked.")
        return None
    try:
        texts = token_texts(folder, tokenizer)
        end, keeps = _traits(path, tokenizer)
    except Exception as error:  # both libraries raise bare Exceptions
        why = " ".join(str(error).split()).rstrip(".")[:200] or type(error).__name__
        result.findings.append(Problem(str(path), "no tokenizer", why, MEND))
        return None
    wrong = False
    if len(texts) != tokenizer.vocab_size:
        why, wrong = f"{MANIFEST} says {tokenizer.vocab_size:,}", True
        result.findings.append(Problem(f"the vocabulary of {path}", f"{len(texts):,} entries", why, MEND))
    if end is not None and end != tokenizer.end_of_document:
        why, wrong = f"{MANIFEST} says {tokenizer.end_of_document}", True
        result.findings.append(Problem(f"the end-of-document token of {path}", str(end), why, MEND))
    if not keeps:
        result.notes.append(f"{path} does not keep text as it is, so bytes of text and splits of documents were not checked.")
    return texts if keeps and not wrong else None


def _traits(path: Path, tokenizer: Tokenizer) -> tuple[int | None, bool]:
    """The end-of-document token, if the tokenizer itself decides it, and whether it keeps text as it is."""
    if tokenizer.kind == "huggingface":
        return None, True  # a byte-level one does, and token_texts takes no other
    import sentencepiece

    from .encoders import keeps_text

    model = sentencepiece.SentencePieceProcessor(model_file=str(path))
    return None if tokenizer.kind == "sentencepiece" else model.eos_id(), keeps_text(model)


def _check_shards(
    folder: Path, manifest: Manifest, reading: Reading, result: Verification, advance: Advance
) -> np.ndarray | None:
    """Every shard; how often each token occurs in training documents, or None if that is not known."""
    counts, sound = np.zeros(reading.vocab_size, dtype=np.int64), True
    for split in SPLITS:
        for shard in manifest.shards(split):
            check = ShardCheck(folder, shard, split, reading, advance)
            check.run()
            result.findings += check.findings
            sound = sound and not check.findings
            if split == "train":
                counts += check.counts
    return counts if sound else None


def _check_entropy(folder: Path, manifest: Manifest, counts: np.ndarray) -> Iterator[Problem]:
    share = counts[counts > 0] / counts.sum()
    entropy = float(-(share * np.log(share)).sum())
    if not math.isclose(entropy, manifest.unigram_entropy, rel_tol=1e-9, abs_tol=1e-12):
        where, why = f"unigram_entropy in {folder / MANIFEST}", f"that of the training tokens is {entropy!r}"
        yield Problem(where, repr(manifest.unigram_entropy), why, _AGAIN)


def _check_card(folder: Path, manifest: Manifest, counts: np.ndarray | None) -> Iterator[Problem]:
    """The tokenizer's card with the manifest and, if they are known, the counts of training tokens."""
    path, tokenizer = folder / CARD, manifest.tokenizer
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        yield Problem(str(path), "not readable", str(error.strerror), MEND)
        return
    except (ValueError, RecursionError):
        yield Problem(str(path), "not valid", "it is not JSON", MEND)
        return
    shards = [shard for split in SPLITS for shard in manifest.shards(split)]
    tokens, text_bytes = sum(shard.tokens - shard.documents for shard in shards), sum(shard.text_bytes for shard in shards)
    expected: dict[str, Any] = {
        "file": tokenizer.file,
        **tokenizer.model_dump(),
        "text_bytes": text_bytes,
        "tokens_without_ends": tokens,
        "bytes_per_token": text_bytes / tokens if tokens > 0 else None,
    }
    counted = "entries_unused_in_training_text"
    if counts is not None:
        expected[counted] = int((counts == 0).sum())
    if not isinstance(card, dict) or set(card) != set(expected) | _FREE | {counted}:
        yield Problem(str(path), "no card of a tokenizer", "it has other fields", MEND)
        return
    for name, value in expected.items():
        if card[name] != value:
            found = repr(card[name])
            why = f"the manifest and the tokens say {value!r}"
            yield Problem(f"{name} in {path}", found if len(found) <= 80 else found[:80] + "...", why, MEND)
