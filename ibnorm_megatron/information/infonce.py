"""InfoNCE: a lower bound of I(X; T + noise) by telling the T of a row from those of K - 1 others.

Van den Oord, Li and Vinyals, arXiv 1807.03748, equation 4: I >= log K + E log(e^f(x, t) / sum over the K of e^f(x, t')). The
bound cannot exceed log K (Poole et al., arXiv 1905.06922, section 2.3), so what comes near it is no estimate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from .documents import Split, bootstrap, split
from .estimator import missing
from .measure import Measure, Region
from .noise import Noise
from .observations import Observations
from .regions import INFO_NCE
from .training import Schedule, Whitened, fit

#: Share of log K above which the value is withheld: the bound bends towards its ceiling long before it gets there. Of 12 nats
#: in two dimensions 4,000 rows read 4.4, below a ceiling of 6.2; 2 nats is what was validated.
SATURATED = 0.5


@dataclass(frozen=True)
class InfoNce:
    """The bound on held-out documents, by a critic that was trained on others.

    The critic is f(x, t) = a(x) . b(t) + c(t), each a linear map plus a network of one hidden layer. It begins at 0, where
    the bound is 0, and is stopped by documents of their own, so that it reads 0 under independence. The interval is that of
    this critic over documents.

    Attributes:
        noise: added to T.
        negatives: K, rows of which one is right.
        width: of a and b; at least that of the narrower side where that is less.
        hidden: of the networks.
        penalties: weights of half the squared length of the critic's matrices, strongest first.
    """

    noise: Noise = field(default_factory=Noise)
    negatives: int = 512
    width: int = 64
    hidden: int = 64
    penalties: tuple[float, ...] = (1e-2, 1e-3, 1e-4)
    needs: tuple[str, ...] = ("x",)
    region: Region = INFO_NCE
    name: str = "infonce"
    quantity: str = "I(X; T + noise)"

    @property
    def relative_to(self) -> str:
        """The noise and the ceiling."""
        return f"{self.noise}; at most log {self.negatives} = {math.log(self.negatives):.2f}"

    def estimate(self, data: Observations, seed: int) -> tuple[Measure, ...]:
        """The bound; NaN where it is above half of its ceiling."""
        parts = split(data.clusters, seed)
        count = min(self.negatives, len(parts.test), len(parts.choose))
        if count < self.negatives:
            return (missing(self, data, f"{count} held-out rows are fewer than the {self.negatives} to choose among"),)
        noisy = self.noise.drawn(data.n, data.t_rows.d, self.noise.scale(data.t_rows), seed)
        x, t = Whitened(data.x_rows, parts.train), Whitened(data.t_rows, parts.train, noisy)
        critic = self._best(x, t, parts, seed)
        # Rows of one document are alike: negatives are drawn from all held-out rows, in an order of chance.
        order = parts.test[torch.randperm(len(parts.test), generator=torch.Generator().manual_seed(seed))]
        order = order[: len(order) // self.negatives * self.negatives]
        gains = self._gains(critic, x, t, order)
        value = float(gains.mean())
        low, high = bootstrap(gains, data.clusters[order], seed)
        ceiling = math.log(self.negatives)
        found = Measure(
            self.quantity, self.name, value, data.n, data.d, self.relative_to, low, high, details={"ceiling": ceiling}
        )
        if value > SATURATED * ceiling:
            why = f"{value:.2f} is above half of the ceiling log {self.negatives} = {ceiling:.2f}: there may be any amount"
            return (replace(found, value=math.nan, low=math.nan, high=math.nan, reason=why),)
        return (found if low == low else replace(found, reason="no interval: too few held-out documents"),)

    def _best(self, x: Whitened, t: Whitened, parts: Split, seed: int) -> Critic:
        best, kept = math.inf, None
        for penalty in self.penalties:
            critic = Critic(x.d, t.d, max(self.width, min(x.d, t.d)), self.hidden, seed).to(t.device)
            found = fit(
                critic,
                lambda index, critic=critic, penalty=penalty: (
                    -log_ratio(critic, x.take(index), t.take(index)).mean() + penalty * critic.half_square()
                ),
                lambda critic=critic: -float(self._gains(critic, x, t, parts.choose).mean()),
                parts.train,
                Schedule(rate=2e-3, epochs=30, batch=self.negatives),
                seed,
            )
            if found > best:
                break
            if found < best or kept is None:
                best, kept = found, critic
        assert kept is not None
        return kept

    @torch.no_grad()
    def _gains(self, critic: Critic, x: Whitened, t: Whitened, index: Tensor) -> Tensor:
        blocks = [block for block in index.split(self.negatives) if len(block) == self.negatives]
        return torch.cat([log_ratio(critic, x.take(block), t.take(block)).double() for block in blocks])


class Critic(nn.Module):
    """a(x) . b(t) + c(t), which is 0 at first: b is."""

    def __init__(self, x: int, t: int, width: int, hidden: int, seed: int) -> None:
        super().__init__()
        self.a = nn.ModuleList([nn.Linear(x, width), nn.Sequential(nn.Linear(x, hidden), nn.ReLU(), nn.Linear(hidden, width))])
        self.b = nn.ModuleList(
            [nn.Linear(t, width + 1), nn.Sequential(nn.Linear(t, hidden), nn.ReLU(), nn.Linear(hidden, width + 1))]
        )
        generator = torch.Generator().manual_seed(seed)
        for layer in self._layers():
            layer.weight.data.copy_(torch.randn(layer.weight.shape, generator=generator) * layer.in_features**-0.5)
            nn.init.zeros_(layer.bias)
        for last in (self.b[0], self.b[1][-1]):  # type: ignore[index]
            nn.init.zeros_(last.weight)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """f of every pair ``[n, n]``: row i has x_i with each t."""
        a, b = (sum(part(rows) for part in side) for side, rows in ((self.a, x), (self.b, t)))
        return a @ b[:, :-1].T / a.shape[1] ** 0.5 + b[:, -1]

    def half_square(self) -> Tensor:
        """Half the squared length of all matrices."""
        return sum(0.5 * layer.weight.square().sum() for layer in self._layers())  # type: ignore[return-value]

    def _layers(self) -> list[nn.Linear]:
        return [layer for layer in self.modules() if isinstance(layer, nn.Linear)]


def log_ratio(critic: Critic, x: Tensor, t: Tensor) -> Tensor:
    """log K + log softmax at the right row, of each of K rows ``[K]``; its mean is the bound."""
    scores = critic(x, t)
    return scores.diagonal() - scores.logsumexp(1) + math.log(len(scores))
