"""Where the tokens come from, and how they are mixed. Nothing here imports torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from ..validation import PathText, checked_path


def _some_paths(given: Any) -> Any:
    paths = given if isinstance(given, list) else [given]
    paths = [getattr(path, "text", path) for path in paths]  # a folder named 007 was read as a number that knows its text
    if paths and all(isinstance(path, str) for path in paths):
        paths = [checked_path(path) for path in paths]
        return paths if isinstance(given, list) else paths[0]
    raise ValueError("it is no folder's path and no list of them: write path: data/mine or path: [data/a, data/b]")


class DataConfig(BaseModel):
    """Folders that ``ibnorm prepare`` wrote, and what becomes of their documents' ends."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    path: Annotated[str | list[str], BeforeValidator(_some_paths)] = Field(
        "data/stdlib", description="a prepared data folder, or a list of them with the same tokenizer"
    )
    weights: dict[str, Annotated[float, Field(gt=0)]] = Field(
        {},
        description="share of the training samples by corpus name, of any sum; empty: what the manifests state, and if they "
        "state nothing every document counts alike",
    )
    document_mask: bool = Field(
        False, description="attention stays within a document, positions begin anew in each, and none predicts the next one"
    )
    loss_on_end_of_document: bool = Field(True, description="whether a document's end is a label that counts")
    index_cache: PathText = Field(
        "", description="folder for the indices of the order of samples, such as one on a node's disk; empty: in the run's"
    )

    def paths(self) -> tuple[Path, ...]:
        """The folders, in their order."""
        given = [self.path] if isinstance(self.path, str) else self.path
        return tuple(Path(path).expanduser() for path in given)
