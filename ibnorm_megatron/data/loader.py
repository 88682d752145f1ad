"""Which samples a data-parallel rank takes, by how many the run has consumed; made ahead of the step that takes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor

from .batch import Batch
from .dataset import Sequences
from .prefetch import Prefetch


class Loader:
    """A pure function of the first sample: a step sees the G samples from there, where G is the global batch.

    Micro-batch m of data rank r of R takes the (m*R + r)-th run of ``micro_batch_size`` of them, in every layout.

    Args:
        dataset: what the samples come from.
        ahead: steps whose batches a thread makes while the one before them is taken; 0: no thread, each when it is asked for.
        pin: copy batches to pinned memory, in that thread, from which a GPU reads while it computes.

    Attributes:
        dataset: as given.
    """

    def __init__(
        self,
        dataset: Sequences,
        *,
        global_batch_size: int,
        micro_batch_size: int,
        data_rank: int,
        data_size: int,
        ahead: int = 0,
        pin: bool = False,
    ) -> None:
        self.dataset = dataset
        self._global, self._micro = global_batch_size, micro_batch_size
        self._rank, self._size = data_rank, data_size
        self._ahead, self._pin = ahead, pin
        self._steps = Prefetch(lambda first: self._batches(first, self.dataset.sample))
        self._passing = Prefetch(self.once)

    def batches(self, first_sample: int) -> list[Batch]:
        """This rank's micro-batches of the step whose first sample this is; the data repeats epoch after epoch."""
        if not self._ahead:
            return self._batches(first_sample, self.dataset.sample)
        return self._steps.get(first_sample, [first_sample + n * self._global for n in range(1, self._ahead + 1)])

    def once(self, number: int) -> list[Batch]:
        """This rank's micro-batches of global batch ``number`` of one pass: past the split's end samples are masked."""
        n = self.dataset.per_epoch
        take = lambda i: self.dataset.sample(i) if i < n else self.dataset.nothing()  # noqa: E731
        return self._batches(number * self._global, take)

    def one_pass(self, most: int) -> Iterator[list[Batch]]:
        """The first global batches of one pass, at most so many."""
        last = min(most, self.passes())
        for number in range(last):
            following = range(number + 1, min(number + 1 + self._ahead, last))
            yield self._passing.get(number, following) if self._ahead else self.once(number)

    def passes(self) -> int:
        """Global batches that one pass over the split takes."""
        return -(-self.dataset.per_epoch // self._global)

    def close(self) -> None:
        """End the threads."""
        self._steps.close()
        self._passing.close()

    def _batches(self, first: int, take: Callable[[int], dict[str, Tensor]]) -> list[Batch]:
        starts = range(first + self._rank * self._micro, first + self._global, self._size * self._micro)
        found = [Batch.of([take(i) for i in range(start, start + self._micro)]) for start in starts]
        return [batch.map(Tensor.pin_memory) for batch in found] if self._pin else found
