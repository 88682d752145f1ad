"""What is fuzzed: for every reader, how its input goes wrong and what must hold of whatever comes out.

It gives a value or a UserError whose sentences are one line each and name a place, a reason and a mend. Any other exception, a
hang or a large allocation is a fault. What is accepted says the same when it is written and read again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from hypothesis import strategies as st

from data_prep.recipe import read_recipe
from data_prep.shard_checks import Reading, ShardCheck
from data_prep.splits import Splits
from ibnorm_megatron.config import load_config, parse_config
from ibnorm_megatron.data.config import DataConfig
from ibnorm_megatron.data.manifest import MANIFEST, Manifest, Tokenizer, read_manifest
from ibnorm_megatron.data.prepared import read_prepared
from ibnorm_megatron.data.shards import open_shard
from ibnorm_megatron.data.tokenizer import token_bytes
from ibnorm_megatron.errors import Problem, UserError
from ibnorm_megatron.printing import printable
from ibnorm_megatron.train.traffic import step_messages
from ibnorm_megatron.yaml12 import parse_yaml

from ..data.making import documents, make
from ..distributed import ROOT
from .guard import limits
from .mutations import edited_bytes, edited_values


@dataclass(frozen=True)
class Target:
    """A reader under fuzz.

    Attributes:
        cases: inputs.
        check: runs one input; True if it was accepted, False if it was refused in sentences; anything else is a fault.
        share: of all cases of a long run; those are rarer that take long.
    """

    cases: st.SearchStrategy[Any]
    check: Callable[[Any], bool]
    share: int = 1


def check_sentences(problems: Iterable[Problem]) -> None:
    """Every problem names where, what, why and how to mend it, in one printable line."""
    for problem in problems:
        sentence = str(problem)
        assert printable(sentence) == sentence, sentence
        for part in (problem.where, problem.value, problem.why, problem.mend):
            assert part.strip(), f"a part of the sentence is empty: {sentence}"
        assert sentence.endswith((".", "?")), sentence
        assert "Traceback" not in sentence, sentence


@contextmanager
def _refusals() -> Iterator[list[bool]]:
    """Within limits of time and memory; the list is empty where a UserError came out, with good sentences."""
    accepted = [True]
    try:
        with limits():
            yield accepted
    except UserError as error:
        check_sentences(error.problems)
        accepted.clear()


_FULL = {
    "norm": {"default": "rmsnorm", "final": "layernorm", "layers.0-1.attn_in": {"kind": "ibnorm_tanh", "lambda": 2.0}},
    "deepspeed": {"wall_clock_breakdown": True, "zero_optimization": {"overlap_comm": False}},
    "weights": {"a": 1.0, "b": 2.5},
}


def _config_values() -> list[Any]:
    shipped = [parse_yaml(path.read_text()) for path in sorted((ROOT / "configs").glob("*.yaml"))]
    full = load_config(ROOT / "configs" / "tiny_llama.yaml").to_dict()
    full["model"]["norm"], full["parallel"]["deepspeed"], full["data"]["weights"] = _FULL.values()
    return [full, full, *json.loads(json.dumps(shipped))]


_YAML_WORDS = [
    b": ",
    b"\n  ",
    b"- ",
    b"[",
    b"]",
    b"{",
    b"}",
    b"&a ",
    b"*a ",
    b"<<: *a\n",
    b"!!int ",
    b"!!python/name:os ",
    b"|\n",
]
_YAML_WORDS += [
    b"---\n",
    b"...\n",
    b"#",
    b"'",
    b'"',
    b"\t",
    b"? ",
    b"\xef\xbb\xbf",
    b"%YAML 1.1\n",
    b".nan",
    b"1e999",
    b"~",
    b">",
]

_FIELDS = [f"{room}.{field}" for room, value in _config_values()[0].items() if isinstance(value, dict) for field in value]


@st.composite
def _overrides(draw: st.DrawFn) -> list[str]:
    text = st.text(max_size=8) | st.sampled_from(["1", "-1", "x", "[", "{a: 1}", "null", ".nan", "1e9", "true", "ibnorm_log"])
    field = st.sampled_from(_FIELDS) | st.sampled_from(["plugins", "model.norm.lambda", "train", "a..b", ".", "--train.steps"])
    one = st.builds(
        lambda name, equals, value: f"{name}{equals}{value}", field | text, st.sampled_from(["=", "=", "="]) | text, text
    )
    return draw(st.lists(one, max_size=3))


def _dump(value: Any) -> bytes:
    return yaml.dump(value, Dumper=yaml.CSafeDumper, sort_keys=False, allow_unicode=True).encode("utf-8")


def _aliases(right: bytes) -> bytes:
    """A config with many aliases of aliases, which is small only as long as nobody writes them out."""
    letters = "abcdefgh"
    lines = ["a: &a {x: 1}", *(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in pairwise(letters))]
    return right + "\n".join(lines).encode() + b"\n"


def config_target(folder: Path, *, text: bool) -> Target:
    """The config loader: values of real configs edited, or the text of the files."""
    path, again = folder / "config.yaml", folder / "again.yaml"
    values = _config_values()
    if text:
        right = [_dump(values[0]), *map(_dump, values[2:6]), _aliases(_dump(values[0]))]
        files: st.SearchStrategy[bytes] = edited_bytes(right, _YAML_WORDS)
    else:
        files = edited_values(values).map(_dump)
    worlds = st.sampled_from([None, 0, 1, 2, 4, 8])

    def check(case: tuple[bytes, list[str], int | None]) -> bool:
        data, overrides, world = case
        path.write_bytes(data)
        with _refusals() as accepted:
            config, problems = parse_config(path, overrides, world_size=world)
            check_sentences(problems)
            if problems or config is None:
                return False
            written = config.to_yaml()
            again.write_text(written, encoding="utf-8")
            assert load_config(again, world_size=world).to_yaml() == written
            assert all(count >= 0 for count in config.model.num_params().values())
            if config.model.num_layers * config.parallel.pipeline <= 1 << 12:  # every stage is looked at, and every layer
                step_messages(config, config.parallel.model_parallel)
        return bool(accepted)

    return Target(st.tuples(files, st.just([]) | _overrides(), worlds), check, share=3 if text else 2)


def make_folder(folder: Path) -> Path:
    """A small prepared folder of two corpora."""
    parts = [documents(12, seed=seed) for seed in range(3)]
    corpora = {"a": {"train": parts[:1], "validation": [parts[1]]}, "b": {"train": [parts[2]]}}
    return make(folder, corpora, weights={"a": 1.0, "b": 0.5})


def manifest_target(folder: Path, *, text: bool) -> Target:
    """The reader of manifests, and what a run does with one."""
    data = make_folder(folder / "manifest")
    right = (data / MANIFEST).read_bytes()
    words = [
        b"null",
        b"NaN",
        b"Infinity",
        b"-1",
        b"1e999",
        b'"\\u0000"',
        b'"\\ud800"',
        b"[",
        b"{",
        b",",
        b'"',
        b"99999999999999999999",
    ]
    files = edited_bytes([right], words) if text else edited_values([json.loads(right)]).map(lambda v: json.dumps(v).encode())

    def check(case: bytes) -> bool:
        (data / MANIFEST).write_bytes(case)
        with _refusals() as accepted:
            manifest = read_manifest(data)
            assert Manifest.model_validate_json(manifest.model_dump_json()) == manifest
            prepared = read_prepared(DataConfig(path=str(data)))
            check_sentences(prepared.problems(8))
            assert prepared.content_hash()
            prepared.unigram_entropy()
        return bool(accepted)

    return Target(files, check, share=3)


def shard_target(folder: Path, suffix: str) -> Target:
    """The readers of shards: the one that a run opens them with, and the one of ``ibnorm data verify``."""
    data = make_folder(folder / suffix.removeprefix("."))
    manifest = read_manifest(data)
    shard = manifest.shards("train")[0]
    path = data / f"{shard.name}{suffix}"
    end, vocabulary = manifest.tokenizer.end_of_document, manifest.tokenizer.vocab_size
    reading = Reading(manifest.dtype, vocabulary, end, [b"x"] * vocabulary, Splits(0.1, 0.1), full=True)
    right = path.read_bytes()

    def check(case: bytes) -> bool:
        path.write_bytes(case)
        with _refusals() as accepted:
            seen = ShardCheck(data, shard, "train", reading, lambda size: None)
            seen.run()
            check_sentences(seen.findings)
            assert seen.findings or case == right
            opened = open_shard(data, shard, manifest)
            assert all(opened[number].size <= shard.tokens for number in range(len(opened)))
        return bool(accepted)

    header = [b"MMIDIDX\0\0", (1).to_bytes(8, "little"), (12).to_bytes(8, "little"), (2**62).to_bytes(8, "little")]
    return Target(edited_bytes([right], header), check, share=3)


def tokenizer_target(folder: Path, kind: str, right: bytes, vocabulary: int, *, text: bool = True) -> Target:
    """The reader of a tokenizer's file, in the hands of whoever believes its hash."""
    record = Tokenizer(kind=kind, hash="", vocab_size=vocabulary, end_of_document=0)  # type: ignore[arg-type]
    path = folder / record.file
    files = edited_bytes([right]) if text else edited_values([json.loads(right)]).map(lambda v: json.dumps(v).encode())

    def check(case: bytes) -> bool:
        path.write_bytes(case)
        with _refusals() as accepted:
            sizes = token_bytes(folder, record)
            assert sizes.shape == (vocabulary,)
            assert sizes.dtype == np.int64
            assert (sizes >= 0).all()
        return bool(accepted)

    return Target(files, check)


def recipe_target(folder: Path) -> Target:
    """The reader of recipes of ``ibnorm prepare``."""
    path = folder / "recipe.yaml"
    source = {"path": "x", "name": "a", "weight": 1.0, "text_field": "text", "documents": "auto"}
    cleaning = {"exact_duplicates": True, "near_duplicates": {"threshold": 0.8}, "gopher": {}, "c4": {}}
    full = {"sources": [source], "tokenizer": {"vocab_size": 400}, "cleaning": cleaning, "validation_fraction": 0.1}
    files = edited_values([full]).map(_dump) | edited_bytes([_dump(full)], _YAML_WORDS)

    def check(case: bytes) -> bool:
        path.write_bytes(case)
        with _refusals() as accepted:
            recipe = read_recipe(path)
            path.write_bytes(_dump(recipe.model_dump(mode="json")))
            assert read_recipe(path) == recipe
            assert len(set(recipe.names())) == len(recipe.sources)
        return bool(accepted)

    return Target(files, check, share=2)


def sentencepiece_model() -> bytes:
    """A small trained model."""
    import io

    import sentencepiece

    text, model = (ROOT / "docs" / "architecture.md").read_text().splitlines(), io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text), model_writer=model, vocab_size=400, byte_fallback=True, minloglevel=2
    )
    return model.getvalue()


def huggingface_model(vocabulary: int) -> bytes:
    """A small trained byte-level tokenizer."""
    from tokenizers import Tokenizer as HuggingFace
    from tokenizers import decoders, models, pre_tokenizers, trainers

    model = HuggingFace(models.BPE())
    model.pre_tokenizer, model.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    model.train([str(ROOT / "docs" / "architecture.md")], trainer)
    return model.to_str().encode("utf-8")


def make_targets(folder: Path) -> dict[str, Target]:
    """Every target by name, working in ``folder``."""
    huggingface = huggingface_model(300)
    return {
        "config, values": config_target(folder, text=False),
        "config, text": config_target(folder, text=True),
        "recipe": recipe_target(folder),
        "manifest, values": manifest_target(folder / "values", text=False),
        "manifest, text": manifest_target(folder / "text", text=True),
        "shard, .idx": shard_target(folder, ".idx"),
        "shard, .bin": shard_target(folder, ".bin"),
        "tokenizer.model": tokenizer_target(folder, "bpe", sentencepiece_model(), 400),
        "tokenizer.json, values": tokenizer_target(folder, "huggingface", huggingface, 300, text=False),
        "tokenizer.json, text": tokenizer_target(folder, "huggingface", huggingface, 300),
    }
