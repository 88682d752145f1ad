"""What a norm costs a row, by formula. docs/overhead.md derives the numbers, and a test counts them in plain PyTorch.

An addition, a subtraction, a product, a quotient, a root and a transcendental function count one each, absolute values and
signs too; a sum of d numbers counts d. What is done once for a launch or a column, and not for every row, counts nothing.
Backward begins from x and the row's statistics, as the fused kernels do: what was cheap to compute is computed again.
"""

from __future__ import annotations

from typing import NamedTuple


class Cost(NamedTuple):
    """Of something in the forward pass, and in the backward pass: operations or bytes."""

    forward: int
    backward: int

    @property
    def total(self) -> int:
        """Of both."""
        return self.forward + self.backward

    def times(self, count: int) -> Cost:
        """Of so many of them."""
        return Cost(count * self.forward, count * self.backward)


class Operations(NamedTuple):
    """Operations of one pass over a row: so many for every column, and so many for the row."""

    column: int
    row: int = 0

    def of(self, width: int) -> int:
        """Of a row of ``width`` columns."""
        return self.column * width + self.row


#: Operations of the forward and the backward pass.
Passes = tuple[Operations, Operations]


def standardizing(
    *,
    center: bool,
    bias: bool,
    relative: bool = False,
    compression: tuple[int, int] = (0, 0),
    learned: tuple[bool, bool] = (False, False),
) -> Passes:
    """Operations of a norm that divides by a root: LayerNorm, RMSNorm, IBNorm.

    Args:
        center: whether means are subtracted.
        bias: whether there is a beta.
        relative: IBNorm's scale.
        compression: operations a column of g and of g'; (0, 0) where g is a multiple of its argument.
        learned: whether lambda gets a gradient, and whether through the factor of the unit-slope form as well.
    """
    value, slope = compression
    bent = value > 0
    # u / lambda is part of the compression's count, and the relative scale's factor of the row rides in the same product.
    value += relative and not bent
    mean_of_g = center and bent
    forward = Operations(
        2 * center + 2 * relative + value + 2 * mean_of_g + 3 + 1 + bias,
        center + (3 + bent) * relative + mean_of_g + 3,
    )
    z, parameters, slopes = center + value + mean_of_g + 1, 2 + bias, slope
    projected = 1 + center + 2 + (2 + center)  # w; mean(w); mean(w z); w - mean(w) - z mean(w z)
    chained = bent + 1 + 2 * mean_of_g + 4 * relative  # its product with g'; K (p - mean(p) - c r^2 mean(p c))
    lam, through_factor = learned
    of_lambda = 2 * (lam and not relative) + 2 * through_factor  # sum(p c), which the relative scale has; and sum(dg g)
    backward = Operations(
        z + parameters + slopes + projected + chained + of_lambda,
        center + 1 + (bent or relative) + (bent and relative) + mean_of_g + 3 * relative + 2 * lam + 2 * through_factor,
    )
    return forward, backward


def standardizing_statistics(*, center: bool, bytes_an_element: int, relative: bool = False, bent: bool = False) -> int:
    """float32 numbers of a row that the fused kernels keep for the backward pass; :func:`.kernels.folding.slots` says which.

    The mean is two of them for float32 input, whose mean may be large.
    """
    mean = 2 if bytes_an_element > 2 else 1
    return mean * center + relative + (center and bent) + 1
