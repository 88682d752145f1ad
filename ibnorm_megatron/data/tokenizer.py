"""Reading with the tokenizer of a prepared folder: which bytes of text a token stands for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..errors import Problem, UserError
from .manifest import MANIFEST, Tokenizer

#: Entries above which a vocabulary can only be damaged: a list of as many as its last number says would fill the memory.
_MOST_ENTRIES = 1 << 24

#: What sentencepiece writes for a space.
SPACE = "\u2581"


def token_bytes(folder: Path, tokenizer: Tokenizer) -> np.ndarray:
    """How many bytes of UTF-8 each token stands for; ``[vocab_size]`` int64. Control tokens stand for none.

    With a tokenizer that keeps text as it is the bytes of a document's tokens add up to the document's size, so that a loss a
    token becomes exact bits a byte.

    Raises:
        UserError: the file is no tokenizer whose tokens stand for bytes, or has another vocabulary than the manifest says.
    """
    path, mend = str(folder / tokenizer.file), "restore the file or prepare the data again into a new folder"
    try:
        texts = token_texts(folder, tokenizer)
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # both libraries raise bare Exceptions, and Rust's panics are not even that
        why = " ".join(str(error).split()).rstrip(".")[:200] or type(error).__name__
        raise UserError(Problem(path, "no tokenizer", why, mend)) from None
    if len(texts) != tokenizer.vocab_size:
        why = f"{MANIFEST} says {tokenizer.vocab_size:,}"
        raise UserError(Problem(f"the vocabulary of {path}", f"{len(texts):,} entries", why, mend))
    return np.array([len(text) for text in texts], dtype=np.int64)


def token_texts(folder: Path, tokenizer: Tokenizer) -> list[bytes]:
    """The UTF-8 that each token stands for, at its id. Control tokens stand for none, and some tokens for part of a character.

    With a tokenizer that keeps text as it is a document is what its tokens stand for, one after the other.

    Raises:
        ValueError: which bytes a token of this tokenizer stands for cannot be told.
    """
    path = str(folder / tokenizer.file)
    return _huggingface_texts(path) if tokenizer.kind == "huggingface" else _sentencepiece_texts(path)


def load_decoder(folder: Path, tokenizer: Tokenizer) -> Callable[[list[int]], str]:
    """The text that ids stand for."""
    path = str(folder / tokenizer.file)
    if tokenizer.kind == "huggingface":
        from tokenizers import Tokenizer as HuggingFace

        model = HuggingFace.from_file(path)
        return lambda ids: model.decode(ids, skip_special_tokens=True)
    import sentencepiece

    return sentencepiece.SentencePieceProcessor(model_file=path).decode


def _sentencepiece_texts(path: str) -> list[bytes]:
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(model_file=path)
    texts = [b""] * model.vocab_size()
    for token in range(model.vocab_size()):
        if model.is_byte(token):
            texts[token] = bytes([int(model.id_to_piece(token)[3:5], 16)])  # <0xE9>
        elif not model.is_control(token) and not model.is_unknown(token):
            texts[token] = model.id_to_piece(token).replace(SPACE, " ").encode("utf-8")
    return texts


def _huggingface_texts(path: str) -> list[bytes]:
    """Of a byte-level tokenizer: every character of a token is one byte of text; special tokens are none.

    Raises:
        ValueError: it is of another kind.
    """
    from tokenizers import Tokenizer as HuggingFace

    model = HuggingFace.from_file(path)
    if not is_byte_level(model):
        raise ValueError("it is not a byte-level tokenizer, so which bytes a token stands for cannot be told")
    vocabulary, byte_of = model.get_vocab(with_added_tokens=True), _byte_level_alphabet()
    last = max(vocabulary.values(), default=-1)
    if last >= _MOST_ENTRIES:
        raise ValueError(f"its last token is number {last:,}, and no vocabulary is so large")
    texts = [b""] * (last + 1)
    for token, number in vocabulary.items():
        known = all(character in byte_of for character in token)
        texts[number] = bytes(byte_of[character] for character in token) if known else token.encode("utf-8")
    for number, added in model.get_added_tokens_decoder().items():
        texts[number] = b"" if added.special else added.content.encode("utf-8")
    return texts


def _byte_level_alphabet() -> dict[str, int]:
    """What GPT-2's tokenizer writes for a byte: its Latin-1 character if that can be seen, or else one from U+0100 on."""
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in set(seen)]
    return {chr(byte): byte for byte in seen} | {chr(0x100 + i): byte for i, byte in enumerate(hidden)}


def is_byte_level(model: object) -> bool:
    """Whether a ``tokenizers.Tokenizer`` decodes every token to bytes by itself."""
    return type(model.decoder).__name__ == "ByteLevel"  # type: ignore[attr-defined]
