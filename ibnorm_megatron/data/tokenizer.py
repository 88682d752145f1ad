"""Reading with the tokenizer of a prepared folder: how many bytes of text a token stands for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import sentencepiece

_SPACE = "\u2581"  # what sentencepiece writes for a space


def load_tokenizer(folder: Path) -> sentencepiece.SentencePieceProcessor:
    """The tokenizer of a prepared folder."""
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


def token_bytes(tokenizer: sentencepiece.SentencePieceProcessor) -> np.ndarray:
    """How many bytes of UTF-8 each token stands for; ``[vocab_size]`` int64. Control tokens stand for none.

    With a loss-free tokenizer the bytes of a document's tokens add up to the document's size, so that a loss a token
    becomes exact bits a byte.
    """
    sizes = np.zeros(tokenizer.vocab_size(), dtype=np.int64)
    for token in range(tokenizer.vocab_size()):
        if tokenizer.is_byte(token):
            sizes[token] = 1
        elif not tokenizer.is_control(token) and not tokenizer.is_unknown(token):
            sizes[token] = len(tokenizer.id_to_piece(token).replace(_SPACE, " ").encode("utf-8"))
    return sizes
