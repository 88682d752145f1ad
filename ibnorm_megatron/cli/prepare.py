"""``ibnorm prepare``: text to tokenized shards."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "turn text into a tokenizer and tokenized shards"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "sources", nargs="+", metavar="SOURCE", help="python-stdlib, or a file or folder of .txt, .jsonl, .parquet, .md or .py"
    )
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder to make; must not exist")
    parser.add_argument("--vocab-size", required=True, type=int, metavar="N", help="entries of the tokenizer")
    parser.add_argument("--tokenizer", choices=["bpe", "unigram"], default="bpe", help="kind of sentencepiece model")
    parser.add_argument("--text-field", default="text", metavar="NAME", help="field of JSON and parquet that holds the text")
    parser.add_argument(
        "--validation-fraction", type=float, default=0.05, metavar="X", help="share of documents held out (default 0.05)"
    )


def execute(arguments: argparse.Namespace) -> None:
    from ..quiet import quiet

    quiet()
    from data_prep.prepare import Options, prepare

    manifest = prepare(
        Options(
            sources=tuple(arguments.sources),
            out=arguments.out,
            vocab_size=arguments.vocab_size,
            tokenizer=arguments.tokenizer,
            text_field=arguments.text_field,
            validation_fraction=arguments.validation_fraction,
        )
    )
    for split in manifest.splits:
        shards = manifest.splits[split]
        documents, text = sum(shard.documents for shard in shards), sum(shard.text_bytes for shard in shards)
        tokens = manifest.tokens(split)
        print(f"{split}: {documents:,} documents, {text / 1e6:.2f} MB, {tokens:,} tokens ({text / tokens:.2f} bytes a token)")
    print(f"unigram entropy {manifest.unigram_entropy:.3f} nats a token; written to {arguments.out}")
