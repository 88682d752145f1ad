"""The manifest of a prepared data folder: what the shards hold, so that whoever opens them can tell whether they still do.

A prepared folder holds ``manifest.json``, ``tokenizer.model`` and, for every shard, ``NAME.bin`` (token ids) and
``NAME.idx`` (document lengths) in Megatron's IndexedDataset format. The manifest is written last. This module reads no
token and imports no torch, so a wrong folder is refused before anything else starts.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..errors import Problem, UserError
from ..files import hash_file, hash_text, write_text

MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.model"

SplitName = Literal["train", "validation"]

#: Token files up to this size are hashed whenever a folder is opened: every rank does it, at gigabytes a second. Of larger
#: ones only the size is checked, besides the index's hash and lengths.
_HASHED_BIN_SIZE = 1 << 30


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Shard(_Record):
    """One pair of files. Sizes in bytes, hashes XXH3."""

    name: str = Field(description="file name without .bin or .idx", pattern=r"^[\w.-]+$")
    documents: int = Field(gt=0)
    tokens: int = Field(gt=0, description="end-of-document tokens included")
    text_bytes: int = Field(ge=0, description="of the documents as UTF-8")
    bin_size: int
    idx_size: int
    bin_hash: str
    idx_hash: str


class Tokenizer(_Record):
    """The tokenizer that wrote the ids. ``end_of_document`` ends every document."""

    kind: Literal["bpe", "unigram"]
    hash: str
    vocab_size: int = Field(gt=0)
    end_of_document: int = Field(ge=0)


class Source(_Record):
    """Something that documents were read from."""

    name: str
    documents: int
    text_bytes: int


#: A list, so that there can be several one day; none and several cannot be trained on.
_OneShard = Annotated[list[Shard], Field(min_length=1, max_length=1)]


class Manifest(_Record):
    """What a prepared folder holds.

    ``unigram_entropy`` is that of the training tokens, in nats a token: the loss of a model that knows nothing but how
    often each token occurs, so a model that learned anything is below it.
    """

    version: Literal[1] = 1
    dtype: Literal["uint16", "int32"]
    tokenizer: Tokenizer
    splits: dict[SplitName, _OneShard] = Field(min_length=2)  # both of them
    sources: list[Source]
    unigram_entropy: float

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [shard.name for shards in self.splits.values() for shard in shards]
        if len(set(names)) < len(names):
            raise ValueError("two splits name the same shard")
        if self.tokenizer.end_of_document >= self.tokenizer.vocab_size:
            raise ValueError("tokenizer.end_of_document lies outside its vocabulary")
        return self

    def tokens(self, split: SplitName) -> int:
        """Tokens in a split."""
        return sum(shard.tokens for shard in self.splits[split])

    def content_hash(self) -> str:
        """Changes whenever a shard or the tokenizer does, and with nothing else: what caches and run cards know the data by."""
        return hash_text(self.model_dump_json(include={"dtype", "tokenizer", "splits"}))

    def write(self, folder: Path) -> None:
        """Write the manifest: the last step of preparing a folder."""
        write_text(folder / MANIFEST, self.model_dump_json(indent=2) + "\n")


def read_manifest(folder: Path) -> Manifest:
    """Read a prepared folder's manifest and check the files it names: all there, each of its size and hash.

    The hash of a token file above 1 GiB is not checked.

    Raises:
        UserError: there is no manifest, it cannot be read, or a file is not what it says.
    """
    where = f"data.path {folder}"
    prepare = f"run: ibnorm prepare SOURCE --out {folder} --vocab-size N"
    try:
        text = (folder / MANIFEST).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise UserError(
            Problem("data.path", str(folder), f"there is no prepared data there (no {MANIFEST})", prepare)
        ) from None
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"])) or "it"
        raise UserError(
            Problem(f"{MANIFEST} in {where}", "not valid", f"{field}: {first['msg']}", f"prepare the data again ({prepare})")
        ) from None
    problems = list(_check_files(folder, manifest))
    if problems:
        raise UserError(*problems)
    return manifest


def _check_files(folder: Path, manifest: Manifest) -> Iterator[Problem]:
    expected: list[tuple[str, int | None, str | None]] = [(TOKENIZER, None, manifest.tokenizer.hash)]
    for (shard,) in manifest.splits.values():
        bin_hash = shard.bin_hash if shard.bin_size <= _HASHED_BIN_SIZE else None
        expected += [(f"{shard.name}.bin", shard.bin_size, bin_hash), (f"{shard.name}.idx", shard.idx_size, shard.idx_hash)]
    for name, size, wanted_hash in expected:
        path, mend = folder / name, "restore the file or prepare the data again into a new folder"
        try:
            if not path.is_file():
                yield Problem(str(path), "missing", f"{MANIFEST} names it", mend)
            elif size is not None and path.stat().st_size != size:
                yield Problem(str(path), f"{path.stat().st_size} bytes", f"{MANIFEST} says {size}", mend)
            elif wanted_hash is not None and hash_file(path) != wanted_hash:
                yield Problem(str(path), "changed", f"its hash is not the one in {MANIFEST}", mend)
        except OSError as error:
            yield Problem(str(path), "not readable", str(error.strerror), mend)
