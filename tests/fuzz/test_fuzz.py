"""A sample of what ``python -m tests.fuzz`` runs, always the same one; and what that has found, one test each."""

from __future__ import annotations

import json
import string
import time
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from ibnorm_megatron.config import load_config, parse_config
from ibnorm_megatron.data.manifest import MANIFEST, Tokenizer, load_manifest
from ibnorm_megatron.data.tokenizer import token_bytes
from ibnorm_megatron.errors import UserError
from ibnorm_megatron.yaml12 import parse_yaml

from ..distributed import ROOT
from .guard import Hangs, limits
from .targets import Target, check_sentences, huggingface_model, make_folder, make_targets, sentencepiece_model

TINY = ROOT / "configs" / "tiny_llama.yaml"

NAMES = ["config, values", "config, text", "recipe", "manifest, values", "manifest, text", "shard, .idx", "shard, .bin"]
NAMES += ["tokenizer.model", "tokenizer.json, values", "tokenizer.json, text"]


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Target]:
    found = make_targets(tmp_path_factory.mktemp("fuzz"))
    assert list(found) == NAMES
    return found


@pytest.mark.parametrize("name", NAMES)
def test_hostile_input_gives_a_value_or_a_sentence(name: str, targets: dict[str, Target]) -> None:
    told = {True: 0, False: 0}

    @settings(
        max_examples=60 * targets[name].share,
        derandomize=True,
        database=None,
        deadline=None,  # the guard has a limit of its own, which a busy machine does not reach
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(targets[name].cases)
    def one(case: object) -> None:
        told[targets[name].check(case)] += 1

    one()
    assert told[True], "no input was accepted, so nothing was said of what is"
    assert told[False] > told[True] / 4, "hardly any input was wrong"


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("shard")])
def test_right_shards_are_accepted(name: str, targets: dict[str, Target], tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "data")
    (path,) = folder.glob(f"a-train-0{name.removeprefix('shard, ')}")
    assert targets[name].check(path.read_bytes())


def test_the_guard_ends_what_hangs_and_what_takes_memory() -> None:
    with pytest.raises(Hangs), limits(seconds=0.1):
        time.sleep(60)
    with pytest.raises(MemoryError), limits(size=1 << 28):
        bytearray(1 << 30)


def test_aliases_of_aliases_are_not_written_out(tmp_path: Path) -> None:
    """Nine lines stood for 9^8 values, and the sentence that refused them would have shown all."""
    names = string.ascii_lowercase[:9]
    lines = ["a: &a [1, 2, 3, 4, 5, 6, 7, 8, 9]"]
    lines += [f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in pairwise(names)]
    path = tmp_path / "config.yaml"
    path.write_text(TINY.read_text() + "\n" + "\n".join(lines))
    with limits(seconds=5):
        config, (problem,) = parse_config(path)
    assert config is None
    assert "its aliases stand for more than 1,000,000 values" in str(problem)
    merged = [
        "a: &a {x: 1}",
        *(f"{b}: &{b} {{<<: [*{a}, *{a}, *{a}, *{a}]}}" for a, b in zip("abcdefghijk", "bcdefghijkl", strict=True)),
    ]
    with pytest.raises(ValueError, match="its aliases stand for"), limits(seconds=5):
        parse_yaml("\n".join(merged))


def test_a_value_that_holds_itself_is_refused() -> None:
    for text in ("a: &a [*a]", "&a {b: {c: *a}}"):
        with pytest.raises(ValueError, match="it holds itself"):
            parse_yaml(text)
    assert parse_yaml("a: &a [1]\nb: [*a, *a]") == {"a": [1], "b": [[1], [1]]}


@pytest.mark.parametrize("name", ["''", '" "', "null"])
def test_a_part_without_a_name_is_named(name: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"{TINY.read_text()}\n{name}: 3\n")
    _, problems = parse_config(path)
    check_sentences(problems)
    assert len(problems) == 1


def test_a_plugin_without_a_name_is_named() -> None:
    with pytest.raises(UserError, match="plugins is '': there is no such Python file") as refused:
        load_config(TINY, ["plugins=['']"])
    check_sentences(refused.value.problems)


@pytest.mark.parametrize("number", ["NaN", "Infinity"])
def test_a_manifest_has_finite_numbers(number: str, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "data")
    for key in ('"unigram_entropy": 3.0', '"weight": 1.0'):
        right = (folder / MANIFEST).read_text()
        assert key in right
        (folder / MANIFEST).write_text(right.replace(key, f"{key.split(':')[0]}: {number}"))
        with pytest.raises(UserError, match=r"not valid: .*(finite|valid JSON)"):
            load_manifest(folder)
        (folder / MANIFEST).write_text(right)


def test_a_file_that_is_no_tokenizer_is_named(tmp_path: Path) -> None:
    """The libraries raise bare RuntimeErrors and Exceptions."""
    for kind, name in (("bpe", "tokenizer.model"), ("huggingface", "tokenizer.json")):
        (tmp_path / name).write_bytes(b"{}")
        record = Tokenizer(kind=kind, hash="", vocab_size=300, end_of_document=0)  # type: ignore[arg-type]
        with pytest.raises(UserError, match=rf"{name} is no tokenizer: .*; restore the file") as refused:
            token_bytes(tmp_path, record)
        check_sentences(refused.value.problems)


def test_a_token_far_outside_any_vocabulary_takes_no_memory(tmp_path: Path) -> None:
    model = json.loads(huggingface_model(300))
    model["added_tokens"].append({**model["added_tokens"][0], "id": 2**32 - 1, "content": "<|far|>"})
    model["model"]["vocab"]["<|far|>"] = 2**32 - 1
    (tmp_path / "tokenizer.json").write_text(json.dumps(model))
    record = Tokenizer(kind="huggingface", hash="", vocab_size=300, end_of_document=0)
    with pytest.raises(UserError, match="its last token is number 4,294,967,295"), limits():
        token_bytes(tmp_path, record)


def test_a_tokenizer_of_another_vocabulary_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_model())
    record = Tokenizer(kind="bpe", hash="", vocab_size=401, end_of_document=2)
    with pytest.raises(UserError, match=r"the vocabulary of .* is 400 entries: manifest.json says 401"):
        token_bytes(tmp_path, record)
    assert token_bytes(tmp_path, record.model_copy(update={"vocab_size": 400})).shape == (400,)
