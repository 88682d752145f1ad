"""Which corpus a sample comes from, and as its how many-th: a closed form, so that no horizon is decided beforehand.

The corpora are the leaves of a balanced binary tree. At each inner node let p be the share of its left side, an exact fraction.
Of the first m samples that come to the node, ``floor(p m + 1/2)`` go to the left and the others to the right. That is at most
1/2 away from p m and grows by 0 or 1 with m, so sample m goes to the left exactly if it grows there.

**Bound.** Of the first n samples let c be those of a corpus with share w. On the way down to its leaf, past d inner nodes, the
count n_j at a node becomes n_{j+1} = p_j n_j + e_j, where abs(e_j) <= 1/2, p_j < 1 is the share of the side, and w is the
product of all p_j. So c - w n is the sum of every e_j times the shares below it, and abs(c - w n) <= d / 2. The tree is
balanced, so d <= ceil(log2(number of corpora)).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class _Node:
    """Of so many ``parts`` of samples ``left`` go to the left side; the sides are nodes or numbers of corpora."""

    left: int
    parts: int
    sides: tuple[_Node | int, _Node | int]


class Blend:
    """A stream that takes its samples from corpora by weight.

    Args:
        weights: of each corpus, positive, of any sum. A float stands for the decimal number that it is printed as.
    """

    def __init__(self, weights: Sequence[float | Fraction]) -> None:
        exact = [Fraction(str(weight)) for weight in weights]
        assert exact and min(exact) > 0, "weights are positive"
        self._root = _tree(range(len(exact)), exact)

    def place(self, sample: int) -> tuple[int, int]:
        """The corpus of a sample of the stream, and which of that corpus's samples it is, both from 0."""
        node = self._root
        while isinstance(node, _Node):
            before = _rounded(sample * node.left, node.parts)
            right = _rounded((sample + 1) * node.left, node.parts) == before
            node, sample = node.sides[right], sample - before if right else before
        return node, sample


def _tree(corpora: range, weights: Sequence[Fraction]) -> _Node | int:
    if len(corpora) == 1:
        return corpora[0]
    middle = len(corpora) // 2
    sides = corpora[:middle], corpora[middle:]
    left, right = (sum((weights[corpus] for corpus in side), Fraction(0)) for side in sides)
    share = left / (left + right)
    return _Node(share.numerator, share.denominator, (_tree(sides[0], weights), _tree(sides[1], weights)))


def _rounded(numerator: int, denominator: int) -> int:
    """The nearest integer, the upper one of two: floor(x + 1/2)."""
    return (2 * numerator + denominator) // (2 * denominator)
