"""Prepared data: folders, manifests, shards, weights."""

from __future__ import annotations

from .mischief import copied, cut, file, flipped, linked, manifest, other_tokenizer, without
from .rows import Row

DATA: tuple[Row, ...] = (
    Row(
        "no folder",
        "ibnorm train tiny.yaml data.path=nowhere",
        (
            "data.path is nowhere: there is no prepared data there (no manifest.json); run: ibnorm prepare SOURCE --out nowhere --vocab-size N.",
        ),
    ),
    Row(
        "a file for a folder",
        "ibnorm train tiny.yaml data.path=tiny.yaml",
        (
            "data.path is tiny.yaml: there is no prepared data there (no manifest.json); run: ibnorm prepare SOURCE --out tiny.yaml --vocab-size N.",
        ),
    ),
    Row(
        "a folder of something else",
        "ibnorm train tiny.yaml data.path=.",
        (
            "data.path is .: there is no prepared data there (no manifest.json); run: ibnorm prepare SOURCE --out . --vocab-size N.",
        ),
    ),
    Row(
        "no paths",
        "ibnorm train tiny.yaml 'data.path=[]'",
        (
            "data.path is []: it is no folder's path and no list of them; write path: data/mine or path: [data/a, data/b].",
            "data.path is data/stdlib: there is no prepared data there (no manifest.json); run: ibnorm prepare SOURCE --out data/stdlib --vocab-size N.",
        ),
    ),
    Row(
        "a manifest that is cut off",
        "ibnorm train tiny.yaml",
        (
            "manifest.json in data.path data is not valid: it: Invalid JSON: EOF while parsing a string at <a place>; prepare the data again (run: ibnorm prepare SOURCE --out data --vocab-size N).",
        ),
        before=cut("data/manifest.json", 9),
    ),
    Row(
        "a manifest that is no text",
        "ibnorm train tiny.yaml",
        (
            "manifest.json in data.path data is not valid: byte 0 is not UTF-8; prepare the data again (run: ibnorm prepare SOURCE --out data --vocab-size N).",
        ),
        before=file("data/manifest.json", b"\xff"),
    ),
    Row(
        "a manifest of an earlier version",
        "ibnorm train tiny.yaml",
        (
            "the version of manifest.json in data.path data is 1: this program reads version 2; prepare the data again (run: ibnorm prepare SOURCE --out data --vocab-size N).",
        ),
        before=manifest(lambda m: m.update(version=1)),
    ),
    Row(
        "a manifest with an unknown field",
        "ibnorm train tiny.yaml",
        (
            "manifest.json in data.path data is not valid: vresion: Extra inputs are not permitted; prepare the data again (run: ibnorm prepare SOURCE --out data --vocab-size N).",
        ),
        before=manifest(lambda m: m.update(vresion=2)),
    ),
    Row(
        "a manifest with no number",
        "ibnorm train tiny.yaml",
        (
            "manifest.json in data.path data is not valid: unigram_entropy: Input should be a finite number; prepare the data again (run: ibnorm prepare SOURCE --out data --vocab-size N).",
        ),
        before=manifest(lambda m: m.update(unigram_entropy=float("nan"))),
    ),
    Row(
        "no documents for validation",
        "ibnorm train tiny.yaml",
        (
            "manifest.json in data.path data is not valid: it: Value error, the validation split holds no document; prepare the data again (run: ibnorm prepare SOURCE --out data --vocab-size N).",
        ),
        before=manifest(lambda m: [c["splits"].pop("validation", None) for c in m["corpora"]]),
    ),
    Row(
        "a shard named twice",
        "ibnorm train tiny.yaml",
        (
            "manifest.json in data.path data is not valid: it: Value error, the same shard is named twice; prepare the data again (run: ibnorm prepare SOURCE --out data --vocab-size N).",
        ),
        before=manifest(lambda m: m["corpora"][0]["splits"]["train"].append(m["corpora"][0]["splits"]["train"][0])),
    ),
    Row(
        "an end of documents outside the vocabulary",
        "ibnorm train tiny.yaml",
        (
            "manifest.json in data.path data is not valid: it: Value error, tokenizer.end_of_document lies outside its vocabulary; prepare the data again (run: ibnorm prepare SOURCE --out data --vocab-size N).",
        ),
        before=manifest(lambda m: m["tokenizer"].update(end_of_document=512)),
    ),
    Row(
        "a truncated shard",
        "ibnorm train tiny.yaml",
        (
            "data/asyncio-00000-train.bin is <a number> bytes: manifest.json says <a number>; restore the file or prepare the data again into a new folder.",
        ),
        before=cut("data/asyncio-00000-train.bin", 2),
    ),
    Row(
        "a truncated index",
        "ibnorm dry-run tiny.yaml",
        (
            "data/asyncio-00000-train.idx is <a number> bytes: manifest.json says <a number>; restore the file or prepare the data again into a new folder.",
        ),
        before=cut("data/asyncio-00000-train.idx", 8),
    ),
    Row(
        "one changed bit",
        "ibnorm train tiny.yaml",
        (
            "data/asyncio-00000-train.bin is changed: its hash is not the one in manifest.json; restore the file or prepare the data again into a new folder.",
        ),
        before=flipped("data/asyncio-00000-train.bin"),
    ),
    Row(
        "a missing shard",
        "ibnorm train tiny.yaml",
        (
            "data/json-00000-train.bin is missing: manifest.json names it; restore the file or prepare the data again into a new folder.",
        ),
        before=without("data/json-00000-train.bin"),
    ),
    Row(
        "a changed tokenizer",
        "ibnorm train tiny.yaml",
        (
            "data/tokenizer.model is changed: its hash is not the one in manifest.json; restore the file or prepare the data again into a new folder.",
        ),
        before=flipped("data/tokenizer.model"),
    ),
    Row(
        "a missing tokenizer",
        "ibnorm train tiny.yaml",
        (
            "data/tokenizer.model is missing: manifest.json names it; restore the file or prepare the data again into a new folder.",
        ),
        before=without("data/tokenizer.model"),
    ),
    Row(
        "shards of another type",
        "ibnorm train tiny.yaml",
        (
            "manifest.json in data.path data is not valid: dtype: Input should be 'uint16' or 'int32'; prepare the data again (run: ibnorm prepare SOURCE --out data --vocab-size N).",
        ),
        before=manifest(lambda m: m.update(dtype="int64")),
    ),
    Row(
        "a vocabulary larger than the model's",
        "ibnorm train tiny.yaml model.vocab_size=500",
        ("model.vocab_size is 500: the tokenizer of data has 512 entries; set model.vocab_size=512 or more.",),
    ),
    Row(
        "the same folder twice",
        "ibnorm train tiny.yaml 'data.path=[data, again]'",
        (
            "data.path is again: it is the same folder as data and would be trained on twice; name it once; data.weights says how much of it to take.",
        ),
        before=linked("again"),
    ),
    Row(
        "the same documents twice",
        "ibnorm train tiny.yaml 'data.path=[data, again]'",
        (
            "data.path is again: its corpus 'asyncio' has the name of one in data; give the corpora different names when they are prepared.",
        ),
        before=copied("again"),
    ),
    Row(
        "folders of two tokenizers",
        "ibnorm train tiny.yaml 'data.path=[data, other]'",
        (
            "data.path is other: its tokenizer is not that of data, so its numbers stand for other text; prepare it with the same tokenizer.",
            "data.path is other: its corpus 'other' holds the same documents as 'asyncio', which would be trained on twice; leave one of them out.",
        ),
        before=other_tokenizer,
    ),
    Row(
        "a weight of no corpus",
        "ibnorm train tiny.yaml 'data.weights={asincio: 1}'",
        (
            "data.weights.asincio is 1.0: there is no such corpus; did you mean 'asyncio'?",
            "data.weights is {'asincio': 1.0}: asyncio, email, importlib, json, logging, multiprocessing have none; give every corpus a weight, or none.",
        ),
    ),
    Row(
        "corpora without weight",
        "ibnorm train tiny.yaml 'data.weights={asyncio: 1}'",
        (
            "data.weights is {'asyncio': 1.0}: email, importlib, json, logging, multiprocessing have none; give every corpus a weight, or none.",
        ),
    ),
    Row(
        "a weight of nothing",
        "ibnorm train tiny.yaml 'data.weights={asyncio: 0}'",
        ("data.weights.asyncio is 0: input should be greater than 0; give it such a value.",),
    ),
    Row(
        "too little text",
        "ibnorm train tiny.yaml train.sequence_length=1000000 model.max_sequence_length=1000000",
        (
            "train.sequence_length is 1000000: the train split of data has only <a number> tokens; shorten it or prepare more text.",
            "train.sequence_length is 1000000: the validation split of data has only <a number> tokens; shorten it or prepare more text.",
        ),
    ),
)
