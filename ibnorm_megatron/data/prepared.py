"""All the prepared folders that a run reads, as one: their corpora, and by what weights these are mixed. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import Problem, UserError, nearest, raise_if_any
from ..files import hash_text
from .config import DataConfig
from .index import sequences_of
from .manifest import Corpus, Manifest, Shard, SplitName, Tokenizer, read_manifest


@dataclass(frozen=True)
class Prepared:
    """Prepared folders that fit together.

    Attributes:
        folders: where they are.
        manifests: of each folder.
        weights: share of the training samples by corpus name, of any sum; empty where all documents are alike.
    """

    folders: tuple[Path, ...]
    manifests: tuple[Manifest, ...]
    weights: Mapping[str, float]

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that all folders were written with."""
        return self.manifests[0].tokenizer

    @property
    def where(self) -> str:
        """The folders, as text."""
        return ", ".join(map(str, self.folders))

    @property
    def corpora(self) -> list[tuple[Path, Manifest, Corpus]]:
        """Every corpus with its folder and manifest, in the order of folders and manifests."""
        return [
            (folder, manifest, corpus)
            for folder, manifest in zip(self.folders, self.manifests, strict=True)
            for corpus in manifest.corpora
        ]

    def tokens(self, split: SplitName) -> int:
        """Tokens in a split."""
        return sum(manifest.tokens(split) for manifest in self.manifests)

    def content_hash(self) -> str:
        """Changes with every shard, the tokenizer and the weights in manifests; of one folder it is its manifest's.

        Weights of the config are not in it: they are compared as fields of the config.
        """
        hashes = [manifest.content_hash() for manifest in self.manifests]
        return hashes[0] if len(hashes) == 1 else hash_text(" ".join(hashes))

    def unigram_entropy(self) -> float:
        """Nats a token of a model that knows how often each token occurs in each folder, and which folder it reads.

        Of one folder that is the manifest's; of several it is the mean over the training samples, by weight or tokens. The
        entropy of all of them mixed, which would take a pass over the tokens, is not below it: a model whose loss is lower
        has learned something by either.
        """
        shares = [self._share(manifest) for manifest in self.manifests]
        parts = zip(self.manifests, shares, strict=True)
        return sum(share * manifest.unigram_entropy for manifest, share in parts) / sum(shares)

    def _share(self, manifest: Manifest) -> float:
        if self.weights:
            return sum(self.weights[corpus.name] for corpus in manifest.corpora)
        return float(manifest.tokens("train"))

    def problems(self, sequence_length: int) -> Iterator[Problem]:
        """What of the data makes not even one sequence."""
        splits: tuple[SplitName, ...] = ("train", "validation")
        short = [(f"the {split} split of {self.where}", self.tokens(split)) for split in splits]
        short += [
            (f"the train split of the corpus {corpus.name!r}, which has a weight,", tokens_of(corpus.splits["train"]))
            for _, _, corpus in self.corpora
            if self.weights
        ]
        for where, tokens in short:
            if not sequences_of(tokens, sequence_length):
                why = f"{where} has only {tokens} tokens"
                yield Problem("train.sequence_length", str(sequence_length), why, "shorten it or prepare more text")


def tokens_of(shards: list[Shard]) -> int:
    """Tokens in all of them."""
    return sum(shard.tokens for shard in shards)


def read_prepared(data: DataConfig) -> Prepared:
    """Read and check the folders that a config names, and its weights.

    Raises:
        UserError: a folder is not as its manifest says, two do not fit together, or a weight has no corpus; all at once.
    """
    paths, problems = data.paths(), []
    manifests: dict[Path, Manifest] = {}
    for path in paths:
        try:
            manifests[path] = read_manifest(path)
        except UserError as error:
            problems += error.problems
    problems += _same_folder(paths)
    problems += _other_kind(manifests)
    problems += _same_corpus(manifests)
    weights: Mapping[str, float] = data.weights
    if not problems:
        weights = weights or {c.name: c.weight for m in manifests.values() for c in m.corpora if c.weight is not None}
        problems += _weights(weights, manifests, stated=not data.weights)
    raise_if_any(problems)
    return Prepared(tuple(manifests), tuple(manifests.values()), weights)


def _same_folder(paths: tuple[Path, ...]) -> Iterator[Problem]:
    seen: dict[Path, Path] = {}
    for path in paths:
        real = path.resolve()
        if real in seen:
            why = f"it is the same folder as {seen[real]} and would be trained on twice"
            yield Problem("data.path", str(path), why, "name it once; data.weights says how much of it to take")
        seen.setdefault(real, path)


def _other_kind(manifests: Mapping[Path, Manifest]) -> Iterator[Problem]:
    """Folders written with another tokenizer, or in another type, than the first."""
    (first, base), *others = manifests.items() if manifests else [(None, None)]
    for path, manifest in others:
        assert base is not None
        if manifest.tokenizer.hash != base.tokenizer.hash:
            why = f"its tokenizer is not that of {first}, so its numbers stand for other text"
            yield Problem("data.path", str(path), why, "prepare it with the same tokenizer")
        elif manifest.dtype != base.dtype:
            why = f"its tokens are {manifest.dtype}, those of {first} {base.dtype}"
            yield Problem("data.path", str(path), why, "prepare both in the same way")


def _same_corpus(manifests: Mapping[Path, Manifest]) -> Iterator[Problem]:
    names: dict[str, Path] = {}
    contents: dict[str, str] = {}
    for path, corpus in ((path, corpus) for path, manifest in manifests.items() for corpus in manifest.corpora):
        if corpus.name in names and names[corpus.name].resolve() != path.resolve():
            why = f"its corpus {corpus.name!r} has the name of one in {names[corpus.name]}"
            yield Problem("data.path", str(path), why, "give the corpora different names when they are prepared")
            continue
        names[corpus.name] = path
        shards = sorted(f"{shard.bin_hash} {shard.idx_hash}" for shards in corpus.splits.values() for shard in shards)
        other = contents.setdefault(" ".join(shards), corpus.name)
        if other != corpus.name:
            why = f"its corpus {corpus.name!r} holds the same documents as {other!r}, which would be trained on twice"
            yield Problem("data.path", str(path), why, "leave one of them out")


def _weights(weights: Mapping[str, float], manifests: Mapping[Path, Manifest], *, stated: bool) -> Iterator[Problem]:
    """Weights that name no corpus, corpora without weight; ``stated``: by the manifests."""
    if not weights:
        return
    corpora = {corpus.name: corpus for manifest in manifests.values() for corpus in manifest.corpora}
    for name in weights.keys() - corpora.keys():
        yield Problem(f"data.weights.{name}", repr(weights[name]), "there is no such corpus", nearest(name, corpora))
    if missing := [name for name in corpora if name not in weights]:
        lacking = f"{', '.join(missing)} {'has' if len(missing) == 1 else 'have'} none"
        why = f"the manifests give weights to {', '.join(weights)}, and {lacking}" if stated else lacking
        mend = "give every corpus a weight" + ("" if stated else ", or none")
        yield Problem("data.weights", "empty" if stated else repr(dict(weights)), why, mend)
    for name in sorted(weights.keys() & corpora.keys()):
        if not corpora[name].splits.get("train"):
            why = "the corpus has no documents for training"
            mend = "prepare it with more text, or leave its folder out"
            yield Problem(f"data.weights.{name}", repr(weights[name]), why, mend)
