"""From text to ids: sentencepiece's own, faster ways to the same ids, and Hugging Face's tokenizers.

An :class:`Encoder` gives the ids of a document in runs, so that a giant document never needs more memory than one run. Ids of
one document in several runs are those of the whole: runs end where no entry of the vocabulary reaches across. (A unigram
model's may differ where two ways to cut a word are equally good: sentencepiece adds scores up in float32, over all that came
before.) What an encoder gives stands for exactly the bytes of the document; if it would not, the document is refused.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import sentencepiece

from ibnorm_megatron.data.manifest import Tokenizer
from ibnorm_megatron.data.tokenizer import SPACE, token_bytes, token_texts
from ibnorm_megatron.errors import Problem, UserError

#: Characters of a run at most, about; and of a stretch without a place where it can end.
_RUN, _STRETCH = 1 << 20, 1 << 17

#: Characters of a document that has to be encoded as a whole: sentencepiece takes a gigabyte for 16 million.
_WHOLE = 1 << 24

#: Units that are remembered: at most so many, none longer than this. About 150 MB.
_REMEMBERED, _UNIT = 1 << 20, 48

#: One document in so many is decoded again, where the encoder itself does not check every unit.
_SAMPLE = 64


class Encoder(Protocol):
    """Turns documents into ids, without the end-of-document token."""

    def runs(self, text: str) -> Iterator[np.ndarray]:
        """Ids of a document, in runs of int32 or uint16.

        Raises:
            UserError: the tokenizer cannot represent the document.
        """
        ...


def load_encoder(folder: Path, tokenizer: Tokenizer, wanted: str = "sentencepiece", sample: Sequence[str] = ()) -> Encoder:
    """The encoder of a folder's tokenizer.

    Args:
        folder: with the tokenizer's file.
        tokenizer: its description.
        wanted: ``sentencepiece``, or a faster library: ``kitoken`` or ``gigatoken``.
        sample: documents on which a faster library is compared with sentencepiece before it is trusted.

    Raises:
        UserError: the faster library cannot take the model, or gives other ids.
    """
    path = folder / tokenizer.file
    if tokenizer.kind == "huggingface":
        return _Checked(_huggingface(path), token_bytes(folder, tokenizer), cuts=_OTHER_CUTS)
    reference = sentencepiece.SentencePieceProcessor(model_file=str(path))
    sizes = token_bytes(folder, tokenizer)
    if not keeps_text(reference):
        return _Checked(lambda text: np.array(reference.encode(text), dtype=np.int32), sizes, reference.decode, whole=True)
    if wanted != "sentencepiece":
        return _compared(wanted, path, reference, sizes, sample)
    if has_letter_boundaries(reference):
        return WordCache(reference, token_texts(folder, tokenizer))
    plain = _with_spaces_as_bytes(reference, lambda text: reference.encode(text))
    return _Checked(plain, sizes, reference.decode, cuts=_OWN_CUTS)


def keeps_text(processor: sentencepiece.SentencePieceProcessor) -> bool:
    """Whether a model takes text as it is: nothing normalized, added or merged, newline and tab as symbols, byte fallback.

    Such a model's ids of a text are those of its parts, if it is cut where no piece reaches across.
    """
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(processor.serialized_model_proto())
    normalizer, trainer = model.normalizer_spec, model.trainer_spec
    symbols = all(processor.piece_to_id(symbol) != processor.unk_id() for symbol in ("\n", "\t"))
    plain = not (normalizer.precompiled_charsmap or normalizer.add_dummy_prefix or normalizer.remove_extra_whitespaces)
    return bool(plain and symbols and trainer.byte_fallback and not trainer.treat_whitespace_as_suffix)


def has_letter_boundaries(processor: sentencepiece.SentencePieceProcessor) -> bool:
    """Whether no merge of a BPE model goes across a word's begin, or across a change between ASCII letters and others.

    Then the ids of a text are those of its units (:data:`_UNITS`), one after the other: byte-pair encoding joins neighbours
    to pieces of the vocabulary only, so what no piece reaches across is never joined, whatever stands around it.
    """
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(processor.serialized_model_proto())
    across = re.compile(rf"[A-Za-z][^A-Za-z]|[^A-Za-z{SPACE}\n\t][A-Za-z]|[^{SPACE}]{SPACE}|.[\n\t]|[\n\t].", re.DOTALL)
    piece_type = sentencepiece_model_pb2.ModelProto.SentencePiece
    special = {piece_type.CONTROL, piece_type.UNKNOWN, piece_type.BYTE}
    bpe = model.trainer_spec.model_type == sentencepiece_model_pb2.TrainerSpec.BPE
    return bpe and not any(across.search(piece.piece) for piece in model.pieces if piece.type not in special)


#: White space and the letters, or the other characters, behind it.
_UNITS = re.compile(r"[ \n\t]*(?:[A-Za-z]+|[^ \n\tA-Za-z]+)|[ \n\t]+")


class WordCache:
    """sentencepiece's ids of a BPE model with letter boundaries, each unit encoded once and remembered.

    Every unit is turned back into text when it is encoded first, so every document is known to come back. A unit of more than
    2^17 characters is cut: its ids are then those of its parts.

    Args:
        processor: the model.
        texts: the bytes that each token stands for.
    """

    def __init__(self, processor: sentencepiece.SentencePieceProcessor, texts: Sequence[bytes]) -> None:
        self._processor, self._texts, self._bytes = processor, texts, _byte_ids(processor)
        wide = processor.vocab_size() > 1 << 16
        self._code, self._dtype = ("i", np.dtype(np.int32)) if wide else ("H", np.dtype(np.uint16))
        self._known: dict[str, bytes] = {}

    def runs(self, text: str) -> Iterator[np.ndarray]:
        """As :class:`Encoder` says."""
        known = self._known
        for run in cut(text, _LETTER_CUTS):
            units = _UNITS.findall(run)
            new = set(units).difference(known)
            self._learn(new)
            yield np.frombuffer(b"".join([known[unit] for unit in units]), dtype=self._dtype)
            if len(known) > _REMEMBERED:
                known.clear()  # what is frequent is back soon
            else:
                for unit in new:
                    if len(unit) > _UNIT:
                        del known[unit]

    def _learn(self, units: set[str]) -> None:
        plain = [unit for unit in units if SPACE not in unit and len(unit) <= _STRETCH]
        encoded = dict(zip(plain, self._processor.encode(plain), strict=True))
        for unit in units.difference(plain):
            parts = (unit[begin : begin + _STRETCH] for begin in range(0, len(unit), _STRETCH))
            encoded[unit] = [i for part in parts for i in _encode_with_space_sign(self._processor, self._bytes, part)]
        texts = self._texts
        for unit, ids in encoded.items():
            if b"".join([texts[i] for i in ids]) != unit.encode("utf-8"):
                raise _cannot(unit, self._processor.decode(ids))
            self._known[unit] = array(self._code, ids).tobytes()


class _Checked:
    """Ids by any encoder of whole texts. The bytes that the ids stand for are counted, and a sample is decoded again."""

    def __init__(
        self,
        encode: Callable[[str], np.ndarray],
        sizes: np.ndarray,
        decode: Callable[[list[int]], str] | None = None,
        *,
        whole: bool = False,
        cuts: Sequence[re.Pattern[str]] = (),
    ) -> None:
        self._encode, self._sizes, self._decode, self._whole, self._cuts = encode, sizes, decode, whole, cuts
        self._seen = 0

    def runs(self, text: str) -> Iterator[np.ndarray]:
        """As :class:`Encoder` says."""
        self._seen += 1
        if self._whole and len(text) > _WHOLE:
            why = "this tokenizer changes text where it begins, so a long document cannot be encoded in runs"
            raise UserError(Problem("a document", f"{len(text)} characters long", why, "cut it, or take another tokenizer"))
        for run in [text] if self._whole else cut(text, self._cuts):
            ids = self._encode(run)
            counted = int(self._sizes[ids].sum()) == len(run.encode("utf-8"))
            if self._decode and (not counted or self._seen <= _SAMPLE or self._seen % _SAMPLE == 0):
                decoded = self._decode(ids.tolist())
                if decoded != run:
                    raise _cannot(run, decoded)
            elif not counted:
                raise _cannot(run, None)
            yield ids


#: Where a text may be cut, the better place first: of models that keep text, behind a line's end or before white space, since
#: newline and tab are symbols and a space only begins a piece; of others behind a single line's end, or before a space, with
#: text on both sides. No entry of a byte-level vocabulary reaches across these. (Of several line ends GPT-2's and its like take
#: the last by itself, but not where the text stops behind them.)
_OWN_CUTS = (re.compile(r"\n"), re.compile(r"[^ \n\t](?=[ \n\t])"))
_OTHER_CUTS = (re.compile(r"(?<=\S)\n(?=\S)"), re.compile(r"\S(?= \S)"))

#: Of models with letter boundaries there is one more.
_LETTER_CUTS = (*_OWN_CUTS, re.compile(r"[A-Za-z](?=[^A-Za-z])"))


def cut(text: str, places: Sequence[re.Pattern[str]]) -> Iterator[str]:
    """A long text in runs, each of which ends behind a match of the first of ``places`` that has one near enough."""
    begin = 0
    while len(text) - begin > _RUN:
        low, high = begin + _RUN // 2, begin + _RUN
        ends = (match.end() for place in places for match in place.finditer(text, low, high))
        end = next(ends, high)
        yield text[begin:end]
        begin = end
    if begin < len(text):
        yield text[begin:] if begin else text


def _byte_ids(processor: sentencepiece.SentencePieceProcessor) -> list[int]:
    """The ids of the bytes of U+2581. sentencepiece writes a space as this character and so reads it as one."""
    return [processor.piece_to_id(f"<0x{byte:02X}>") for byte in SPACE.encode("utf-8")]


def _encode_with_space_sign(processor: sentencepiece.SentencePieceProcessor, as_bytes: list[int], text: str) -> list[int]:
    if SPACE not in text:
        return processor.encode(text)
    first, *others = (processor.encode(part) for part in text.split(SPACE))
    return first + [i for part in others for i in (*as_bytes, *part)]


def _with_spaces_as_bytes(
    processor: sentencepiece.SentencePieceProcessor, encode: Callable[[str], Sequence[int] | np.ndarray]
) -> Callable[[str], np.ndarray]:
    as_bytes = _byte_ids(processor)

    def both(text: str) -> np.ndarray:
        ids = _encode_with_space_sign(processor, as_bytes, text) if SPACE in text else encode(text)
        return np.asarray(ids, dtype=np.int32)

    return both


def _compared(
    library: str, path: Path, reference: sentencepiece.SentencePieceProcessor, sizes: np.ndarray, sample: Sequence[str]
) -> Encoder:
    """A faster library's encoder, once its ids of a sample are those of sentencepiece.

    Text that spells a control token goes to sentencepiece, always: to the other two it is that token.
    """
    try:
        fast = _kitoken(path) if library == "kitoken" else _gigatoken(path)
    except Exception as error:  # each raises what it likes
        why = " ".join(str(error).split()).rstrip(".")
        raise UserError(Problem("recipe.tokenizer.encoder", repr(library), why, "leave it out")) from None
    control = [reference.id_to_piece(i) for i in range(reference.vocab_size()) if _is_special(reference, i)]
    literal = re.compile("|".join(map(re.escape, control)))
    encode = _with_spaces_as_bytes(reference, lambda text: reference.encode(text) if literal.search(text) else fast(text))
    hostile = [
        "",
        " ",
        "a\r\n\tb  c",
        "e\u0301\u00e9\ufb01\u200d",
        "\u65e5\u672c 12345",
        "\x00\x01",
        "x" * 300,
        " " * 300,
        *control,
    ]
    for text in [*sample, *hostile]:
        ids = encode(text).tolist()
        if ids != (wanted := _encode_with_space_sign(reference, _byte_ids(reference), text)):
            at = next((i for i, (a, b) in enumerate(zip(ids, wanted, strict=False)) if a != b), min(len(ids), len(wanted)))
            pieces = "".join(reference.id_to_piece(i) for i in wanted[max(0, at - 5) : at + 5])
            why = f"it gives other ids than sentencepiece, near {pieces!r} of a sample of the corpus"
            raise UserError(Problem("recipe.tokenizer.encoder", repr(library), why, "leave it out"))
    return _Checked(encode, sizes, reference.decode, cuts=_OWN_CUTS)


def _is_special(processor: sentencepiece.SentencePieceProcessor, token: int) -> bool:
    return bool(processor.is_control(token) or processor.is_unknown(token) or processor.is_byte(token))


def _kitoken(path: Path) -> Callable[[str], Sequence[int]]:
    from kitoken import Kitoken

    model = Kitoken.from_sentencepiece_file(str(path))
    return lambda text: model.encode(text, False)


def _gigatoken(path: Path) -> Callable[[str], np.ndarray]:
    import gigatoken

    model = gigatoken.Tokenizer(str(path))
    return lambda text: np.asarray(model.encode(text), dtype=np.int32)


def _huggingface(path: Path) -> Callable[[str], np.ndarray]:
    from tokenizers import Tokenizer as HuggingFace

    model = HuggingFace.from_file(str(path))
    model.encode_special_tokens = True  # text that spells a special token stays text
    model.no_truncation()
    model.no_padding()
    return lambda text: np.array(model.encode(text, add_special_tokens=False).ids, dtype=np.int32)


def _cannot(text: str, decoded: str | None) -> UserError:
    if decoded is None:
        why = "the ids stand for more or fewer bytes than the text has"
        return UserError(Problem("a document", repr(text[:40]), why, "take a tokenizer that keeps text as it is"))
    at = next((i for i, (a, b) in enumerate(zip(text, decoded, strict=False)) if a != b), min(len(text), len(decoded)))
    why = f"the tokenizer reads character {at} ({text[at : at + 1]!r}) as {decoded[at : at + 1]!r}"
    mend = "take a tokenizer that keeps text as it is, or replace the character"
    return UserError(Problem("a document", repr(text[max(0, at - 20) : at + 20]), why, mend))
