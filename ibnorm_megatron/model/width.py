"""The maximal update parametrization (muP), by which widths share their learning rate: all that ``model.mup_base_width`` does.

Yang et al., arXiv 2203.03466, table 8, for Adam, with m = hidden_size / base width (:attr:`ModelConfig.width_ratio`); Lingle,
arXiv 2404.05728, has tried it on transformers:

| weights                                    | initial std  | learning rate | else                        |
|--------------------------------------------|--------------|---------------|-----------------------------|
| a layer's matrices: q k v, proj, fc1, fc2  | x m^(-1/2)   | x 1/m         | weight decay x m            |
| output head, tied to the embedding or not  | as it is     | as it is      | what it reads is x 1/m      |
| embeddings, biases, norms                  | as they are  | as they are   |                             |

Weight decay times m keeps what AdamW takes off a weight at each step, learning rate x decay, the same at every width: with a
decay that does not grow the transfer breaks down (Wang & Aitchison, arXiv 2405.13698; Kosson et al., arXiv 2510.19093). Scores
are divided by sqrt(head_dim) as ever: muP's 1 / head_dim is that up to a constant where all widths have heads of one size, so
hold head_dim and ffn_hidden_size / hidden_size as they are. Adam's eps is not scaled, although gradients of a layer's matrices
shrink with m: it has to be far below them (Everett et al., arXiv 2407.05872).

At hidden_size = base width every factor is 1, and the model, its optimizer and its run are those without muP, bit for bit.
"""

from __future__ import annotations

from typing import Any

from megatron.core.models.gpt import GPTModel
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from torch import nn


def parametrize(gpt: GPTModel, ratio: float) -> None:
    """Mark the matrices of a stage's layers, and let the output head read its input divided by ``ratio``.

    The mark says to :mod:`.init` and to the optimizer by how much the matrix is wider than at the base width.
    """
    for module in gpt.decoder.modules():
        if isinstance(module, ColumnParallelLinear | RowParallelLinear):
            module.weight.width_ratio = ratio
    if gpt.post_process and ratio != 1.0:
        # Before the head and not behind it: there are fewer hidden states than logits, and it is the same product.
        gpt.output_layer.register_forward_pre_hook(lambda _, given: _divided(given, ratio))


def _divided(given: tuple[Any, ...], ratio: float) -> tuple[Any, ...]:
    hidden, *rest = given
    return (hidden / ratio, *rest)


def width_ratio(parameter: nn.Parameter) -> float:
    """By how much a matrix is wider than at the base width; 1 where muP is off, and for everything outside the layers."""
    ratio: float = getattr(parameter, "width_ratio", 1.0)
    return ratio
