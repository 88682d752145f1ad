"""What goes on inside the model as it learns: what its norms see and do, and the gradient of each of its parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ...norms.site import Site
from ...norms.statistics import Figures
from ..norm_view import NormView
from .base import Callback

if TYPE_CHECKING:
    from ..loop import Trainer


class Telemetry(Callback):
    """After every ``interval`` steps and the last one, tell every callback what the norms see and how large gradients were.

    A record has ``grad_norm``, by part of the model the norm of the step's gradient before clipping, and ``sites``, by site
    the figures of :class:`~ibnorm_megatron.norms.statistics.Figures` and ``variance_ratio``, of the model after the step,
    with lambda as the next step has it. Nothing of it changes the run. docs/telemetry.md says what each number means.
    """

    doing = "looking into norms"

    def __init__(self, interval: int, view: NormView) -> None:
        assert interval > 0
        self._interval, self._view = interval, view
        self._grad_norm: dict[str, float | None] = {}

    def on_start(self, trainer: Trainer) -> None:
        # What a full disk refuses is refused before training, and not in the middle of it.
        self._view.prepare(trainer)

    def on_gradient(self, trainer: Trainer) -> None:
        if self._due(trainer, trainer.state.step + 1):
            self._grad_norm = trainer.engine.gradient_norms(trainer.engine.module.parts())

    def after_step(self, trainer: Trainer) -> None:
        step = trainer.state.step
        if self._due(trainer, step):
            figures = self._view.figures(trainer)
            ratios = variance_ratios(figures)
            sites = {str(site): {**found.plain(), "variance_ratio": ratios[site]} for site, found in figures.items()}
            trainer.notify_telemetry({"step": step, "grad_norm": self._grad_norm, "sites": sites})

    def _due(self, trainer: Trainer, step: int) -> bool:
        return step % self._interval == 0 or step == trainer.config.train.steps


def variance_ratios(figures: Mapping[Site, Figures]) -> dict[Site, float | None]:
    """Var(T_l) / Var(T_(l-1)), where T_l is what goes into a site of layer l, and T_(l-1) into the same site a layer before.

    Var is the rows' mean variance. At ``attn_in`` of a pre-norm model T is the residual stream, and the ratio how much of its
    variance a layer adds. The final norm stands where the next layer's ``attn_in`` would, and is compared with the last one's.
    None where there is nothing before: in the first layer, behind the embedding, and where no norm stands a layer before.
    """
    layers = [site.layer for site in figures if site.layer is not None]
    ratios: dict[Site, float | None] = {}
    for site, found in figures.items():
        before = None
        if site.layer:
            before = figures.get(Site(site.name, site.layer - 1))
        elif site.name == "final" and layers:
            before = figures.get(Site("attn_in", max(layers)))
        ratios[site] = (found.std / before.std) ** 2 if before is not None and before.std else None
    return ratios
