"""V-information by probes: how much of Y a decoder of a stated family reads out of T, on documents it has not seen.

Xu et al., "A theory of usable information under computational constraints", arXiv 2002.10689, definition 2:
I_V(T -> Y) = H_V(Y) - H_V(Y | T), where H_V is the least expected log loss within a family V of decoders, with and without
T. Both are estimated on held-out documents: H_V(Y) by the labels' frequencies in the others, H_V(Y | T) by a probe.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .documents import Split, bootstrap, split
from .estimator import missing
from .measure import Measure, Region
from .observations import Observations
from .regions import LINEAR_PROBE, MLP_PROBE
from .training import Schedule, Whitened, fit

#: Rank of a linear probe's matrix, at most.
RANK = 256

#: Logits that exist at a time, at most: 64 MiB in float32. Batches get smaller where there are many labels.
_LOGITS = 1 << 24


@dataclass(frozen=True)
class Probe:
    """I(T; Y) for decoders that are softmax of a linear map, or of one hidden layer.

    The linear map is a product of two matrices of inner width :data:`RANK`, or all that width and labels allow. The penalty
    on both is one on the singular values of their product (Srebro, Rennie and Jaakkola, NeurIPS 2004): with many labels
    a map that is free in every entry learns its training rows by heart.

    Half a count is added to each label's in the frequencies, so that none has probability 0. The probe begins as these
    frequencies and moves away from them only as far as the documents that are held out for choosing say: under independence
    it mostly stays there and reads 0.

    The interval is that of this trained probe over documents; another initialization or split of documents moves the value too.
    The best decoder of the family may read more, and what no decoder of it can read is not counted: up to sampling noise the
    value is a lower bound of I_V, and that is one of I(T; Y).

    Attributes:
        hidden: width of the hidden layer; 0 for a linear probe.
        penalties: weights of half the squared length of the matrices in the loss, strongest first. They are tried in this
            order until the documents to choose by get worse.
        quantity: what the labels are, in symbols.
    """

    hidden: int = 0
    penalties: tuple[float, ...] = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 0.0)
    quantity: str = "I(T; Y)"
    needs: tuple[str, ...] = ("labels",)

    @property
    def name(self) -> str:
        """``probe-linear`` or ``probe-mlp``."""
        return "probe-mlp" if self.hidden else "probe-linear"

    @property
    def region(self) -> Region:
        """By family."""
        return MLP_PROBE if self.hidden else LINEAR_PROBE

    @property
    def relative_to(self) -> str:
        """The family of decoders."""
        return f"softmax of one hidden layer of {self.hidden}" if self.hidden else f"softmax of a linear map of rank <= {RANK}"

    def estimate(self, data: Observations, seed: int) -> tuple[Measure, ...]:
        """The mean over held-out rows of log p(y | t) - log p(y), with the interval over their documents."""
        parts = split(data.clusters, seed)
        if min(len(parts.train), len(parts.choose), len(parts.test)) == 0:
            return (missing(self, data, "too few documents to hold some out"),)
        rows, labels = Whitened(data.t_rows, parts.train), data.classes.to(data.t_rows.device)
        marginal = _log_frequencies(labels, parts)
        module, penalty = self._best(rows, labels, marginal, parts, seed)
        with torch.no_grad():
            gains = -_losses(module, rows, labels, parts.test) - marginal[labels[parts.test.to(rows.device)]].double()
        low, high = bootstrap(gains, data.clusters[parts.test], seed)
        documents = len(torch.unique(data.clusters[parts.test]))
        reason = "" if low == low else f"no interval: {documents} held-out documents are too few"
        entropy = -float(marginal[labels[parts.test.to(rows.device)]].double().mean())
        details = {"H(Y)": entropy, "penalty": penalty, "documents": float(documents)}
        value = float(gains.mean())
        return (Measure(self.quantity, self.name, value, data.n, data.d, self.relative_to, low, high, reason, details=details),)

    def _best(self, rows: Whitened, labels: Tensor, marginal: Tensor, parts: Split, seed: int) -> tuple[nn.Module, float]:
        """The probe of the best penalty, by the documents to choose by."""
        best, kept, chosen = float("inf"), None, float("nan")
        for penalty in self.penalties:
            module = self._decoder(rows.d, marginal, seed)
            found = fit(
                module,
                lambda index, module=module, penalty=penalty: (
                    F.cross_entropy(module(rows.take(index)), labels[index.to(labels.device)]) + penalty * _half_square(module)
                ),
                lambda module=module: float(_losses(module, rows, labels, parts.choose).mean()),
                parts.train,
                self._schedule(len(marginal)),
                seed,
            )
            if found > best:
                break
            if found < best or kept is None:
                best, kept, chosen = found, module, penalty
        assert kept is not None
        return kept, chosen

    def _decoder(self, width: int, marginal: Tensor, seed: int) -> nn.Module:
        """A probe that says the frequencies whatever it sees: the last matrix is zero, the first is random."""
        inner = self.hidden or min(width, len(marginal), RANK)
        first, last = nn.Linear(width, inner, bias=bool(self.hidden)), nn.Linear(inner, len(marginal))
        generator = torch.Generator().manual_seed(seed)
        # Columns have variance 1, and so do inner units; ReLU would halve it (He et al., arXiv 1502.01852).
        gain = 2 if self.hidden else 1
        first.weight.data.copy_(torch.randn(first.weight.shape, generator=generator) * (gain / width) ** 0.5)
        if self.hidden:
            nn.init.zeros_(first.bias)
        nn.init.zeros_(last.weight)
        last.bias.data.copy_(marginal)
        return nn.Sequential(first, *([nn.ReLU()] if self.hidden else []), last).to(marginal.device)

    def _schedule(self, labels: int) -> Schedule:
        # Two matrices in a row from 0 take long to begin; a hidden layer has many units that help each other.
        return Schedule(3e-3, least_steps=400 if self.hidden else 1000, batch=max(1, min(256, _LOGITS // labels)))


def _log_frequencies(labels: Tensor, parts: Split) -> Tensor:
    """log p(y) ``[K]`` by the rows that are not tested, half a count added to each."""
    seen = labels[torch.cat([parts.train, parts.choose]).to(labels.device)]
    counts = torch.bincount(seen, minlength=int(labels.max()) + 1).double() + 0.5
    return (counts / counts.sum()).log().float()


def _half_square(module: nn.Module) -> Tensor:
    return sum((0.5 * layer.weight.square().sum() for layer in module if isinstance(layer, nn.Linear)), torch.tensor(0.0))  # type: ignore[attr-defined]


@torch.no_grad()
def _losses(module: nn.Module, rows: Whitened, labels: Tensor, index: Tensor) -> Tensor:
    """-log p(y | t) of each row, float64 ``[len(index)]``."""
    classes = module[-1].out_features  # type: ignore[index]
    found = []
    for part in index.split(max(1, min(4096, _LOGITS // int(classes)))):
        found.append(F.cross_entropy(module(rows.take(part)), labels[part.to(labels.device)], reduction="none").double())
    return torch.cat(found)
