"""Reading with the tokenizer of a prepared folder: which bytes of text a token stands for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from .manifest import Tokenizer

#: What sentencepiece writes for a space.
SPACE = "\u2581"


def token_bytes(folder: Path, tokenizer: Tokenizer) -> np.ndarray:
    """How many bytes of UTF-8 each token stands for; ``[vocab_size]`` int64. Control tokens stand for none.

    With a tokenizer that keeps text as it is the bytes of a document's tokens add up to the document's size, so that a loss a
    token becomes exact bits a byte.
    """
    path = str(folder / tokenizer.file)
    return _huggingface_bytes(path) if tokenizer.kind == "huggingface" else _sentencepiece_bytes(path)


def load_decoder(folder: Path, tokenizer: Tokenizer) -> Callable[[list[int]], str]:
    """The text that ids stand for."""
    path = str(folder / tokenizer.file)
    if tokenizer.kind == "huggingface":
        from tokenizers import Tokenizer as HuggingFace

        model = HuggingFace.from_file(path)
        return lambda ids: model.decode(ids, skip_special_tokens=True)
    import sentencepiece

    return sentencepiece.SentencePieceProcessor(model_file=path).decode


def _sentencepiece_bytes(path: str) -> np.ndarray:
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(model_file=path)
    sizes = np.zeros(model.vocab_size(), dtype=np.int64)
    for token in range(model.vocab_size()):
        if model.is_byte(token):
            sizes[token] = 1
        elif not model.is_control(token) and not model.is_unknown(token):
            sizes[token] = len(model.id_to_piece(token).replace(SPACE, " ").encode("utf-8"))
    return sizes


def _huggingface_bytes(path: str) -> np.ndarray:
    """Of a byte-level tokenizer: every character of a token is one byte of text; special tokens are none.

    Raises:
        ValueError: it is of another kind.
    """
    from tokenizers import Tokenizer as HuggingFace

    model = HuggingFace.from_file(path)
    if not is_byte_level(model):
        raise ValueError("it is not a byte-level tokenizer, so which bytes a token stands for cannot be told")
    vocabulary = model.get_vocab(with_added_tokens=True)
    sizes = np.zeros(max(vocabulary.values()) + 1, dtype=np.int64)
    for token, number in vocabulary.items():
        sizes[number] = len(token)
    for number, added in model.get_added_tokens_decoder().items():
        sizes[number] = 0 if added.special else len(added.content.encode("utf-8"))
    return sizes


def is_byte_level(model: object) -> bool:
    """Whether a ``tokenizers.Tokenizer`` decodes every token to bytes by itself."""
    return type(model.decoder).__name__ == "ByteLevel"  # type: ignore[attr-defined]
