"""Where the tokens come from. Nothing here imports torch."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class DataConfig(BaseModel):
    """A folder that ``ibnorm prepare`` wrote: shards, tokenizer and manifest."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    path: str = Field("data/stdlib", description="a prepared data folder")
