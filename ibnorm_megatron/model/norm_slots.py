"""Norms in Megatron-core's slots: a builder for the slots it has, and modules for the places where it has none.

Megatron-core calls a norm's builder with ``config``, ``hidden_size`` and ``eps``. It has slots before each sub-layer, on the
queries and keys of one head, and at the end. Behind a sub-layer and around the residual addition stands its
bias-dropout-add, and before a sub-layer's last matrix nothing: :class:`ResidualAdd` and :class:`NormedRowParallelLinear`
take their places.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.tensor_parallel.layers import RowParallelLinear
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor, nn

from ..norms.base import Norm
from ..norms.config import NormConfig
from ..norms.peers.noise import draw_seed
from ..norms.site import Site
from ..parallel.groups import Groups


@dataclass(frozen=True)
class NormSlot:
    """One norm to build: its config, its place, and the ranks that share its rows or its tokens.

    Attributes:
        norm: its config.
        site: its place.
        width: columns of a row, over all ranks.
        sharded: whether tensor parallelism spreads the columns of a row over ranks.
        groups: this rank's place in the layout.
        compiled: whether ``torch.compile`` fuses its passes.
    """

    norm: NormConfig
    site: Site
    width: int
    sharded: bool
    groups: Groups
    compiled: bool = False

    def build(self, config: TransformerConfig) -> Norm:
        """The norm, of this rank's columns."""
        tensor = self.groups.tensor if self.groups.layout.tensor > 1 else None
        own_heads = self.site.name in ("q", "k") and not self.sharded
        # The tensor ranks share a token's heads, and with sequence parallelism the tokens of the residual stream.
        shares_rows = tensor is not None and not self.sharded and (own_heads or config.sequence_parallel)
        norm = self.norm.build(
            self.width,
            config=config,
            site=self.site,
            process_group=tensor if self.sharded else None,
            partial_over_tensor_parallel=tensor is not None and own_heads,
            tensor_group=tensor,
            token_groups=(self.groups.replicas, *([tensor] if shares_rows and tensor is not None else [])),
        )
        if self.compiled and norm.process_group is None:  # there is nothing to fuse across a collective
            norm.forward = torch.compile(norm.forward)  # the hooks around it stay as they are
        return norm


class NormAtSite:
    """Megatron-core's builder of one norm. A class, because ``build_module`` calls nothing else; it returns the norm."""

    def __new__(cls, *, config: TransformerConfig, hidden_size: int, eps: float, slot: NormSlot) -> nn.Module:  # type: ignore[misc]
        norm = slot.build(config)
        return OverHeads(norm) if slot.sharded else norm


class OverHeads(nn.Module):
    """A norm of queries or keys over all heads together, as OLMo 2 has it (arXiv 2501.00656); ``[s, b, heads, width]``."""

    def __init__(self, norm: Norm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """Every token's heads as one row, sharded over the tensor ranks."""
        return self.norm(x.flatten(-2)).view(x.shape)


class ResidualAdd(nn.Module):
    """Megatron-core's bias-dropout-add with a norm: ``residual + dropout(norm(x + bias))``, or around it all.

    Args:
        config: the model's.
        slot: the norm.
        after: true for ``norm(residual + dropout(x + bias))``, the placement of the first transformers.
    """

    def __init__(self, *, config: TransformerConfig, slot: NormSlot, after: bool) -> None:
        super().__init__()
        self.norm, self._after = slot.build(config), after

    def forward(self, training: bool, fused: bool) -> Callable[..., Tensor]:
        """Megatron-core asks for a function first."""
        return self._add

    def _add(self, x_with_bias: tuple[Tensor, Tensor | None], residual: Tensor, prob: float) -> Tensor:
        x, bias = x_with_bias
        x = x if bias is None else x + bias
        if self._after:
            return self.norm(residual + F.dropout(x, prob, self.training))
        return residual + F.dropout(self.norm(x), prob, self.training)


class NormedRowParallelLinear(RowParallelLinear):
    """A sub-layer's last matrix with a norm on its input, whose columns are sharded over the tensor ranks."""

    def __init__(self, *arguments: Any, config: TransformerConfig, slot: NormSlot, **keywords: Any) -> None:
        super().__init__(*arguments, config=config, **keywords)
        self.norm = slot.build(config)

    def forward(self, input_: Tensor) -> tuple[Tensor, Tensor | None]:
        """As RowParallelLinear: output and bias."""
        return super().forward(self.norm(input_))


def norm_output(module: nn.Module, norm: Norm) -> None:
    """Norm what a module gives, such as the embedding: Megatron-core has no slot there."""
    module.norm = norm
    module.register_forward_hook(lambda module, arguments, output: module.norm(output))


def seed_norms(module: nn.Module) -> None:
    """Before every forward pass in training, give a seed to each norm that draws random numbers.

    Not where the norm stands: there, under sequence parallelism, megatron-core has forked the generator for each rank. And a
    layer that is computed again in the backward pass finds the seed that it had.
    """
    drawing = [norm for norm in norms_of(module).values() if norm.draws]

    def seed(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        if module.training:
            for norm in drawing:
                norm.set_seed(draw_seed())

    if drawing:
        module.register_forward_pre_hook(seed)


def norms_of(module: nn.Module) -> dict[Site, Norm]:
    """Every norm of a model, by its site."""
    return {child.site: child for child in module.modules() if isinstance(child, Norm) and child.site is not None}
