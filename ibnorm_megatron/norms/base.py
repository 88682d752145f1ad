"""What every norm layer has: a width, a place in the model, and parameters that say how they are spread over ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .plan import Plan
from .site import Site


class Norm(nn.Module):
    """A norm over the last dimension. A subclass makes its parameters by :meth:`vector` and :meth:`scalar`.

    Args:
        hidden_size: d, the width of a whole row.
        config: the Megatron ``TransformerConfig`` that the builder passes; its ``params_dtype`` types the parameters
            and its ``sequence_parallel`` says that each rank sees only a part of the tokens.
        site: where in the model the norm stands, or None outside one.
        process_group: given, a rank holds an equal slice of every row: of d / size columns.
        partial_over_tensor_parallel: true where the norm is applied to a rank's own heads only (q and k, per head).
        tensor_group: the tensor-parallel group, or None for one rank; with it a rank knows which rows of a micro-batch
            its own are (:meth:`row_numbers`).
        token_groups: groups over whose ranks the rows of a step are spread, for norms with statistics over tokens.

    Parameters are replicated over the tensor-parallel group, or sharded over ``process_group``. Where a rank's gradient
    of a replicated one covers only its share of the tokens, heads or columns, the parameter carries a mark for whoever
    sums gradients: ``sequence_parallel`` (Megatron's own) or ``partial_over_tensor_parallel``. A replicated parameter
    never has ``tensor_model_parallel`` set, which would count it once per rank in the gradient norm; a sharded one has.

    Attributes:
        center: whether a row's mean is taken away before anything else.

    Raises:
        ValueError: the row cannot be cut into equal slices.
    """

    center = False

    def __init__(
        self,
        hidden_size: int,
        *,
        config: Any = None,
        site: Site | None = None,
        process_group: dist.ProcessGroup | None = None,
        partial_over_tensor_parallel: bool = False,
        tensor_group: dist.ProcessGroup | None = None,
        token_groups: Sequence[dist.ProcessGroup] = (),
    ) -> None:
        super().__init__()
        ranks = dist.get_world_size(process_group) if process_group is not None else 1
        if hidden_size % ranks:
            raise ValueError(f"a row of {hidden_size} columns cannot be sharded over {ranks} ranks: the slices would differ")
        self.hidden_size, self.local_size = hidden_size, hidden_size // ranks
        self.site, self.process_group, self.token_groups = site, process_group, tuple(token_groups)
        self._tensor_group = tensor_group
        self._dtype: torch.dtype | None = getattr(config, "params_dtype", None)
        self._sequence_parallel = bool(getattr(config, "sequence_parallel", False))
        self._own_heads = partial_over_tensor_parallel

    def vector(self, value: float) -> nn.Parameter:
        """A parameter of one number a column, all equal to ``value``: ``[d]``, or this rank's slice of it."""
        parameter = nn.Parameter(torch.full((self.local_size,), value, dtype=self._dtype))
        if self.process_group is not None:
            parameter.tensor_model_parallel, parameter.partition_dim, parameter.partition_stride = True, 0, 1
        else:
            self._mark(parameter, self._own_heads)
        return parameter

    def scalar(self, value: float) -> nn.Parameter:
        """A parameter of one number, ``[1]``, which every rank holds."""
        parameter = nn.Parameter(torch.full((1,), value, dtype=self._dtype))
        self._mark(parameter, self._own_heads or self.process_group is not None)
        return parameter

    def _mark(self, parameter: nn.Parameter, partial: bool) -> None:
        # A norm over sharded columns sees every token, sequence parallelism or not; and one sum is enough.
        parameter.sequence_parallel = self._sequence_parallel and not partial
        parameter.partial_over_tensor_parallel = partial

    def row_numbers(self, x: Tensor) -> Tensor:
        """Which rows of the micro-batch, over all tensor ranks, those of x ``[s, b, ..., d]`` are: int64 ``[rows]``."""
        rows = torch.arange(x[..., 0].numel(), device=x.device)
        if self._tensor_group is None or self.process_group is not None:
            return rows
        rank, ranks = dist.get_rank(self._tensor_group), dist.get_world_size(self._tensor_group)
        if self._own_heads:  # [s, b, heads, d], this rank's heads of every token
            heads = x.shape[-2]
            return rows // heads * (heads * ranks) + rank * heads + rows % heads
        return rows + rank * len(rows) if self._sequence_parallel else rows  # sequences are cut along s, the first dimension

    def column_numbers(self, device: torch.device) -> Tensor:
        """Which columns of a whole row this rank holds: int64 ``[d]``, or of its slice."""
        first = 0 if self.process_group is None else dist.get_rank(self.process_group) * self.local_size
        return torch.arange(first, first + self.local_size, device=device)

    @property
    def counts_rows(self) -> bool:
        """Whether this rank's rows enter sums over the world: of ranks that see the same rows, the first one's do."""
        group = self._tensor_group
        shares = group is None or (self.process_group is None and group in self.token_groups)
        return shares or dist.get_rank(group) == 0

    def gain(self) -> Tensor | None:
        """gamma as the next forward pass has it, of this rank's columns ``[d]``: what a standardized row is multiplied by.

        None for a norm without one. A ``weight`` of that shape is taken for it.
        """
        weight = getattr(self, "weight", None)
        return weight if isinstance(weight, Tensor) and weight.shape == (self.local_size,) else None

    def current_compression(self) -> Plan | None:
        """How the next forward pass compresses a row before it standardizes it, in the unit-slope form; None: not at all."""
        return None

    def set_step(self, done: int, steps: int) -> None:
        """Called at the start of a run and after each optimizer step: ``done`` of ``steps`` are taken.

        What follows from it must follow from these two numbers alone, so that a resumed run goes on alike.
        """

    @property
    def draws(self) -> bool:
        """Whether training needs random numbers, and :meth:`set_seed` before every forward pass of the model."""
        return False

    def set_seed(self, seed: int) -> None:
        """The seed of the coming forward pass, and of its recomputation: the same on all tensor ranks."""

    def forward(self, x: Tensor) -> Tensor:
        """x ``[..., d]``, or this rank's columns of it, to the same shape and type."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        return str(self.hidden_size)
