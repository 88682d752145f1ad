"""Tokenizers that lose nothing: training one by sentencepiece, or taking one that exists."""

from __future__ import annotations

import io
import math
import os
import random
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import sentencepiece

from ibnorm_megatron.data.manifest import Tokenizer
from ibnorm_megatron.data.tokenizer import SPACE, is_byte_level
from ibnorm_megatron.errors import Problem, UserError
from ibnorm_megatron.files import hash_file, replacing

from .recipe import TokenizerConfig

#: Longest piece of text handed to the trainer, in characters; it ignores what is longer than its limit in bytes.
_LONGEST = 1024

#: Of the trainer's sample of lines: the same text gives the same tokenizer.
_SEED = 1

#: What tokenizers of this kind call the token that ends a document, the first of them that there is.
_ENDS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "[SEP]")


def train_tokenizer(documents: Iterable[str], folder: Path, config: TokenizerConfig) -> Tokenizer:
    """Train on ``documents`` and write ``tokenizer.model`` into ``folder``, in one step.

    sentencepiece's defaults normalize Unicode, merge spaces, add one in front and drop rare characters. Here the text is
    taken as it is: identity normalization, every space kept, unknown characters as bytes, newline and tab as symbols.

    Raises:
        UserError: the vocabulary is too small for the bytes and characters it must hold, or larger than the text gives.
            What ``documents`` raises comes through as it is.
    """
    model = io.BytesIO()
    failures: list[BaseException] = []
    try:
        sentencepiece.SentencePieceTrainer.train(
            # Its own sampling draws other lines every time, whatever the seed.
            sentence_iterator=_remembering(failures, _sampled(_lines(documents), config.sentences)),
            model_writer=model,  # a model_prefix would be kept in the model, and its hash would depend on the path
            model_type=config.kind,
            vocab_size=config.vocab_size,
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            allow_whitespace_only_pieces=True,
            split_digits=True,
            user_defined_symbols=["\n", "\t"],
            required_chars=SPACE,  # where spaces are rare it would be left out, and its bytes stand for another character
            unk_id=0,
            bos_id=1,
            eos_id=2,
            pad_id=-1,
            input_sentence_size=0,
            shuffle_input_sentence=False,
            num_threads=2,
            minloglevel=2,
        )
    except (RuntimeError, OSError, ValueError) as error:
        if failures:
            raise failures[0] from None
        why = " ".join(str(error).split()).rpartition("] ")[2].rstrip(".") or "sentencepiece could not train it"
        raise UserError(Problem("--vocab-size", str(config.vocab_size), why, "change --vocab-size or give more text")) from None
    with replacing(folder / "tokenizer.model") as file:
        file.write(model.getvalue())
    return _describe_sentencepiece(folder / "tokenizer.model", config.kind, None)


def take_tokenizer(folder: Path, config: TokenizerConfig) -> Tokenizer:
    """Copy the tokenizer that a recipe names into ``folder``.

    Raises:
        UserError: it cannot be read, is of no known kind, or has no token that ends a document.
    """
    assert config.file is not None
    source = Path(os.path.expanduser(config.file))
    kind = {".model": "sentencepiece", ".json": "huggingface"}.get(source.suffix)
    where = "recipe.tokenizer.file"
    if kind is None:
        raise UserError(Problem(where, config.file, "its kind is told by its suffix", "give a .model or a tokenizer.json"))
    target = folder / ("tokenizer.model" if kind == "sentencepiece" else "tokenizer.json")
    try:
        with open(source, "rb") as file, replacing(target) as copy:
            shutil.copyfileobj(file, copy)
        if kind == "sentencepiece":
            return _describe_sentencepiece(target, kind, config.end_of_document)
        return _describe_huggingface(target, config.end_of_document)
    except UserError:
        raise
    except Exception as error:  # tokenizers raises bare Exceptions
        why = getattr(error, "strerror", None) or " ".join(str(error).split()).rstrip(".")[:200]
        raise UserError(Problem(where, config.file, f"it cannot be read ({why})", "give the file of a tokenizer")) from None


def _describe_sentencepiece(path: Path, kind: str, end: str | None) -> Tokenizer:
    model = sentencepiece.SentencePieceProcessor(model_file=str(path))
    number = model.eos_id()
    if end is not None:
        number = model.piece_to_id(end)
        if model.id_to_piece(number) != end:
            number = -1
    if number < 0:
        raise _no_end(end)
    if not model.is_control(number):
        raise _in_text(model.id_to_piece(number))
    return Tokenizer(kind=kind, hash=hash_file(path), vocab_size=model.vocab_size(), end_of_document=number)  # type: ignore[arg-type]


def _describe_huggingface(path: Path, end: str | None) -> Tokenizer:
    from tokenizers import Tokenizer as HuggingFace

    model = HuggingFace.from_file(str(path))
    if not is_byte_level(model):
        why = "it is not byte-level, so it does not keep every text as it is"
        raise UserError(
            Problem("recipe.tokenizer.file", str(path), why, "take a byte-level tokenizer or a sentencepiece model")
        )
    if model.normalizer is not None:
        why = f"its normalizer ({type(model.normalizer).__name__}) changes the text"
        raise UserError(Problem("recipe.tokenizer.file", str(path), why, "take a tokenizer without one"))
    names = [end] if end is not None else [name for name in _ENDS if model.token_to_id(name) is not None]
    number = model.token_to_id(names[0]) if names else None
    if number is None:
        raise _no_end(end)
    if not ((added := model.get_added_tokens_decoder().get(number)) and added.special):
        raise _in_text(names[0])
    vocabulary = max(model.get_vocab(with_added_tokens=True).values()) + 1
    return Tokenizer(kind="huggingface", hash=hash_file(path), vocab_size=vocabulary, end_of_document=number)


def _in_text(token: str) -> UserError:
    why = "it is no control token, so that text itself may hold it and documents would end where they do not"
    return UserError(Problem("recipe.tokenizer.end_of_document", repr(token), why, "name one that is, or mark it as special"))


def _no_end(end: str | None) -> UserError:
    found = "missing" if end is None else repr(end)
    why = "the tokenizer has no such token" if end else "the tokenizer says of no token that it ends a document"
    return UserError(Problem("recipe.tokenizer.end_of_document", found, why, "name one of its tokens"))


def _sampled(lines: Iterable[str], most: int) -> Iterator[str]:
    """At most so many lines, each as likely as any other and always the same ones (Li 1994, algorithm L)."""
    drawing = random.Random(_SEED)  # noqa: S311 - nothing is secret here
    kept: list[str] = []
    log_w, skip = 0.0, 0
    for line in lines:
        if len(kept) < most:
            kept.append(line)
            if len(kept) < most:
                continue
        elif skip:
            skip -= 1
            continue
        else:
            kept[drawing.randrange(most)] = line
        log_w += math.log(1.0 - drawing.random()) / most
        skip = int(math.log(1.0 - drawing.random()) / math.log1p(-math.exp(log_w)))
    yield from kept


def _remembering(failures: list[BaseException], lines: Iterator[str]) -> Iterator[str]:
    """The lines. sentencepiece turns what they raise into a RuntimeError of its own, so keep it, signals included."""
    try:
        yield from lines
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        failures.append(error)
        raise


def _lines(documents: Iterable[str]) -> Iterator[str]:
    for document in documents:
        for line in document.split("\n"):
            for start in range(0, len(line), _LONGEST):
                yield line[start : start + _LONGEST]
