"""The manifest of a prepared data folder: what the shards hold, so that whoever opens them can tell whether they still do.

A prepared folder holds ``manifest.json``, ``tokenizer.model`` or ``tokenizer.json``, a card of the tokenizer and, for every
shard, ``NAME.bin`` (token ids) and ``NAME.idx`` (document lengths) in Megatron's IndexedDataset format. The manifest is written
last. This module reads no token and imports no torch, so a wrong folder is refused before anything else starts.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..errors import Problem, UserError
from ..files import hash_file, hash_text, write_text
from ..printing import printable

MANIFEST = "manifest.json"

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")

_NAME = r"^[\w-][\w.-]*$"

#: Token files are hashed whenever a folder is opened, by every rank, at gigabytes a second, until this many bytes; of the rest
#: only sizes are checked, besides the indices' hashes and lengths. ``ibnorm data verify`` hashes everything.
_HASHED_BIN_SIZE = 1 << 30


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Shard(_Record):
    """One pair of files. Sizes in bytes, hashes XXH3."""

    name: str = Field(description="file name without .bin or .idx", pattern=_NAME)
    documents: int = Field(gt=0)
    tokens: int = Field(gt=0, description="end-of-document tokens included")
    text_bytes: int = Field(ge=0, description="of the documents as UTF-8")
    bin_size: int
    idx_size: int
    bin_hash: str
    idx_hash: str


class Tokenizer(_Record):
    """The tokenizer that wrote the ids. ``end_of_document`` ends every document."""

    kind: Literal["bpe", "unigram", "sentencepiece", "huggingface"] = Field(description="the first two were trained here")
    hash: str
    vocab_size: int = Field(gt=0)
    end_of_document: int = Field(ge=0)

    @property
    def file(self) -> str:
        """Its file in the folder."""
        return "tokenizer.json" if self.kind == "huggingface" else "tokenizer.model"


class Example(_Record):
    """A document that a rule dropped or changed: where it was, how it begins, and what the rule says of it."""

    where: str
    text: str
    why: str


class Dropped(_Record):
    """What one rule took out of a corpus."""

    rule: str
    documents: int
    text_bytes: int
    examples: list[Example] = Field(max_length=3)


class Corpus(_Record):
    """Documents that were read from one named source, and where those that were kept are now.

    ``read`` counts what the source held, before anything was dropped; ``replaced`` counts what was no text and
    became U+FFFD, on request; ``removed_lines`` were taken out of documents that were kept; ``source_hash`` is that of the
    source's files.
    """

    name: str = Field(pattern=_NAME)
    source: str
    source_hash: str
    weight: float | None = Field(None, gt=0, description="share of the samples; None: every document alike")
    documents_read: int
    text_bytes_read: int
    replaced: int = 0
    removed_lines: int = 0
    dropped: list[Dropped] = []
    splits: dict[SplitName, list[Shard]]

    @property
    def documents(self) -> int:
        """Documents in all splits."""
        return sum(shard.documents for shards in self.splits.values() for shard in shards)


class Manifest(_Record):
    """What a prepared folder holds.

    ``unigram_entropy`` is that of the training tokens, in nats a token: the loss of a model that knows nothing but how
    often each token occurs, so a model that learned anything is below it. ``held_out`` is the share of documents, by the hash
    of their text, that validation and test have. ``recipe_hash`` is that of everything that was asked for.
    """

    version: Literal[2] = 2
    dtype: Literal["uint16", "int32"]
    tokenizer: Tokenizer
    held_out: dict[SplitName, float]
    corpora: list[Corpus] = Field(min_length=1)
    unigram_entropy: float
    recipe_hash: str

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        shards = [shard.name for corpus in self.corpora for shards in corpus.splits.values() for shard in shards]
        if len(set(shards)) < len(shards):
            raise ValueError("the same shard is named twice")
        if len({corpus.name for corpus in self.corpora}) < len(self.corpora):
            raise ValueError("two corpora have the same name")
        if len({corpus.weight is None for corpus in self.corpora}) > 1:
            raise ValueError("some corpora have a weight and some have none")
        if self.tokenizer.end_of_document >= self.tokenizer.vocab_size:
            raise ValueError("tokenizer.end_of_document lies outside its vocabulary")
        for split in ("train", "validation"):
            if not self.tokens(split):  # type: ignore[arg-type]
                raise ValueError(f"the {split} split holds no document")
        return self

    def shards(self, split: SplitName) -> list[Shard]:
        """The shards of a split, of all corpora, in their order."""
        return [shard for corpus in self.corpora for shard in corpus.splits.get(split, [])]

    def tokens(self, split: SplitName) -> int:
        """Tokens in a split."""
        return sum(shard.tokens for shard in self.shards(split))

    def content_hash(self) -> str:
        """Changes with every shard, the tokenizer and the weights, and with nothing else: how run cards know the data."""
        corpora = {"__all__": {"name", "weight", "splits"}}
        return hash_text(self.model_dump_json(include={"dtype": True, "tokenizer": True, "corpora": corpora}))

    def write(self, folder: Path) -> None:
        """Write the manifest: the last step of preparing a folder."""
        write_text(folder / MANIFEST, self.model_dump_json(indent=2) + "\n")


def read_manifest(folder: Path) -> Manifest:
    """Read a prepared folder's manifest and check the files it names: all there, each of its size and hash.

    Hashes of token files are checked for the first GiB only.

    Raises:
        UserError: there is no manifest, it cannot be read, or a file is not what it says.
    """
    manifest = load_manifest(folder)
    problems = list(_check_files(folder, manifest))
    if problems:
        raise UserError(*problems)
    return manifest


def load_manifest(folder: Path) -> Manifest:
    """Read a prepared folder's manifest, and none of the files that it names.

    Raises:
        UserError: there is no manifest, or it cannot be read.
    """
    where = f"{MANIFEST} in data.path {folder}"
    prepare = f"run: ibnorm prepare SOURCE --out {folder} --vocab-size N"
    again = f"prepare the data again ({prepare})"
    try:
        text = (folder / MANIFEST).read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise UserError(
            Problem("data.path", str(folder), f"there is no prepared data there (no {MANIFEST})", prepare)
        ) from None
    except OSError as error:
        raise UserError(Problem(where, "not readable", str(error.strerror), "restore the file or " + again)) from None
    except UnicodeDecodeError as error:
        raise UserError(Problem(where, "not valid", f"byte {error.start} is not UTF-8", again)) from None
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["loc"] == ("version",) and first["type"] == "literal_error":
            why = "this program reads version 2"
            raise UserError(Problem(f"the version of {where}", repr(first["input"])[:20], why, again)) from None
        field = printable(".".join(map(str, first["loc"])) or "it")
        raise UserError(Problem(where, "not valid", f"{field}: {printable(first['msg'])}", again)) from None


def _check_files(folder: Path, manifest: Manifest) -> Iterator[Problem]:
    expected: list[tuple[str, int | None, str | None]] = [(manifest.tokenizer.file, None, manifest.tokenizer.hash)]
    to_hash = _HASHED_BIN_SIZE
    for shard in (shard for split in SPLITS for shard in manifest.shards(split)):
        to_hash -= shard.bin_size
        expected.append((f"{shard.name}.bin", shard.bin_size, shard.bin_hash if to_hash >= 0 else None))
        expected.append((f"{shard.name}.idx", shard.idx_size, shard.idx_hash))
    for name, size, wanted_hash in expected:
        if problem := check_file(folder / name, size, wanted_hash):
            yield problem


def check_file(path: Path, size: int | None, wanted_hash: str | None) -> Problem | None:
    """What is wrong with a file that a manifest names; ``None`` stands for what is not to be checked."""
    mend = "restore the file or prepare the data again into a new folder"
    try:
        if not path.is_file():
            return Problem(str(path), "missing", f"{MANIFEST} names it", mend)
        if size is not None and path.stat().st_size != size:
            return Problem(str(path), f"{path.stat().st_size} bytes", f"{MANIFEST} says {size}", mend)
        if wanted_hash is not None and hash_file(path) != wanted_hash:
            return Problem(str(path), "changed", f"its hash is not the one in {MANIFEST}", mend)
    except OSError as error:
        return Problem(str(path), "not readable", str(error.strerror), mend)
    return None
