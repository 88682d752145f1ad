"""One loss surface for all arms, with a compute multiplier for each.

    log L = log(E + A (N sqrt(m))^-alpha + B (D sqrt(m))^-beta),   ln m = u0 + u1 ln(C / C0), 0 for the baseline

(Hoffmann et al., arXiv 2203.15556, equation 2, for the surface.) With C proportional to N D, an arm of multiplier m has the
loss that the baseline reaches with m times the compute, spent in the same ratio of tokens to parameters. The objective is that
of Hoffmann et al., equation 3: the sum of Huber losses of residuals of log L, delta 0.001. It is the sum: with their mean,
optimizers stop too early (Besiroglu et al., arXiv 2404.10102). For several arms delta then becomes 1.345 robust standard
deviations of the residuals (Holland and Welsch, Communications in Statistics 6, 1977), if that is more: far below the noise
Huber's loss is the absolute value, whose minimum passes through single points, and an arm that equals the baseline in every
run may be given a multiplier.

Where alpha and beta are given, E, A and B are linear. So the many starts are a grid over these two with least squares for the
rest (variable projection; Golub and Pereyra, 1973; for this surface arXiv 2603.22339), and the best of them go to the full fit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from . import Floats, Ints

#: Of Huber's loss, on residuals of log L: for a surface alone, and the least for several arms.
DELTA = 1e-3

#: In robust standard deviations: 95 % as efficient as least squares under Gaussian noise.
_EFFICIENT = 1.345

#: Standard deviations that the median of absolute Gaussian values is worth.
_MEDIAN_TO_DEVIATION = 1.4826

#: E, A, B, alpha, beta.
SHAPE = 5

#: Exponents at which the fit starts, and where it may end.
_EXPONENTS = np.geomspace(0.05, 2.0, 14)
_EXPONENT_BOUNDS = (0.01, 4.0)

#: Sizes, and numbers of tokens, are one where they differ by less than this share: arms may count their norms' few parameters.
SAME = 0.02

#: E is at least this share of the lowest loss: at 0 its logarithm would run away.
_LEAST_E = 0.01

#: Points of the grid from which fits start, evaluations of each, and how many of these go on to the end.
_STARTS, _FIRST, _FINISHED = 5, 12, 2

_EVALUATIONS = 300


class NotIdentified(ValueError):
    """The points cannot tell size from tokens; the message is a clause that says why."""


@dataclass(frozen=True)
class Points:
    """Ends of training, as arrays of length n.

    Attributes:
        log_n, log_d, log_c: of parameters, tokens, FLOPs.
        log_loss: of held-out loss.
        arm: 0 for the baseline.
        block: what shares its size and seed, over all arms.
        branch: what shares its beginning, within an arm.
        cell: what has the same size, horizon and seed, over all arms.
        arms: how many, the baseline included.
    """

    log_n: Floats
    log_d: Floats
    log_c: Floats
    log_loss: Floats
    arm: Ints
    block: Ints
    branch: Ints
    cell: Ints
    arms: int

    def where(self, keep: NDArray[np.bool_] | Ints) -> Points:
        """Some of them, by a mask or by places; arms keep their numbers."""
        names = ("log_n", "log_d", "log_c", "log_loss", "arm", "block", "branch", "cell")
        return replace(self, **{name: getattr(self, name)[keep] for name in names})


@dataclass(frozen=True)
class Form:
    """What the surface's parameters mean for some points: centres, and which are held.

    Free parameters are log E, log A - alpha mean(log N), log B - beta mean(log D), alpha, beta unless ``tied``, then u0 and u1
    of every arm but the baseline. Centring makes them nearly uncorrelated, so they are well scaled.

    Attributes:
        centre_n, centre_d, centre_c: means of the logarithms.
        arms: how many, the baseline included.
        tied: alpha and beta are one, because two sizes cannot tell them apart.
    """

    centre_n: float
    centre_d: float
    centre_c: float
    arms: int
    tied: bool = False

    @property
    def shape(self) -> int:
        """How many free parameters the surface itself has."""
        return SHAPE - self.tied

    @property
    def size(self) -> int:
        """How many free parameters there are."""
        return self.shape + 2 * (self.arms - 1)

    def u0(self, arm: int) -> int:
        """The place of an arm's u0 among the free parameters; u1 stands behind it."""
        return self.shape + 2 * (arm - 1)

    def evaluate(self, free: Floats, points: Points) -> tuple[Floats, Floats]:
        """log L ``[n]`` and its derivatives ``[n, size]``."""
        e, a, b, alpha, beta = (*free[:4], free[3 if self.tied else 4])
        gains = np.concatenate([np.zeros(2), free[self.shape :]]).reshape(self.arms, 2)[points.arm]
        x = points.log_c - self.centre_c
        gain = gains[:, 0] + gains[:, 1] * x
        n, d = points.log_n - self.centre_n + gain / 2, points.log_d - self.centre_d + gain / 2
        with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
            parts = np.stack([np.full_like(n, np.exp(e)), np.exp(a - alpha * n), np.exp(b - beta * d)])
            total = parts.sum(axis=0)
            shares, log_total = parts / total, np.log(total)
        by_gain = -(alpha * shares[1] + beta * shares[2]) / 2
        by_shape = [*shares, -n * shares[1], -d * shares[2]]
        if self.tied:
            by_shape[3:] = [by_shape[3] + by_shape[4]]
        derivatives = np.zeros((len(n), self.size))
        derivatives[:, : self.shape] = np.stack(by_shape, axis=1)
        for arm in range(1, self.arms):
            own = np.where(points.arm == arm, by_gain, 0.0)
            place = self.u0(arm)
            derivatives[:, place], derivatives[:, place + 1] = own, own * x
        return log_total, derivatives


@dataclass(frozen=True)
class Fit:
    """Where the objective is least.

    Attributes:
        form: the parameters' meaning.
        points: what was fit.
        free: the parameters, ``[form.size]``.
        residuals: observed minus fitted log L, ``[n]``.
        derivatives: of fitted log L, ``[n, form.size]``.
        cost: the sum of Huber losses.
        delta: above which a residual counts by its size, and not by its square.
    """

    form: Form
    points: Points
    free: Floats
    residuals: Floats
    derivatives: Floats
    cost: float
    delta: float = DELTA

    @property
    def constants(self) -> tuple[float, float, float, float, float]:
        """E, A, B, alpha, beta."""
        e, a, b, alpha, beta = (*self.free[:4], self.free[3 if self.form.tied else 4])
        a, b = a + alpha * self.form.centre_n, b + beta * self.form.centre_d
        return float(np.exp(e)), float(np.exp(a)), float(np.exp(b)), float(alpha), float(beta)

    @property
    def spread(self) -> float:
        """The residual standard deviation of log L."""
        return float(np.sqrt((self.residuals**2).sum() / max(1, len(self.residuals) - self.form.size)))

    @property
    def at_edge(self) -> bool:
        """Whether a parameter of the surface ended at its bound: then it is not known."""
        low, high = _bounds(self.form, self.points)
        shape = self.free[: self.form.shape]
        return bool((np.isclose(shape, low[: self.form.shape]) | np.isclose(shape, high[: self.form.shape])).any())


def levels(logs: Floats) -> Ints:
    """Numbers of groups, ``[n]``: a value belongs to that of the lowest value of which it lies less than :data:`SAME` above.

    Rounding would part values between which one of its steps happens to lie.
    """
    order = np.argsort(logs, kind="stable")
    found: Ints = np.zeros(len(logs), dtype=np.intp)
    number, lowest = -1, -np.inf
    for place in order:
        if logs[place] - lowest >= SAME:
            number, lowest = number + 1, float(logs[place])
        found[place] = number
    return found


def check(points: Points) -> bool:
    """Whether alpha and beta have to be tied.

    Raises:
        NotIdentified: the points cannot tell size from tokens, or are too few.
    """
    if not len(points.log_n):
        raise NotIdentified("no place has ended in all arms")
    of_size, of_tokens = levels(points.log_n), levels(points.log_d)
    sizes = int(of_size.max()) + 1
    if sizes < 2:
        raise NotIdentified("there is one size, so nothing tells what a larger model would gain")
    if np.ptp(points.log_loss) < 1e-9:
        raise NotIdentified("all losses are equal")
    if not of_tokens.any():
        raise NotIdentified("there is one number of tokens, so nothing tells what more data would gain")
    if abs(float(np.corrcoef(points.log_n, points.log_d)[0, 1])) > 0.9999:
        raise NotIdentified(
            "there is one horizon, so tokens grow with parameters and what one gains cannot be told from what the other gains"
        )
    cells = len(np.unique(np.stack([of_size, of_tokens], axis=1), axis=0))
    tied = sizes < 3 or cells < SHAPE
    if cells < SHAPE - tied:
        raise NotIdentified(f"there are {cells} combinations of size and tokens, and the surface has {SHAPE} constants")
    return tied


def make_form(points: Points, *, tied: bool = False) -> Form:
    """The form for these points: its centres are their means."""
    n, d, c = (float(values.mean()) for values in (points.log_n, points.log_d, points.log_c))
    return Form(n, d, c, arms=points.arms, tied=tied)


def fit_surface(points: Points) -> Fit:
    """The surface alone, with every point taken for the baseline's.

    Raises:
        NotIdentified: as :func:`check`.
    """
    tied = check(points)
    alone = replace(points, arm=np.zeros_like(points.arm), arms=1)
    form = make_form(alone, tied=tied)
    begun = sorted((minimize(form, alone, start, _FIRST) for start in _starts(form, alone)), key=lambda fit: fit.cost)
    return min((minimize(form, alone, fit.free) for fit in begun[:_FINISHED]), key=lambda fit: fit.cost)


def fit_joint(points: Points) -> Fit:
    """The surface and every arm's multiplier.

    Raises:
        NotIdentified: as :func:`check`.
    """
    alone = fit_surface(points)
    form = make_form(points, tied=alone.form.tied)
    start = np.zeros(form.size)
    start[: form.shape] = alone.free
    first = minimize(form, points, start)
    return minimize(form, points, first.free, delta=max(DELTA, _EFFICIENT * _scale(first)))


def _scale(fit: Fit) -> float:
    """The standard deviation of errors, by the median, which outliers do not move; the fit has followed some of them."""
    n = len(fit.residuals)
    return _MEDIAN_TO_DEVIATION * float(np.median(np.abs(fit.residuals))) * (n / max(1, n - fit.form.size)) ** 0.5


def minimize(form: Form, points: Points, start: Floats, evaluations: int = _EVALUATIONS, *, delta: float = DELTA) -> Fit:
    """The minimum of the sum of Huber losses nearest to a start (trust region, analytic derivatives)."""
    last: dict[bytes, tuple[Floats, Floats]] = {}

    def evaluate(free: Floats) -> tuple[Floats, Floats]:
        key = free.tobytes()
        if key not in last:
            last.clear()
            last[key] = form.evaluate(free, points)
        return last[key]

    low, high = _bounds(form, points)
    found = least_squares(
        lambda free: (evaluate(free)[0] - points.log_loss) / delta,
        np.clip(start, low + 1e-6, high - 1e-6),
        jac=lambda free: evaluate(free)[1] / delta,
        bounds=(low, high),
        loss="huber",
        x_scale="jac",
        ftol=1e-10,
        xtol=1e-10,
        gtol=1e-10,
        max_nfev=evaluations,
    )
    fitted, derivatives = form.evaluate(found.x, points)
    return Fit(form, points, found.x, points.log_loss - fitted, derivatives, float(found.cost) * delta**2, delta)


def predict(fit: Fit, points: Points) -> Floats:
    """log L of other points, ``[n]``."""
    return fit.form.evaluate(fit.free, points)[0]


def _bounds(form: Form, points: Points) -> tuple[Floats, Floats]:
    low, high = np.full(form.size, -np.inf), np.full(form.size, np.inf)
    lowest = float(points.log_loss.min())
    low[0], high[0] = lowest + np.log(_LEAST_E), lowest
    low[3 : form.shape], high[3 : form.shape] = _EXPONENT_BOUNDS
    # A multiplier beyond e^5 is no multiplier, and keeps a step from running away.
    low[form.shape :], high[form.shape :] = -5.0, 5.0
    return low, high


def _starts(form: Form, points: Points) -> list[Floats]:
    """The best of a grid of exponents, with E, A and B by least squares on relative residuals."""
    alpha, beta = (grid.ravel() for grid in np.meshgrid(_EXPONENTS, _EXPONENTS, indexing="ij"))
    if form.tied:
        alpha = beta = _EXPONENTS
    loss = np.exp(points.log_loss)
    n, d = points.log_n - form.centre_n, points.log_d - form.centre_d
    basis = np.stack([np.ones((len(alpha), len(n))), np.exp(-alpha[:, None] * n), np.exp(-beta[:, None] * d)], axis=2)
    relative = basis / loss[:, None]
    gram = np.einsum("gik,gil->gkl", relative, relative)
    ridge = 1e-9 * np.trace(gram, axis1=1, axis2=2)[:, None, None] * np.eye(3)
    weights = np.linalg.solve(gram + ridge, relative.sum(axis=1)[:, :, None])[:, :, 0]
    weights = np.maximum(weights, _LEAST_E * loss.min())
    residuals = np.log(np.einsum("gik,gk->gi", basis, weights)) - points.log_loss
    size = np.abs(residuals)
    cost = np.where(size <= DELTA, size**2 / 2, DELTA * (size - DELTA / 2)).sum(axis=1)
    exponents = [alpha] if form.tied else [alpha, beta]
    starts = np.concatenate([np.log(weights), np.stack(exponents, axis=1)], axis=1)
    return [starts[place] for place in np.argsort(cost, kind="stable")[:_STARTS]]
