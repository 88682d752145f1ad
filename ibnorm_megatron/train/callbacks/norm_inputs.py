"""What the norms of a trained model see."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor, nn

from ...data.loader import Loader
from ...model.compiled import uncompiled
from ...model.norm_slots import norms_of
from ...norms.base import Norm
from ..step import inputs, own_share

if TYPE_CHECKING:
    from ..loop import Trainer


def show_norms(trainer: Trainer, validation: Loader, see: Callable[[Norm, Tensor], None]) -> None:
    """Evaluate one validation micro-batch, and call ``see`` with every norm of this rank and its input. Collective."""

    def hook(norm: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, Norm)
        see(norm, arguments[0].detach())

    handles = [norm.register_forward_pre_hook(hook) for norm in norms_of(trainer.engine.module).values()]
    with uncompiled():  # compiled layers would not see the hooks
        trainer.engine.evaluate([inputs(own_share(validation.once(0)[0], trainer.groups))])
    for handle in handles:
        handle.remove()
