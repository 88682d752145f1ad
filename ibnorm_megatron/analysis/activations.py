"""What norms give on held-out documents, written to disk as it is computed: memory holds one batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from ..errors import Problem, UserError
from ..model.norm_slots import norms_of
from ..norms.site import LAYER_SITES, Site
from .documents import Documents
from .losses import evaluate, hooked, on_output

if TYPE_CHECKING:
    from ..model.language_model import LanguageModel

#: Layers whose first norm is looked at, where nobody names sites: evenly over the depth.
_LAYERS = 8


@dataclass(frozen=True)
class Activations:
    """T at several sites for the same n tokens: those whose next token counts, document after document.

    Attributes:
        sites: in the order of depth, and of each the values ``[n, d]``, float32, mapped from a file.
        labels: the next token ``[n]``.
        documents: the number of each token's document ``[n]``.
    """

    sites: Mapping[str, np.ndarray]
    labels: np.ndarray
    documents: np.ndarray
    _tokens: np.ndarray
    _counts: np.ndarray

    def past(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Which of the n tokens have one k before them in their row, and which token that is; k = 0 is itself."""
        rows, columns = np.nonzero(self._counts)
        there = np.flatnonzero(columns >= k)
        return there, self._tokens[rows[there], columns[there] - k]


def most_sites(layers: int) -> int:
    """How many sites :func:`choose_sites` chooses in a model of so many layers."""
    return min(_LAYERS, layers) + 1


def choose_sites(module: LanguageModel, names: Sequence[str] = ()) -> list[Site]:
    """The sites with these names, or the first norm of each of at most eight layers and the final one.

    Raises:
        UserError: the model has no norm of that name.
    """
    known = {str(site): site for site in sorted(norms_of(module), key=_depth)}
    if unknown := [name for name in names if name not in known]:
        why = "the model has no norm there"
        raise UserError(*(Problem("--site", repr(name), why, f"choose among {', '.join(known)}") for name in unknown))
    if names:
        return [site for name, site in known.items() if name in names]
    layers = sorted({site.layer for site in known.values() if site.layer is not None})
    chosen = {layers[round(place)] for place in np.linspace(0, len(layers) - 1, min(_LAYERS, len(layers)))} if layers else set()
    first = {layer: next(site for site in known.values() if site.layer == layer) for layer in chosen}
    return [site for site in known.values() if site.name == "final" or first.get(site.layer) == site]


def _depth(site: Site) -> tuple[int, int]:
    """In the order in which data meets them."""
    if site.layer is None:
        return (-1 if site.name == "embedding" else 1 << 30, 0)
    return site.layer, LAYER_SITES.index(site.name)


def collect(module: LanguageModel, documents: Documents, sites: Sequence[Site], folder: Path) -> Activations:
    """Evaluate the documents, and write what norms give to ``folder``, a file a site.

    Raises:
        UserError: a site's rows are not one a token, as those of queries and keys.
    """
    norms = norms_of(module)
    written: dict[str, np.ndarray] = {}
    at = dict.fromkeys(map(str, sites), 0)
    counts = documents.counts
    n = int(counts.sum())
    row = dict.fromkeys(map(str, sites), 0)

    def keep(name: str) -> Callable[[Tensor], Tensor]:
        def write(y: Tensor) -> Tensor:
            if y.dim() != 3:
                why = f"it gives {y.dim() - 2} rows a token"
                raise UserError(Problem("--site", repr(name), why, "choose a norm of the residual stream or of a sub-layer"))
            of_rows = y.transpose(0, 1).float().cpu().numpy()  # [b, s, d]
            wanted = of_rows[counts[at[name] : at[name] + len(of_rows)]]
            at[name] += len(of_rows)
            if name not in written:
                path = folder / f"{name}.npy"
                written[name] = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(n, y.shape[-1]))
            written[name][row[name] : row[name] + len(wanted)] = wanted
            row[name] += len(wanted)
            return y

        return write

    with hooked([on_output(norms[site], keep(str(site))) for site in sites]):
        evaluate(module, documents)
    for values in written.values():
        assert isinstance(values, np.memmap)
        values.flush()
    found = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in written}
    of_token = np.repeat(documents.document, counts.sum(axis=1))
    return Activations(found, documents.labels[counts], of_token, documents.tokens, counts)
