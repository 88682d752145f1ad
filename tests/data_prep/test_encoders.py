"""Every encoder gives sentencepiece's ids, and ids that stand for exactly the bytes of the text."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as HuggingFace
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from data_prep import encoders
from data_prep.encoders import Encoder, WordCache, cut, has_letter_boundaries, keeps_text, load_encoder
from data_prep.recipe import TokenizerConfig
from data_prep.tokenizer import take_tokenizer, train_tokenizer
from ibnorm_megatron.data.manifest import Tokenizer
from ibnorm_megatron.data.tokenizer import SPACE, load_decoder, token_bytes
from ibnorm_megatron.errors import UserError

from ..conftest import prepare_folder

HOSTILE = [
    "\n\n\t \n",
    "  two  spaces ",
    "</s><s><unk>",
    "a</s>b<0x0A>",
    "\x00\x01",
    "\r\n",
    "\ufeffbom",
    "👩‍👩‍👧 é e\u0301 ﬁ",
    "x" * 5000,
    " " * 300 + "y",
    "日本語",
    "▁▂ bars ▁ ▁▁x",
    "camelCase_and123.numbers-4.5e-6",
]

texts = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.lists(st.sampled_from([*HOSTILE, " ", "def ", "self", "(", "\n    ", "\t", "1", SPACE, "é"]), max_size=20).map("".join),
)


@pytest.fixture(scope="module")
def documents(text_sources: list[str]) -> list[str]:
    return [file.read_text() for source in text_sources for file in sorted(Path(source).rglob("*.py"))]


@pytest.fixture(scope="module", params=["bpe", "unigram"])
def trained(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, documents: list[str]
) -> tuple[Path, Tokenizer]:
    folder = tmp_path_factory.mktemp(request.param)
    return folder, train_tokenizer(documents, folder, TokenizerConfig(kind=request.param, vocab_size=2000))


def _ids(encoder: Encoder, text: str) -> list[int]:
    return np.concatenate([np.zeros(0, np.int64), *encoder.runs(text)]).tolist()


def _reference(folder: Path) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


def test_ids_are_those_of_sentencepiece(trained: tuple[Path, Tokenizer], documents: list[str]) -> None:
    folder, record = trained
    encoder, reference = load_encoder(folder, record), _reference(folder)
    assert isinstance(encoder, WordCache) == (record.kind == "bpe")
    for text in [*documents, *(text for text in HOSTILE if SPACE not in text)]:
        assert _ids(encoder, text) == reference.encode(text)


@settings(max_examples=300, deadline=None)
@given(text=texts)
def test_any_text_comes_back(trained: tuple[Path, Tokenizer], text: str) -> None:
    folder, record = trained
    encoder, reference, sizes = load_encoder(folder, record), _reference(folder), token_bytes(folder, record)
    ids = _ids(encoder, text)
    assert reference.decode(ids) == text
    assert int(sizes[ids].sum()) == len(text.encode())
    assert not any(reference.is_control(i) or reference.is_unknown(i) for i in ids)
    if SPACE not in text:
        assert ids == reference.encode(text)


def test_a_giant_document_in_runs_is_the_same(
    trained: tuple[Path, Tokenizer], documents: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, record = trained
    indented = [line for line in documents[20].split("\n") if line.startswith(" ")]  # no line's end before text
    whole = "".join(documents[:20]) + "\n".join(indented * 5) + '"":[]{' * 2000
    expected = _reference(folder).encode(whole)
    for run in (100, 1000, 30_000):
        monkeypatch.setattr(encoders, "_RUN", run)
        pieces = list(cut(whole, encoders._OWN_CUTS))
        assert "".join(pieces) == whole and max(map(len, pieces)) <= run and len(pieces) > len(whole) // run
        if run < 1000:  # some have no line's end or space to be cut at
            continue
        ids = _ids(load_encoder(folder, record), whole)
        if record.kind == "bpe":
            assert ids == expected
        else:  # scores are added up in float32: where two ways are as good, the sum of all that came before decides
            assert _reference(folder).decode(ids) == whole
            assert abs(len(ids) - len(expected)) <= len(ids) / 1000
    monkeypatch.setattr(encoders, "_STRETCH", 10)
    solid = "x" * 99 + "é" * 99
    assert _reference(folder).decode(_ids(load_encoder(folder, record), solid)) == solid


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_where_spaces_are_rare_they_come_back(tmp_path: Path, kind: str) -> None:
    rows = [str(number * 7919 % 100_003) for number in range(20_000)]
    record = train_tokenizer([*rows, "two words"], tmp_path, TokenizerConfig(kind=kind, vocab_size=272))  # type: ignore[arg-type]
    encoder, reference = load_encoder(tmp_path, record), _reference(tmp_path)
    for text in ["two words", " ", "a  b ", "12 345"]:
        assert reference.decode(_ids(encoder, text)) == text


def test_a_vocabulary_that_reaches_across_is_seen(tmp_path: Path) -> None:
    """Pieces of letters and others together: units one by one would be other ids."""
    model = io.BytesIO()
    lines = ["don't won't can't x_1 y_2 a-b " * 5] * 50
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="bpe",
        vocab_size=330,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=False,
        split_by_unicode_script=False,
        user_defined_symbols=["\n", "\t"],
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (tmp_path / "m.model").write_bytes(model.getvalue())
    record = take_tokenizer(tmp_path, TokenizerConfig(file=str(tmp_path / "m.model")))
    reference = _reference(tmp_path)
    assert keeps_text(reference) and not has_letter_boundaries(reference)
    for text in [*lines[:2], "don't", *HOSTILE]:
        ids = _ids(load_encoder(tmp_path, record), text)
        assert reference.decode(ids) == text
        assert SPACE in text or ids == reference.encode(text)


@pytest.mark.parametrize("library", ["kitoken", "gigatoken"])
def test_a_faster_library_gives_the_same_ids(trained: tuple[Path, Tokenizer], documents: list[str], library: str) -> None:
    folder, record = trained
    if record.kind == "unigram":
        why = "only BPE" if library == "gigatoken" else "it gives other ids than sentencepiece"
        with pytest.raises(UserError, match=rf"recipe.tokenizer.encoder is '{library}'.*{why}.*; leave it out"):
            load_encoder(folder, record, library, documents)
        return
    encoder = load_encoder(folder, record, library, documents[:50])
    reference = _reference(folder)
    for text in [*documents, *(text for text in HOSTILE if SPACE not in text)]:
        assert _ids(encoder, text) == reference.encode(text)


@pytest.mark.parametrize("library", ["kitoken", "gigatoken"])
def test_a_faster_library_that_differs_is_refused(
    trained: tuple[Path, Tokenizer], documents: list[str], library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, record = trained
    reference = _reference(folder)

    def differs(path: Path) -> object:
        return lambda text: [reference.piece_to_id("\t")] * 2 if "import" in text else reference.encode(text)

    monkeypatch.setattr(encoders, f"_{library}", differs)
    with pytest.raises(UserError, match=rf"recipe.tokenizer.encoder is '{library}': it gives other ids than sentencepiece"):
        load_encoder(folder, record, library, documents[:5])


def test_a_lossy_model_is_taken_only_where_it_loses_nothing(tmp_path: Path, documents: list[str]) -> None:
    """sentencepiece's defaults merge spaces and drop newlines: the first document that would not come back is refused."""
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter("\n".join(documents).split("\n")),
        model_prefix=str(tmp_path / "lossy"),
        vocab_size=1000,
        model_type="bpe",
        minloglevel=2,
    )
    record = take_tokenizer(tmp_path, TokenizerConfig(file=str(tmp_path / "lossy.model")))
    assert record.kind == "sentencepiece" and not keeps_text(_reference(tmp_path))
    encoder = load_encoder(tmp_path, record)
    assert _ids(encoder, "import the module") == _reference(tmp_path).encode("import the module")
    with pytest.raises(
        UserError, match=r"a document is .*: the tokenizer reads character \d+ .*take a tokenizer that keeps text"
    ):
        _ids(encoder, documents[0])
    with pytest.raises(UserError, match=r"the document at byte 0 of .*\.py is "):
        prepare_folder(
            [str(Path(json.__file__).parent)], tmp_path / "out", 0, tokenizer={"file": str(tmp_path / "lossy.model")}
        )
    assert not (tmp_path / "out.partial").exists()


def _huggingface(path: Path, documents: list[str], end: str = "<|endoftext|>") -> HuggingFace:
    model = HuggingFace(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    special = [end] if end else []
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    model.train_from_iterator(
        documents, trainers.BpeTrainer(vocab_size=1500, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    )
    model.save(str(path))
    return model


def test_a_byte_level_tokenizer_of_hugging_face(tmp_path: Path, documents: list[str], text_sources: list[str]) -> None:
    model = _huggingface(tmp_path / "tokenizer.json", documents)
    manifest = prepare_folder(text_sources[:2], tmp_path / "out", 0, tokenizer={"file": str(tmp_path / "tokenizer.json")})
    assert manifest.tokenizer.kind == "huggingface" and manifest.tokenizer.file == "tokenizer.json"
    assert manifest.tokenizer.end_of_document == model.token_to_id("<|endoftext|>")
    encoder = load_encoder(tmp_path / "out", manifest.tokenizer)
    decode, sizes = load_decoder(tmp_path / "out", manifest.tokenizer), token_bytes(tmp_path / "out", manifest.tokenizer)
    for text in [*documents[:50], *HOSTILE, "literal <|endoftext|> in text"]:
        ids = _ids(encoder, text)
        assert decode(ids) == text and int(sizes[ids].sum()) == len(text.encode())
        assert manifest.tokenizer.end_of_document not in ids
        if "endoftext" not in text:
            assert ids == model.encode(text, add_special_tokens=False).ids


def test_a_token_of_text_ends_no_document(trained: tuple[Path, Tokenizer], tmp_path: Path) -> None:
    """Text would hold it, and one document would become several."""
    file = str(trained[0] / "tokenizer.model")
    assert take_tokenizer(tmp_path, TokenizerConfig(file=file, end_of_document="</s>")).end_of_document == 2
    for token in ("\n", "<0x41>", "<unk>", "a"):
        with pytest.raises(UserError, match=r"end_of_document is .*: it is no control token"):
            take_tokenizer(tmp_path, TokenizerConfig(file=file, end_of_document=token))


def test_runs_of_a_byte_level_tokenizer_are_the_whole(
    tmp_path: Path, documents: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three line ends are two and one; two are one and one, but behind the last text they are one token."""
    model = _huggingface(tmp_path / "tokenizer.json", ["def\n\n\nghi jkl" * 200])
    (tmp_path / "out").mkdir()
    record = take_tokenizer(tmp_path / "out", TokenizerConfig(file=str(tmp_path / "tokenizer.json")))
    assert model.token_to_id("\u010a\u010a") is not None
    text = "some text\n\nand more\nof it\n\n" * 100
    monkeypatch.setattr(encoders, "_RUN", 100)
    assert _ids(load_encoder(tmp_path / "out", record), text) == model.encode(text, add_special_tokens=False).ids


def test_tokenizers_that_cannot_be_taken(tmp_path: Path, documents: list[str]) -> None:
    path = tmp_path / "tokenizer.json"
    take = tmp_path / "take"
    take.mkdir()
    model = _huggingface(path, documents[:5], end="")
    for change, says in (
        (lambda: None, "end_of_document is missing: the tokenizer says of no token"),
        (lambda: setattr(model, "normalizer", normalizers.NFKC()), r"its normalizer \(NFKC\) changes the text"),
        (lambda: setattr(model, "decoder", decoders.WordPiece()), "not byte-level"),
    ):
        change()
        model.save(str(path))
        with pytest.raises(UserError, match=says):
            take_tokenizer(take, TokenizerConfig(file=str(path)))
    path.write_text("{")
    with pytest.raises(UserError, match="it cannot be read"):
        take_tokenizer(take, TokenizerConfig(file=str(path)))
    path.write_text(_huggingface(path, documents[:5]).to_str().replace('"special":true', '"special":false'))
    with pytest.raises(UserError, match=r"end_of_document is '<\|endoftext\|>': it is no control token"):
        take_tokenizer(take, TokenizerConfig(file=str(path)))
    (tmp_path / "x.model").write_bytes(b"no model")
    with pytest.raises(UserError, match="it cannot be read"):
        take_tokenizer(take, TokenizerConfig(file=str(tmp_path / "x.model")))
