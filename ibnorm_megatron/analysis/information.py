"""What norms' outputs say about tokens, and about each other: which estimators are asked, of which activations.

T is what a norm gives for a token, x_t. Y is the next token, and x_{t-k} the one k before x_t. Between layers X is what the
norm before gives. :mod:`ibnorm_megatron.information` has the estimators, docs/information.md what their numbers mean.
Tokens are labels; of a large vocabulary the rarer ones are one label together. Estimators that are right in few dimensions
only are asked of the leading directions of T and X, T_8 and X_8 for eight, which share at most what T and X do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..information.audit import Audited, audit
from ..information.estimator import Estimator, measure
from ..information.gaussian import Gaussian
from ..information.infonce import InfoNce
from ..information.measure import Measure
from ..information.observations import Observations
from ..information.probe import Probe
from ..information.projection import leading
from ..information.prompts import PromptEntropy
from ..information.regions import INFO_NCE, LINEAR_PROBE, RENYI
from ..information.renyi import Renyi
from ..information.tradeoff import Point, information_bottleneck
from .activations import Activations

#: How far back tokens are asked for.
PAST = (0, 1, 4, 16)

#: Width of a probe's hidden layer.
HIDDEN = 256

#: Rows of the estimators that compare every row with every other: time and memory grow with their square.
PAIRED_ROWS = 1024


@dataclass(frozen=True)
class Told:
    """One measure at one site.

    Attributes:
        site: of T.
        measure: what was found, or why nothing was.
    """

    site: str
    measure: Measure


@dataclass(frozen=True)
class Curve:
    """The information bottleneck's value over beta at one site: I(T; Y) - beta I(T; x_t), both by linear probes."""

    site: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Informed:
    """All that was found of one model."""

    told: tuple[Told, ...]
    curves: tuple[Curve, ...]
    audits: tuple[tuple[str, Audited], ...]


def inform(found: Activations, show: Callable[[], None] = lambda: None) -> Informed:
    """Every estimator at every site; ``show`` is called after each of the :func:`questions`."""
    told: list[Told] = []
    curves: list[Curve] = []
    audits: list[tuple[str, Audited]] = []
    before: tuple[np.ndarray, np.ndarray] | None = None
    for site, values in found.sites.items():
        own: list[Measure] = []
        for estimator, data in _of_site(found, values):
            own += measure(estimator, data)
            show()
        of_y, of_x = own[0], own[2]
        curves.append(Curve(site, tuple(information_bottleneck(of_y, of_x))))
        few = leading(values, RENYI.widest)
        if before is not None:
            for estimator, data in _between(found, (values, few), before):
                own += _few(measure(estimator, data), values.shape[1])
                show()
        sample = _sample(found, few)
        for one in audit(Renyi("labels", permutations=0), sample, _compress, "sign(t) ln(1 + |t|)"):
            (renamed,) = _few((one.before,), values.shape[1])
            audits.append((site, replace(one, before=renamed)))
        show()
        told += [Told(site, one) for one in own]
        before = values, few
    return Informed(tuple(told), tuple(curves), tuple(audits))


def questions(sites: int) -> int:
    """How often :func:`inform` calls ``show``."""
    return sites * (2 + len(PAST) + 2 + 1) + (sites - 1) * 3


def _of_site(found: Activations, values: np.ndarray) -> Iterator[tuple[Estimator, Observations]]:
    """Next token by both probes, then tokens before it by the linear one; the first and third are those of the curve."""
    following = Observations(values, labels=frequent(found.labels), documents=found.documents)
    yield Probe(quantity="I(T; next token)"), following
    yield Probe(hidden=HIDDEN, quantity="I(T; next token)"), following
    for k in PAST:
        index, tokens = found.past(k)
        past = Observations(values[index], labels=frequent(tokens), documents=found.documents[index])
        yield Probe(quantity=f"I(T; x_{{t-{k}}})" if k else "I(T; x_t)"), past
    whole = Observations(values, documents=found.documents)
    yield PromptEntropy(), whole
    yield PromptEntropy(dataset=True), whole


def _between(
    found: Activations, now: tuple[np.ndarray, np.ndarray], before: tuple[np.ndarray, np.ndarray]
) -> Iterator[tuple[Estimator, Observations]]:
    """What T of one layer and of the one before share; each is given whole and in its leading directions."""
    yield Gaussian(), Observations(now[0], before[0], documents=found.documents)
    width = INFO_NCE.widest
    yield InfoNce(), Observations(now[1][:, :width], before[1][:, :width], documents=found.documents)
    yield Renyi(multiples=(0.5, 1.0, 2.0)), _sample(found, now[1], before[1])


def _few(measures: tuple[Measure, ...], whole: int) -> tuple[Measure, ...]:
    """Named by the directions that they are of, where those are not all: I(X_8; T_8 + noise)."""

    def named(one: Measure) -> str:
        return one.quantity if one.d == whole else one.quantity.replace("T", f"T_{one.d}").replace("X", f"X_{one.d}")

    return tuple(replace(one, quantity=named(one)) for one in measures)


def frequent(tokens: np.ndarray) -> np.ndarray:
    """Labels ``[n]``: as many of the most frequent tokens as have enough rows on average, and one label, -1, for all others.

    A probe is validated for so many rows a label. Fewer labels lower the information, and never raise it.
    """
    kept = max(1, int(len(tokens) / LINEAR_PROBE.rows_per_label) - 1)
    known, counts = np.unique(tokens, return_counts=True)
    if len(known) <= kept + 1:
        return tokens
    return np.where(np.isin(tokens, known[np.argsort(-counts, kind="stable")[:kept]]), tokens, -1)


def _sample(found: Activations, values: np.ndarray, before: np.ndarray | None = None) -> Observations:
    """Some of the tokens, the same at every site."""
    n = len(found.labels)
    index = np.sort(np.random.default_rng(0).permutation(n)[:PAIRED_ROWS])
    x = None if before is None else torch.from_numpy(before[index])
    return Observations(torch.from_numpy(values[index]), x, found.labels[index], found.documents[index])


def _compress(t: Tensor) -> Tensor:
    """A bijection of every number, as a compression is."""
    return t.sign() * t.abs().log1p()
