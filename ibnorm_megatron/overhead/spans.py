"""When a norm is at work: calls around its forward pass, and around every node that its backward pass runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

from torch import Tensor, nn

from ..model.norm_slots import norms_of
from ..norms.base import Norm

Pass = Literal["forward", "backward"]


@contextmanager
def norm_spans(model: nn.Module, begin: Callable[[Norm, Pass], None], end: Callable[[Norm, Pass], None]) -> Iterator[None]:
    """Within it, ``begin`` and ``end`` are called around the passes of every norm of the model.

    Backward, a norm is the nodes of autograd's graph between its output and its input. What adds its gradient to another's,
    or to a parameter's, is none of them. Compiled code sees no hooks: run it in :func:`.model.compiled.uncompiled`.
    """

    def before(norm: nn.Module, arguments: tuple[Any, ...]) -> None:
        assert isinstance(norm, Norm)
        begin(norm, "forward")

    def after(norm: nn.Module, arguments: tuple[Any, ...], y: Tensor) -> None:
        assert isinstance(norm, Norm)
        end(norm, "forward")
        for node in _nodes_between(arguments[0], y):
            node.register_prehook(lambda gradients: begin(norm, "backward"))
            node.register_hook(lambda of_inputs, of_outputs: end(norm, "backward"))

    handles = []
    for norm in norms_of(model).values():
        handles += [norm.register_forward_pre_hook(before), norm.register_forward_hook(after)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _nodes_between(x: Tensor, y: Tensor) -> list[Any]:
    """The nodes that y's gradient passes on its way to x and to parameters, without those that store the latter."""
    found: dict[Any, None] = {}
    left = [y.grad_fn]
    while left:
        node = left.pop()
        # A leaf's node, and no other, has the leaf as its variable.
        if node is None or node is x.grad_fn or node in found or hasattr(node, "variable"):
            continue
        found[node] = None
        left += [following for following, _ in node.next_functions]
    return list(found)
