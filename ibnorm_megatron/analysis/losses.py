"""Losses by document, and how far a difference between two ways to evaluate may be chance."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from ..lab.results import LEVEL, Estimate
from ..train.step import inputs
from .documents import Documents

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

    from ..model.language_model import LanguageModel

#: Rows that are evaluated together.
ROWS = 32

_RESAMPLES = 2000


@dataclass(frozen=True)
class Losses:
    """What a model loses on each document.

    Attributes:
        nats: sum of cross-entropy over a document's counted labels, ``[documents]``.
        labels: how many these are, ``[documents]``.
    """

    nats: np.ndarray
    labels: np.ndarray

    @property
    def mean(self) -> float:
        """Nats a label, over all documents."""
        return float(self.nats.sum() / self.labels.sum())

    def minus(self, other: Losses) -> Estimate:
        """The mean by which this is above ``other`` on the same documents, with the interval of the document bootstrap."""
        return ratio(self.nats - other.nats, self.labels)


def ratio(parts: np.ndarray, wholes: np.ndarray, seed: int = 0) -> Estimate:
    """Sum of ``parts`` over sum of ``wholes``, both by document, with the 95 % interval of the document bootstrap.

    That is the percentile interval over documents drawn with replacement. One document has infinite ends: nobody knows how
    others would do.
    """
    value = float(parts.sum() / wholes.sum())
    if len(parts) < 2:
        return Estimate(value, -np.inf, np.inf)
    drawn = np.random.default_rng(seed).multinomial(len(parts), np.full(len(parts), 1 / len(parts)), _RESAMPLES)
    weighed = drawn @ wholes
    found = (drawn @ parts)[weighed > 0] / weighed[weighed > 0]
    low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value, float(low), float(high))


@torch.no_grad()
def evaluate(module: LanguageModel, documents: Documents) -> Losses:
    """Every document's loss, as the model's own loss counts it."""
    rows = np.zeros(len(documents.tokens))
    for part, batch in documents.batches(ROWS):
        given = inputs(batch)
        losses = module.gpt(given["tokens"], given["position_ids"], None, labels=given["labels"])
        rows[part] = (losses.double() * given["loss_mask"]).sum(dim=1).cpu().numpy()
    return Losses(np.bincount(documents.document, rows, minlength=documents.number), documents.labels_by_document)


@contextmanager
def hooked(handles: Sequence[RemovableHandle]) -> Iterator[None]:
    """Hooks that are there within the block."""
    with ExitStack() as leaving:
        for handle in handles:
            leaving.callback(handle.remove)
        yield


def on_output(module: nn.Module, change: Callable[[Any], Any]) -> RemovableHandle:
    """Change what a module gives."""
    return module.register_forward_hook(lambda module, arguments, output: change(output))


def on_input(module: nn.Module, change: Callable[[Any], Any]) -> RemovableHandle:
    """Change what a module is given first."""
    return module.register_forward_pre_hook(lambda module, arguments: (change(arguments[0]), *arguments[1:]))
