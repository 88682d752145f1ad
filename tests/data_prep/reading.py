"""Reading sources as a recipe that names them does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.readers import Reader
from data_prep.recipe import SourceConfig
from data_prep.sources import Source, find_sources


def sources_of(*sources: Path, split_bytes: int | None = None, **asked: Any) -> list[Source]:
    """The sources that paths name."""
    configs = [SourceConfig.model_validate({"path": str(source), **asked}) for source in sources]
    return find_sources(configs, [str(i) for i in range(len(configs))], split_bytes)


def documents_of(*sources: Path, split_bytes: int | None = None, errors: str = "strict", **asked: Any) -> list[str]:
    """The texts of all their documents, in order."""
    return [
        text
        for source in sources_of(*sources, split_bytes=split_bytes, **asked)
        for part in source.parts
        for text, _ in Reader(source, errors).documents(part)
    ]


def jsonl_of(*texts: str) -> bytes:
    """Rows with these texts."""
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


def parquet_of(**columns: list) -> bytes:
    """A file with these columns."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue().to_pybytes()


def column_twice() -> bytes:
    """A file with two columns of one name."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"]), sink)
    return sink.getvalue().to_pybytes()
