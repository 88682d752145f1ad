"""Data sets by name, streamed through the ``datasets`` library; no code of theirs is ever run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ibnorm_megatron.errors import Problem, UserError

from .recipe import SourceConfig

if TYPE_CHECKING:
    from datasets import IterableDataset


def open_dataset(source: SourceConfig) -> IterableDataset:
    """The rows of a data set, to be read once and in order.

    Raises:
        UserError: there is no such data set, configuration or split, it cannot be reached, or it has no rows to read.
    """
    import datasets

    assert source.dataset is not None
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # it prints what it raises, too
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False  # it calls the hub, for local files as well
    try:
        rows = datasets.load_dataset(
            source.dataset, source.config, split=source.split, revision=source.revision, streaming=True
        )
    except Exception as error:  # the library raises whatever the network, the hub or a file made it raise
        why = " ".join(str(error).split()).rstrip(".")[:300] or type(error).__name__
        mend = "check its name, config, split and revision, and that the hub can be reached"
        raise UserError(Problem("the data set", source.dataset, why, mend)) from None
    return rows
