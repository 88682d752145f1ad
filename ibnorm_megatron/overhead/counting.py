"""What the norms of a step really do: PyTorch's operations and the bytes that go through them, and what autograd keeps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..norms.base import Norm
from ..norms.cost import Cost
from .spans import Pass, norm_spans

#: Operations that only give memory a name or a shape. Views are told by their schemas.
_TOUCH_NOTHING = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view", "alias"}

#: Operations that look at the shape of their first argument, or overwrite it, and do not read it.
_NOT_READ = {"copy_", "fill_", "zero_", "new_zeros", "new_ones", "new_full", "zeros_like", "ones_like", "full_like"}


@dataclass(frozen=True)
class Counted:
    """Of all norms in a step.

    Attributes:
        operations: of PyTorch that move data; a fused kernel is one.
        bytes: their inputs and outputs, each once for an operation.
        saved_bytes: what autograd keeps for norms, without parameters; what a norm keeps twice counts once.
        own_bytes: of these, what no one but norms keeps.
    """

    operations: Cost
    bytes: Cost
    saved_bytes: int
    own_bytes: int


def count(model: nn.Module, step: Callable[[], object]) -> Counted:
    """Take a step of the model's training and count what its norms do in it."""
    dispatched, saved = _Dispatched(), _Saved()

    def begin(norm: Norm, name: Pass) -> None:
        dispatched.span = name
        if name == "forward":
            saved.begin(norm)

    def end(norm: Norm, name: Pass) -> None:
        dispatched.span = None
        if name == "forward":
            saved.norm = None

    with ExitStack() as held:
        handle = model.register_forward_pre_hook(lambda *_: saved.tally())  # of the micro-batch before
        held.callback(handle.remove)
        held.enter_context(norm_spans(model, begin, end))
        held.enter_context(torch.autograd.graph.saved_tensors_hooks(saved.keep, lambda tensor: tensor))
        held.enter_context(dispatched)
        step()
    saved.tally()
    calls, moved = (Cost(counter["forward"], counter["backward"]) for counter in (dispatched.calls, dispatched.bytes))
    return Counted(calls, moved, saved.bytes, saved.own_bytes)


class _Dispatched(TorchDispatchMode):
    """Counts operations, and bytes of their inputs and outputs, while ``span`` says in which pass of a norm they are."""

    def __init__(self) -> None:
        super().__init__()
        self.span: Pass | None = None
        self.calls: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if self.span is not None and (moved := moved_bytes(func, args, kwargs or {}, result)):
            self.calls[self.span] += 1
            self.bytes[self.span] += moved
        return result


def moved_bytes(func: Any, args: Any, kwargs: dict[str, Any], result: Any) -> int:
    """Bytes of an operation's inputs and outputs: what it would move if nothing were in a cache, and it passed once."""
    schema, name = func._schema, func.overloadpacket.__name__
    if name in _TOUCH_NOTHING or any(out.alias_info and not out.alias_info.is_write for out in schema.returns):
        return 0
    outputs = {argument.name for argument in schema.arguments if argument.is_out}
    read = [args[1:] if name in _NOT_READ else args, [value for key, value in kwargs.items() if key not in outputs]]
    return sum(map(_bytes, tree_leaves([read, result])))


def _bytes(value: object) -> int:
    """Of a tensor; of one that repeats along a dimension once."""
    if not isinstance(value, Tensor):
        return 0
    elements = 1
    for size, stride in zip(value.shape, value.stride(), strict=True):
        elements *= size if stride or not size else 1
    return elements * value.element_size()


class _Saved:
    """Counts what autograd keeps. Tensors are held until :meth:`tally`, so that an address means one storage."""

    def __init__(self) -> None:
        self.norm: Norm | None = None
        self.bytes = self.own_bytes = 0
        self._call = 0
        self._held: list[tuple[int, Tensor]] = []  # 0 stands for all that is no norm

    def begin(self, norm: Norm) -> None:
        """A norm's forward pass."""
        self.norm = norm
        self._call += 1

    def keep(self, tensor: Tensor) -> Tensor:
        """What autograd calls with everything it keeps."""
        if self.norm is None:
            self._held.append((0, tensor))
        elif all(_address(tensor) != _address(parameter) for parameter in self.norm.parameters()):
            self._held.append((self._call, tensor))
        return tensor

    def tally(self) -> None:
        """Add up what is held, and let go of it."""
        outside = {_address(tensor) for call, tensor in self._held if call == 0}
        places = {(call, _place(tensor)): _bytes(tensor) for call, tensor in self._held if call}
        self.bytes += sum(places.values())
        own = {place: size for (_, place), size in places.items() if place[0] not in outside}
        self.own_bytes += sum(own.values())
        self._held.clear()


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _place(tensor: Tensor) -> tuple[Any, ...]:
    return _address(tensor), tensor.storage_offset(), tuple(tensor.shape), tensor.dtype
