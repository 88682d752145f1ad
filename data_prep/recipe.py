"""What ``ibnorm prepare`` is asked for: a recipe, from a YAML file or from the command line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ibnorm_megatron.errors import Problem, UserError, raise_if_any
from ibnorm_megatron.files import hash_text
from ibnorm_megatron.validation import problem_of
from ibnorm_megatron.yaml12 import parse_yaml

from .cleaning.config import CleaningConfig

PYTHON_STDLIB = "python-stdlib"
DEBIAN = "debian:"

#: Far above any tokenizer in use. Near the end of its integers sentencepiece's unigram trainer never returns.
LARGEST_VOCABULARY = 1_000_000

#: Pieces that exist before any is learned: unknown, begin and end of document, 256 bytes, newline, tab.
SMALLEST_VOCABULARY = 3 + 256 + 2


#: Bytes of a corpus's name. Files have it in their names, of 255 bytes at most, with up to 50 more.
_LONGEST_NAME = 200


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class SourceConfig(_Part):
    """One named corpus: files, or a data set that the ``datasets`` library streams."""

    path: str | None = Field(
        None,
        min_length=1,
        description="a file, a folder, a glob, python-stdlib, or debian:PACKAGE for an installed package's documentation",
    )
    dataset: str | None = Field(None, description="a name on the Hugging Face hub, or a folder, for datasets.load_dataset")
    config: str | None = Field(None, description="which configuration of the data set")
    split: str = Field("train", description="which split of the data set")
    revision: str | None = Field(None, description="which revision of the data set on the hub")
    name: str = Field("", pattern=r"^([\w-][\w.-]*)?$", description="of the corpus; made from the path if left out")
    weight: float | None = Field(None, gt=0, allow_inf_nan=False, description="share of the samples; none or all have one")
    text_field: str = Field("text", description="field of JSON lines, parquet rows and data sets that holds the text")
    documents: Literal["auto", "file", "line"] = Field(
        "auto", description="what of a text file is a document; auto: the file, long ones cut at blank lines"
    )
    separator: str | None = Field(None, min_length=1, description="text that stands between documents of a text file")

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.path is None) == (self.dataset is None):
            raise ValueError("a source has either a path or a dataset: give one of them")
        if self.path is not None and (self.config, self.split, self.revision) != (None, "train", None):
            raise ValueError(
                "config, split and revision are those of a dataset: take them out, or give dataset in place of path"
            )
        if self.separator is not None and self.documents != "auto":
            raise ValueError("separator and documents both say what a document is: take one of them out")
        if len(self.name.encode("utf-8")) > _LONGEST_NAME:
            raise ValueError(f"the name makes names of files that are too long: use at most {_LONGEST_NAME} bytes")
        return self

    @property
    def place(self) -> str:
        """The path, or the data set's name, as given."""
        return self.path or self.dataset or ""


class TokenizerConfig(_Part):
    """A sentencepiece tokenizer to train, or the file of one that exists."""

    kind: Literal["bpe", "unigram"] = "bpe"
    vocab_size: int | None = Field(None, description="entries; needed to train one")
    sentences: int = Field(200_000, gt=0, description="lines that the trainer samples at most")
    sample_bytes: int = Field(256 << 20, gt=0, description="text that these lines are sampled from, spread over the sources")
    file: str | None = Field(None, description="a sentencepiece .model or a Hugging Face tokenizer.json to take instead")
    end_of_document: str | None = Field(None, description="its token that ends a document; found by itself if it has one")
    encoder: Literal["sentencepiece", "kitoken", "gigatoken"] = Field(
        "sentencepiece", description="a faster encoder of the same model; its ids are checked against sentencepiece's"
    )

    @model_validator(mode="after")
    def _trained_or_given(self) -> Self:
        if self.file is None:
            if self.vocab_size is None:
                raise ValueError("there is neither vocab_size nor file: give vocab_size to train one, or the file of one")
            if self.vocab_size <= SMALLEST_VOCABULARY:
                taken = f"vocab_size is {self.vocab_size}, and {SMALLEST_VOCABULARY} entries are taken by bytes and symbols"
                raise ValueError(f"{taken}: use more than {SMALLEST_VOCABULARY}")
            if self.vocab_size > LARGEST_VOCABULARY:
                raise ValueError(f"vocab_size is {self.vocab_size}, and no text fills so many entries: use 32000, for example")
            if self.end_of_document is not None:
                raise ValueError("end_of_document is for a tokenizer that is given: take it out")
        elif self.vocab_size is not None:
            raise ValueError("a tokenizer that is given has its own vocab_size: take one of the two out")
        return self


class Recipe(_Part):
    """Everything that decides what a prepared folder holds."""

    sources: list[SourceConfig] = Field(min_length=1)
    tokenizer: TokenizerConfig
    cleaning: CleaningConfig = CleaningConfig.model_validate({})
    encoding_errors: Literal["strict", "replace"] = Field(
        "strict", description="bytes that are no text: stop at the first, or make them U+FFFD and count them"
    )
    validation_fraction: float = Field(0.05, gt=0, lt=1, description="share of documents held out for validation")
    test_fraction: float = Field(0.0, ge=0, lt=1, description="share of documents held out for a test")
    piece_bytes: int | None = Field(
        None, gt=0, description="of text that one worker encodes at a time; 64 MiB or more if left out"
    )

    @model_validator(mode="after")
    def _together(self) -> Self:
        if self.validation_fraction + self.test_fraction >= 1:
            raise ValueError("validation_fraction and test_fraction leave nothing to train on: lower one of them")
        if len({source.weight is None for source in self.sources}) > 1:
            raise ValueError("some sources have a weight and some have none: give every source a weight, or none")
        given = [source.name for source in self.sources if source.name]
        if twice := next((name for name in given if given.count(name) > 1), None):
            raise ValueError(f"two sources are named {twice}: give each a name of its own")
        return self

    def names(self) -> list[str]:
        """The corpora's names: as given, or made from the last part of the path, each once."""
        taken = {source.name for source in self.sources if source.name}
        names = []
        for source in self.sources:
            name = source.name or _unused(_slug(source.place), taken)
            taken.add(name)
            names.append(name)
        return names

    def hash(self) -> str:
        """Of everything but ``encoding_errors`` and ``encoder``, which change nothing that went through.

        So a preparation that stopped at a bad byte can go on under ``replace``.
        """
        return hash_text(self.model_dump_json(exclude={"encoding_errors": True, "tokenizer": {"encoder"}}))


def _slug(place: str) -> str:
    stem = place.rstrip("/").rsplit("/", 1)[-1]
    for _ in range(2):  # .jsonl.gz
        stem = re.sub(r"\.(gz|zst|txt|md|py|html?|jsonl|parquet)$", "", stem)
    return re.sub(r"[^\w.-]+", "-", stem, flags=re.ASCII).strip("-.")[: _LONGEST_NAME // 2] or "corpus"


def _unused(name: str, taken: set[str]) -> str:
    if name not in taken:
        return name
    number = 2
    while f"{name}-{number}" in taken:
        number += 1
    return f"{name}-{number}"


def read_recipe(path: Path) -> Recipe:
    """Read a recipe file; relative paths in it are relative to the working folder, like those of a command line.

    Raises:
        UserError: everything that is wrong with it, at once.
    """
    mend = "give the path of a YAML file; docs/data.md shows one"
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UserError(Problem("the recipe", str(path), f"it cannot be read ({why})", mend)) from None
    except ValueError as error:
        raise UserError(Problem("the recipe", str(path), f"it is not valid YAML: {error}", "mend it there")) from None
    if not isinstance(values, dict):
        raise UserError(Problem("the recipe", str(path), "it does not hold a mapping", mend))
    return make_recipe(values)


def make_recipe(values: dict[str, Any]) -> Recipe:
    """A recipe from plain values.

    Raises:
        UserError: everything that is wrong, at once.
    """
    raise_if_any(_no_text(values, "recipe"))
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        raise UserError(*dict.fromkeys(_problems(error))) from None
    raise_if_any(_libraries(recipe))
    return recipe


def _no_text(value: Any, where: str) -> Iterator[Problem]:
    """Strings that are no Unicode, such as a path of other bytes on the command line: the plan could not be written."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _no_text(inner, f"{where}.{key}")
    elif isinstance(value, str) and ("\0" in value or not is_unicode(value)):
        yield Problem(where, repr(value), "it is not Unicode text", "rename what it names, or write it in UTF-8")


def is_unicode(text: str) -> bool:
    """Whether a string can be written as UTF-8: file names of other bytes cannot."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _problems(error: ValidationError) -> Iterator[Problem]:
    for detail in error.errors(include_url=False):
        problem = problem_of(Recipe, "recipe", detail)
        yield Problem(problem.where, problem.value, problem.why, problem.mend.replace("to the config file or pass", "as"))


def _libraries(recipe: Recipe) -> Iterator[Problem]:
    """Optional libraries that the recipe needs and that are not there."""
    from importlib.util import find_spec

    encoder = recipe.tokenizer.encoder
    if encoder != "sentencepiece" and find_spec(encoder) is None:
        yield Problem("recipe.tokenizer.encoder", repr(encoder), "it is not installed", f"run: pip install {encoder}")
