r"""How far two correct layouts may be apart, derived from how they round. Nothing here was fitted to a result.

1. *One rounding* of a number x is off by at most u |x|. The unit roundoff u is 2^-24 in fp32, 2^-11 in fp16 and 2^-8 in bf16
   (IEEE 754; bf16 has 8 bits of significand). As mantissas go the error is spread over [-u|x|, u|x|], with variance at most
   u^2 x^2 / 3.
2. *A sum* of n terms rounds n times. Where rounding errors are independent with mean zero, they grow as sqrt(n) and not as n:
   relative variance n u^2 / 3 (Higham & Mary, SIAM J. Sci. Comput. 41 (2019) A2815, theorem 2.4). Matrix products, norms and
   softmax add up in fp32, whatever type they read and write.
3. *An operation* reads what was stored and stores its result: in fp32 that is one rounding more, variance (n + 1) u^2 / 3. In
   bf16 and fp16 its weights were rounded as well as its result, variance 2 u_low^2 / 3 on top of n u^2 / 3.
4. *A path*: the gradient of a parameter has come through every operation of the forward pass and back, and relative errors of
   independent operations add up in variance. :func:`_forward` and :func:`_backward` list the operations' n, layer by layer.
   This takes operations to pass on a relative error no larger than they got it, in the norm over a tensor: products by random
   matrices, norms, and a residual stream do. A sum of terms that cancel does not. So a norm's parameter is measured against
   the largest gradient of its norm: one of a scalar may cancel. A norm of nothing but scalars is measured against the median
   of these over all norms. And norms of queries and keys stand behind softmax's backward pass, which subtracts from what came
   through the values its mean, and leaves next to nothing where attention is nearly even (for a bias of keys without
   rotation, exactly nothing): they are measured against no less, per element, than the gradient of the matrix that makes
   queries, keys and values.
5. *Ranks* add up their parts in the type that is stored: one rounding for every rank beyond the first, at each of the four
   exchanges of a layer over tensor ranks and two over context ranks. Replicas and micro-batches are added up in fp32.
6. *Two layouts* are both off, so their variances add up; and LAMBDA = 3 standard deviations hold with probability
   1 - 2 exp(-LAMBDA^2 / 2) = 0.98 for one number (Higham & Mary), and for the norm of a tensor of many with near certainty.
7. *The loss* is a mean over N labels, each off by the forward pass's relative error, which independent labels share no more
   than 1 / N of in variance; and a sum of N numbers. Where weights were rounded to bf16 or fp16 all labels share that error, so
   nothing is divided by N.
8. *The gradient's norm* is off by as much as the gradient, and is a sum of squares: n is the size of the largest parameter,
   since norms of parameters are combined.
9. *Later steps*: AdamW's step is m / (sqrt(v) + eps). With weights w_s of the mean m and w'_s of v over the steps s so far,
   both adding up to 1, and C^2 = max w_s / w'_s, Cauchy and Schwarz give
   |change of a step| <= (1 + C / 4) / eps x max_s |change of g_s|. An element whose gradient is nothing but rounding would
   still make a full step where eps is smaller than rounding; so verify sets adam_eps to the root mean square of the reference's
   first clipped gradient. Then the update of a parameter after K steps is off by at most (1 + C / 4) / eps x sum_t lr_t x
   t B c G, where B is the bound of its gradient, G the largest norm of it in these steps, and c = 2 where clipping divides by a
   norm that is off as well. Adding it to a weight w rounds K times: LAMBDA u |w| sqrt(2 K / 3). The last is most of it.
10. *Their gradients*: a step that is small enough to be stable changes a gradient by less than its own size, so what a step was
    off by, relative to itself, it adds to the next gradient: t B at step t, and as much for loss and norm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

from ..model.config import ModelConfig
from ..parallel.config import Precision
from .layouts import Case

UNIT_ROUNDOFF: dict[Precision, float] = {"fp32": 2.0**-24, "fp16": 2.0**-11, "bf16": 2.0**-8}
LAMBDA = 3.0


@dataclass(frozen=True)
class Bounds:
    """Largest relative differences at the first step; :meth:`at` gives those of later ones.

    Attributes:
        loss: of the mean loss.
        gradient: of a parameter's gradient, to the norm of the reference's.
        norm: of the whole gradient's norm.
    """

    loss: float
    gradient: float
    norm: float

    @staticmethod
    def at(bound: float, step: int) -> float:
        """A first step's bound at a later step, counted from 1."""
        return step * bound


def derive(
    model: ModelConfig, case: Case, precision: Precision, *, sequence_length: int, sequences: int, labels: float
) -> Bounds:
    """The bounds of a layout against one process in fp32.

    Args:
        model: shapes and number of layers.
        case: sizes of the layout.
        precision: of the layout's weights and activations.
        sequence_length: tokens of a sequence.
        sequences: of a step.
        labels: that count in a step.
    """
    forward, backward = _forward(model, sequence_length), _backward(model, sequence_length)
    whole_path = [*forward, *backward, sequence_length * sequences]  # at its end the sum over all tokens
    low = precision != "fp32"
    layout = case.layout
    exchanges = model.num_layers * (4 * (layout.tensor - 1) + 2 * (layout.context - 1))
    unit, exact = UNIT_ROUNDOFF[precision], UNIT_ROUNDOFF["fp32"]

    def apart(path: Sequence[int], share: float) -> float:
        """Of the variances of reference and layout along a path, of which a share of the roundings counts."""
        summed = _variance(sum(path) + len(path), exact) + _variance(sum(path), exact)
        stored = _variance((2 if low else 1) * len(path) + exchanges, unit)
        return share * (summed + stored)

    spread = _variance(case.data * layout.context + case.accumulate, exact)
    gradient = apart(whole_path, 1.0) + spread
    loss = apart(forward, 1.0 if low else 1 / max(1.0, labels)) + 2 * _variance(int(labels), exact)
    norm = gradient + 2 * _variance(_largest(model), exact)
    return Bounds(*(LAMBDA * sqrt(variance) for variance in (loss, gradient, norm)))


def update_sensitivity(beta1: float, beta2: float, steps: int) -> float:
    """(1 + C / 4) of point 9: how much AdamW's steps respond to their gradients, in units of 1 / eps."""
    last_of_mean = (1 - beta1) / (1 - beta1**steps) if beta1 < 1 else 1 / steps
    last_of_square = (1 - beta2) / (1 - beta2**steps)
    largest = max(1.0, last_of_mean / last_of_square, (last_of_mean * beta1 ** (steps - 1)) / (
        last_of_square * beta2 ** (steps - 1)) if beta2 > 0 else 1.0)  # fmt: skip
    return 1 + sqrt(largest) / 4


def weight_rounding(steps: int) -> float:
    """What so many additions to a weight, in fp32, may be off by between two layouts, relative to the weight."""
    return LAMBDA * UNIT_ROUNDOFF["fp32"] * sqrt(2 * steps / 3)


def _variance(roundings: int, unit: float) -> float:
    return roundings * unit**2 / 3


def _forward(model: ModelConfig, sequence_length: int) -> list[int]:
    """Terms that each operation of a forward pass adds up, on the way of one token to its loss."""
    hidden, head, ffn = model.hidden_size, model.head_dim, model.ffn_hidden_size
    norms = [model.norm_width(site) for site in model.norm_sites()]
    # q k v, scores, softmax, values, projection, addition; fc1, activation, fc2, addition
    layer = [hidden, head, sequence_length, sequence_length, hidden, 1, hidden, 1, ffn, 1]
    head_and_loss = [hidden, model.vocab_size]
    return layer * model.num_layers + norms + head_and_loss


def _backward(model: ModelConfig, sequence_length: int) -> list[int]:
    """Terms on the way back, up to the operation that has the parameter."""
    hidden, head, ffn = model.hidden_size, model.head_dim, model.ffn_hidden_size
    gates = 2 if model.activation == "swiglu" else 1
    norms = [model.norm_width(site) for site in model.norm_sites()]
    qkv = hidden + 2 * model.num_key_value_heads * head
    layer = [hidden, 1, gates * ffn, 1, hidden, sequence_length, sequence_length, sequence_length, qkv, 1]
    return layer * model.num_layers + norms + [model.vocab_size, model.vocab_size]


def _largest(model: ModelConfig) -> int:
    """Elements of the largest parameter."""
    gates = 2 if model.activation == "swiglu" else 1
    qkv = model.hidden_size + 2 * model.num_key_value_heads * model.head_dim
    return model.hidden_size * max(model.vocab_size, gates * model.ffn_hidden_size, qkv)
