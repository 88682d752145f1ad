"""What really goes over each process group, counted where torch.distributed hands its work to a backend.

Every collective of PyTorch, whoever calls it and whichever backend carries it, passes the dispatcher as an operator of the
``c10d`` library. A dispatch mode sees them all; those of a backward pass too, because autograd gives its threads the modes of
the thread that called it. PyTorch's own CommDebugMode counts calls the same way, but neither bytes nor groups.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .groups import Groups, ModelParallelUnit
from .messages import Message, Operation

#: Operator of c10d -> what it does, and the argument that holds the whole payload (of torch 2.13's schemas).
_PAYLOAD: dict[str, tuple[Operation, str]] = {
    "allreduce_": ("all_reduce", "tensors"),
    "allreduce_coalesced_": ("all_reduce", "tensors"),
    "_allgather_base_": ("all_gather", "output_tensor"),
    "allgather_": ("all_gather", "output_tensors"),
    "allgather_coalesced_": ("all_gather", "output_lists"),
    "allgather_into_tensor_coalesced_": ("all_gather", "outputs"),
    "_reduce_scatter_base_": ("reduce_scatter", "input_tensor"),
    "reduce_scatter_": ("reduce_scatter", "input_tensors"),
    "reduce_scatter_tensor_coalesced_": ("reduce_scatter", "inputs"),
    "alltoall_base_": ("all_to_all", "input"),
    "alltoall_": ("all_to_all", "input_tensors"),
    "broadcast_": ("broadcast", "tensors"),
    "reduce_": ("reduce", "tensors"),
    "send": ("send", "tensors"),
}

#: Operators that send nothing of this rank's.
_SILENT = frozenset({"recv_", "recv_any_source_", "barrier", "monitored_barrier_", "check_for_nan"})


class CountTraffic(TorchDispatchMode):
    """Counts what this rank sends while it is entered, by group and operation; groups of one rank send nothing.

        with CountTraffic(groups) as traffic:
            take_step(...)
        traffic.messages()

    It may be entered again, and goes on counting. It is for tests and measurements of bytes: every operator of PyTorch passes
    through Python meanwhile, which takes its time.

    Args:
        groups: this rank's place, whose groups the messages are named by.
    """

    def __init__(self, groups: Groups) -> None:
        super().__init__()
        self._names = _names(groups)
        self._calls: Counter[tuple[str, Operation, int]] = Counter()
        self._bytes: Counter[tuple[str, Operation, int]] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Runs the operator, and counts it if it is a collective."""
        keywords = kwargs or {}
        if func.namespace == "c10d":
            self._count(func, args, keywords)
        # A functional collective reaches c10d below this mode, where it would go uncounted. Nothing here uses them.
        assert "c10d_functional" not in func.namespace or "wait" in func._schema.name, f"{func} cannot be counted"
        return func(*args, **keywords)

    def messages(self) -> list[Message]:
        """What has been sent, one message for each group and operation."""
        return [
            Message(group, "", operation, ranks, calls, self._bytes[group, operation, ranks])
            for (group, operation, ranks), calls in sorted(self._calls.items())
        ]

    def _count(self, func: Callable[..., Any], args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        schema = func._schema  # type: ignore[attr-defined]
        name = schema.name.removeprefix("c10d::")
        if name in _SILENT:
            return
        operation, payload = _PAYLOAD[name]  # an operator that nobody knows must not go uncounted
        names = (argument.name for argument in schema.arguments)
        given = {**dict(zip(names, args, strict=False)), **keywords}
        group = dist.ProcessGroup.unbox(given["process_group"])
        if group.size() == 1:
            return
        key = (self._names.get(group.group_name) or f"ranks {dist.get_process_group_ranks(group)}", operation, group.size())
        tensors = [leaf for leaf in tree_leaves(given[payload]) if isinstance(leaf, Tensor)]
        self._calls[key] += 1
        self._bytes[key] += sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _names(groups: Groups) -> dict[str, str]:
    """torch.distributed's name of each group -> ours. Groups of the same ranks are told apart."""
    known = {
        "world": dist.group.WORLD,
        "model": ModelParallelUnit().get_model_parallel_group(),
        "embedding": groups.embedding,
        "pipeline": groups.pipeline,
        "context": groups.context,
        "tensor": groups.tensor,
        "replicas": groups.replicas,
    }
    return {group.group_name: name for name, group in known.items() if group is not None}
