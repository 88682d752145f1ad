"""How a model does away from what it was trained on: other text, noise on its embeddings, words that are missing.

*Noise*: every token's embedding has Gaussian noise added, of a standard deviation that is a multiple of the root mean square of
embeddings on the same text: models whose embeddings differ in scale are disturbed alike. *Drop*: a token's embedding is
zero with some probability (word dropout; Iyyer et al., ACL 2015). Both are drawn from a seed, the same for all models.
Positions, if they are learned, are added to embeddings before either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..lab.results import Estimate
from .documents import Documents
from .losses import Losses, evaluate, hooked, on_output, ratio

if TYPE_CHECKING:
    from ..model.language_model import LanguageModel

#: Standard deviations of noise in units of the embeddings' root mean square, and probabilities of a drop.
NOISE = (0.1, 0.2, 0.5, 1.0)
DROP = (0.02, 0.05, 0.1, 0.2)

_SEED = 20_251_026


@dataclass(frozen=True)
class Disturbed:
    """The price of a disturbance.

    Attributes:
        kind: noise or drop.
        strength: as in :data:`NOISE` and :data:`DROP`.
        rise: nats a label by which the loss rises, with the document bootstrap's interval.
    """

    kind: str
    strength: float
    rise: Estimate


@dataclass(frozen=True)
class Domain:
    """The loss on one kind of text.

    Attributes:
        name: of the text.
        loss: nats a label, with the interval of the document bootstrap; so for the rest.
        bits_per_byte: which compares texts that take more or fewer tokens.
        documents, labels: how much text.
    """

    name: str
    loss: Estimate
    bits_per_byte: Estimate
    documents: int
    labels: int


def domain_loss(name: str, documents: Documents, losses: Losses, token_bytes: np.ndarray) -> Domain:
    """A text's loss; ``token_bytes`` are the bytes that each token of the vocabulary stands for."""
    bits = ratio(losses.nats / np.log(2), documents.text_bytes(token_bytes).astype(float))
    return Domain(name, ratio(losses.nats, losses.labels), bits, documents.number, int(losses.labels.sum()))


def gap(train: Losses, validation: Losses, seed: int = 0) -> Estimate:
    """Validation loss less training loss, nats a label; other documents, so both are resampled."""
    means = [_resampled(losses, seed + number) for number, losses in enumerate((train, validation))]
    found = means[1] - means[0]
    low, high = np.quantile(found, [0.025, 0.975])
    return Estimate(validation.mean - train.mean, float(low), float(high))


def _resampled(losses: Losses, seed: int, resamples: int = 2000) -> np.ndarray:
    count = len(losses.nats)
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), resamples)
    return (drawn @ losses.nats) / np.maximum(drawn @ losses.labels, 1)


def disturbed_losses(
    module: LanguageModel, documents: Documents, plain: Losses, show: Callable[[], None] = lambda: None
) -> Iterator[Disturbed]:
    """The rise at every strength; ``show`` is called after each of the :func:`disturbances`."""
    size = _embedding_size(module, documents)
    ways: Mapping[str, tuple[tuple[float, ...], Callable[[Tensor, float, torch.Generator], Tensor]]] = {
        "noise": (NOISE, lambda x, strength, draw: x + strength * size * _normal(x, draw)),
        "drop": (DROP, lambda x, strength, draw: x * (_uniform(x[..., :1], draw) >= strength)),
    }
    for kind, (strengths, change) in ways.items():
        for strength in strengths:
            draw = torch.Generator().manual_seed(_SEED)
            with hooked([on_output(module.gpt.embedding, lambda x, c=change, s=strength, d=draw: c(x, s, d))]):
                losses = evaluate(module, documents)
            yield Disturbed(kind, strength, losses.minus(plain))
            show()


def disturbances() -> int:
    """How many there are."""
    return len(NOISE) + len(DROP)


def _embedding_size(module: LanguageModel, documents: Documents) -> float:
    """Root mean square of what the embedding gives."""
    sums = [0.0, 0.0]

    def see(x: Tensor) -> Tensor:
        sums[0] += float(x.double().square().sum())
        sums[1] += x.numel()
        return x

    with hooked([on_output(module.gpt.embedding, see)]):
        evaluate(module, documents)
    return float((sums[0] / sums[1]) ** 0.5)


def _normal(x: Tensor, draw: torch.Generator) -> Tensor:
    """On the CPU, so that every device and type gets the same numbers."""
    return torch.randn(x.shape, generator=draw).to(x)


def _uniform(x: Tensor, draw: torch.Generator) -> Tensor:
    return torch.rand(x.shape, generator=draw).to(x.device)
