"""What all norms of a model see of a few fixed sequences, in figures that are the same in every layout.

The tokens are the first of the validation split, up to :data:`TOKENS` and half a step's: the same at every step, for every
seed of a run and in every layout, so that what changes is the model, and arms of a comparison are seen on the same text.
They go through the model once, forward, as in an evaluation: without dropout, without noise, and without gradients.

Why not the training step's own forward pass, which is there anyway? Recomputation calls a norm twice, with what it computes
in between; a compiled layer sees no hook, and to run that step uncompiled would change its numbers; how many tokens a
data rank has in a micro-batch depends on the layout; and from step to step other text is another variance. What it costs is
one forward pass of these tokens and some passes over the norms' inputs (see ``benchmarks/results/telemetry.md``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..data.batch import Batch
from ..data.dataset import Sequences
from ..model.compiled import uncompiled
from ..model.norm_slots import norms_of
from ..norms.base import Norm
from ..norms.site import Site
from ..norms.statistics import Figures, NormSums
from ..parallel.cpu_compat import device
from ..parallel.groups import Groups
from .config import TrainConfig
from .step import inputs, own_share

if TYPE_CHECKING:
    from .loop import Trainer

#: Tokens that are looked at at most, in whole sequences, and one of these at least.
TOKENS = 2048


class NormView:
    """Looks at the norms of a model on the first sequences of a split.

    Args:
        sequences: the validation split.
        train: how long they are, and how many a step takes.

    Attributes:
        tokens: how many are looked at.
    """

    def __init__(self, sequences: Sequences, train: TrainConfig) -> None:
        self._sequences = sequences
        most = min(TOKENS // train.sequence_length, train.global_batch_size // 2, sequences.per_epoch)
        self._number = max(1, most)
        self.tokens = self._number * train.sequence_length
        self._batches: list[Batch] = []
        self._counted: list[int] = []  # sequences of each micro-batch that are looked at; the first of them

    def prepare(self, trainer: Trainer) -> None:
        """Read the sequences, unless that is done: the first look at a split may have to write the index of its order."""
        if not self._batches:
            self._make_batches(trainer.groups, trainer.config.train.micro_batch(trainer.groups.data_size))

    def figures(self, trainer: Trainer) -> dict[Site, Figures]:
        """Of every norm of the whole model, in the order data meets them; the same on every rank. Collective."""
        model, groups = trainer.config.model, trainer.groups
        self.prepare(trainer)
        widths = {site: model.norm_width(site) for site in model.norm_sites()}
        found = _AllSums(widths)
        with ExitStack() as within:
            within.enter_context(uncompiled())  # compiled layers would not see the hooks
            within.enter_context(_watched(trainer.engine.module, groups, found, self._counted))
            trainer.engine.evaluate([inputs(own_share(batch, groups)) for batch in self._batches])
        found.add_up()
        return {site: sums.figures() for site, sums in found.of_sites.items()}

    def _make_batches(self, groups: Groups, most: int) -> None:
        """This data rank's micro-batches, of as many on every rank, with sequences that do not count behind those that do."""
        share = -(-self._number // groups.data_size)
        size = min(most, share)
        for start in range(0, share, size):
            numbers = [groups.data_rank + groups.data_size * place for place in range(start, start + size)]
            real = [number for number in numbers if number < self._number]
            samples = [self._sequences.sample(number) for number in real]
            self._batches.append(Batch.of([*samples, *(self._sequences.nothing() for _ in range(size - len(real)))]))
            self._counted.append(len(real))


class _AllSums:
    """The sums of all sites of a model, in one tensor, so that ranks add them up in one message."""

    def __init__(self, widths: dict[Site, int]) -> None:
        sizes = [NormSums.size(width) for width in widths.values()]
        self._sums = torch.zeros(sum(sizes), dtype=torch.float64, device=device())
        self._peaks = torch.zeros(len(widths), NormSums.num_peaks(), dtype=torch.float64, device=device())
        parts = zip(widths.items(), self._sums.split(sizes), self._peaks, strict=True)
        self.of_sites = {site: NormSums(width, sums, peaks) for (site, width), sums, peaks in parts}

    def add_up(self) -> None:
        """Over all ranks. A site's rows are on some of them, and what others have of it is 0."""
        dist.all_reduce(self._sums)
        dist.all_reduce(self._peaks, op=dist.ReduceOp.MAX)


@contextmanager
def _watched(module: nn.Module, groups: Groups, found: _AllSums, counted: Sequence[int]) -> Iterator[None]:
    """Within it, every norm of a model adds its input of the next forward passes, one for each number in ``counted``."""
    micro_batch = -1

    def begin(module: nn.Module, arguments: object) -> None:
        nonlocal micro_batch
        micro_batch += 1

    def see(norm: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, Norm) and norm.site is not None
        sums = found.of_sites[norm.site]
        if micro_batch == 0 and _answers_for_gain(norm, groups):
            sums.add_gain(norm)  # here, because ZeRO-3 has the weights together only as the norm runs
        if counted[micro_batch]:
            sums.add(norm, arguments[0][:, : counted[micro_batch]])  # [s, b, ...] at every site

    handles = [module.register_forward_pre_hook(begin)]
    handles += [norm.register_forward_pre_hook(see) for norm in norms_of(module).values()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _answers_for_gain(norm: Norm, groups: Groups) -> bool:
    """Whether this rank's columns of a gain enter the sum: of ranks with the same ones, the first one's do."""
    return dist.get_rank(groups.replicas) == 0 and (norm.process_group is not None or groups.tensor_rank == 0)
