"""Training a sentencepiece tokenizer that loses nothing, and saying so when a document would be lost."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import sentencepiece

from ibnorm_megatron.data.manifest import Tokenizer
from ibnorm_megatron.errors import Problem, UserError
from ibnorm_megatron.files import hash_file, sync_file

TokenizerKind = Literal["bpe", "unigram"]

#: Longest piece of text handed to the trainer, in characters; it ignores what is longer than its limit in bytes.
_LONGEST = 1024

#: Of the trainer's sample of lines: the same text gives the same tokenizer.
_SEED = 1

#: Far above any tokenizer in use. Near the end of its integers the unigram trainer never returns.
LARGEST_VOCABULARY = 1_000_000

#: Pieces that exist before any is learned: unknown, begin and end of document, 256 bytes, newline, tab.
SMALLEST_VOCABULARY = 3 + 256 + 2


def train_tokenizer(documents: Iterable[str], folder: Path, kind: TokenizerKind, vocab_size: int, sentences: int) -> Tokenizer:
    """Train on ``documents`` and write ``tokenizer.model`` into ``folder``.

    sentencepiece's defaults normalize Unicode, merge spaces, add one in front and drop rare characters. Here the text is
    taken as it is: identity normalization, every space kept, unknown characters as bytes, newline and tab as symbols.

    Args:
        sentences: how many lines the trainer samples at most.

    Raises:
        UserError: the vocabulary is too small for the bytes and characters it must hold, or larger than the text gives.
            What ``documents`` raises comes through as it is.
    """
    if vocab_size <= SMALLEST_VOCABULARY:
        why = f"{SMALLEST_VOCABULARY} entries are taken by bytes and symbols"
        raise UserError(Problem("--vocab-size", str(vocab_size), why, f"use more than {SMALLEST_VOCABULARY}"))
    if vocab_size > LARGEST_VOCABULARY:
        raise UserError(Problem("--vocab-size", str(vocab_size), "no text fills so many entries", "use 32000, for example"))
    path, model = folder / "tokenizer.model", io.BytesIO()
    failures: list[BaseException] = []
    sentencepiece.set_random_generator_seed(_SEED)
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_remembering(failures, _lines(documents)),
            model_writer=model,  # a model_prefix would be kept in the model, and its hash would depend on the path
            model_type=kind,
            vocab_size=vocab_size,
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            allow_whitespace_only_pieces=True,
            split_digits=True,
            user_defined_symbols=["\n", "\t"],
            unk_id=0,
            bos_id=1,
            eos_id=2,
            pad_id=-1,
            input_sentence_size=sentences,
            shuffle_input_sentence=True,
            num_threads=2,
            minloglevel=2,
        )
    except (RuntimeError, OSError, ValueError) as error:
        if failures:
            raise failures[0] from None
        why = " ".join(str(error).split()).rpartition("] ")[2].rstrip(".") or "sentencepiece could not train it"
        raise UserError(Problem("--vocab-size", str(vocab_size), why, "change --vocab-size or give more text")) from None
    path.write_bytes(model.getvalue())
    sync_file(path)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
    return Tokenizer(kind=kind, hash=hash_file(path), vocab_size=processor.vocab_size(), end_of_document=processor.eos_id())


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


def encode(processor: sentencepiece.SentencePieceProcessor, documents: list[str], origin: str) -> list[list[int]]:
    """Ids of every document, without the end-of-document token, checked to decode to the same text.

    Raises:
        UserError: a document that the tokenizer cannot represent; U+2581 is one such character, which sentencepiece
            uses for the space.
    """
    encoded = processor.encode(documents)
    for text, decoded in zip(documents, processor.decode(encoded), strict=True):
        if decoded != text:
            at = next((i for i, (a, b) in enumerate(zip(text, decoded, strict=False)) if a != b), min(len(text), len(decoded)))
            shown = text[max(0, at - 20) : at + 20]
            why = f"the tokenizer reads character {at} ({text[at : at + 1]!r}) as {decoded[at : at + 1]!r}"
            raise UserError(
                Problem(f"a document of {origin}", repr(shown), why, "replace the character or leave the document out")
            )
    return encoded
