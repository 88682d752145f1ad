"""Pictures of a prepared folder: how long documents are, and how often tokens occur."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ibnorm_megatron.errors import Problem, UserError
from ibnorm_megatron.files import replacing

from .inspection import Lengths

_FORMATS = (".png", ".svg", ".pdf")

_BINS_A_DECADE = 12


def check_picture(path: Path) -> None:
    """Refuse a picture that cannot be written, before anything is read.

    Raises:
        UserError: it exists, its folder does not, or its name has none of the ends that say which kind it is.
    """
    if path.suffix.lower() not in _FORMATS:
        raise UserError(Problem("--picture", str(path), "its kind is not known", f"end its name in {', '.join(_FORMATS)}"))
    if os.path.lexists(path):
        why = "it exists and is never overwritten"
        raise UserError(Problem("--picture", str(path), why, "choose another name or remove it"))
    if not os.path.isdir(path.parent):
        raise UserError(Problem("--picture", str(path), f"there is no folder {path.parent}", "make it, or choose another"))


def draw(path: Path, title: str, lengths: Mapping[str, Lengths], counts: np.ndarray, of_tokens: int) -> None:
    """Draw document lengths of every corpus, and the frequency of tokens by rank, into a new file.

    Args:
        path: the file, in one step; :func:`check_picture` has seen it.
        title: of the picture.
        lengths: of the documents of each corpus.
        counts: how often each token occurs, ``[vocab_size]``.
        of_tokens: tokens of the split. If ``counts`` are of fewer, the picture says so.

    Raises:
        UserError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    longest = max([1, *(int(of.histogram()[0].max(initial=1)) for of in lengths.values())])
    edges = np.logspace(0, np.log10(longest + 1), max(2, int(np.log10(longest + 1) * _BINS_A_DECADE)))
    for name, of in lengths.items():
        values, documents = of.histogram()
        left.hist(values, bins=edges, weights=documents, histtype="step", label=_plain(name))
    left.set(xscale="log", xlabel="tokens of a document", ylabel="documents", title="Document lengths")
    left.legend()
    seen = np.sort(counts[counts > 0])[::-1]
    right.loglog(np.arange(1, seen.size + 1), seen / max(1, counts.sum()))
    unused = int((counts == 0).sum())
    right.set(xlabel="rank of a token", ylabel="share of all tokens", title=f"Token frequencies; {unused:,} entries unused")
    counted = int(counts.sum())
    if counted < of_tokens:
        note = f"counted in {counted:,} of {of_tokens:,} tokens, in shards spread over the split"
        right.annotate(note, (0.02, 0.02), xycoords="axes fraction", fontsize="small", color="gray")
    figure.suptitle(_plain(title))
    try:
        with replacing(path) as file:
            figure.savefig(file, format=path.suffix.lower()[1:], dpi=150)
    except OSError as error:
        why = f"it cannot be written ({error.strerror})"
        raise UserError(Problem("--picture", str(path), why, "give another path")) from None


def _plain(text: str) -> str:
    """Not as matplotlib's mathematics, which a dollar sign begins; and a leading underscore hides a label."""
    return ("\u200b" if text.startswith("_") else "") + text.replace("$", r"\$")
