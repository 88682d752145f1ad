"""Several processes that are the ranks of one run, for benchmarks that look at each of them."""

from __future__ import annotations

import json
import multiprocessing
import multiprocessing.connection
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ibnorm_megatron.config import Config, load_config
from ibnorm_megatron.data.batch import Batch
from ibnorm_megatron.parallel.groups import Groups, World, model_parallel, process_group
from ibnorm_megatron.quiet import quiet

from .ports import free_port


def run_ranks(
    what: str, work: Callable[..., None], processes: int, *arguments: Any, timeout: float | None = None
) -> list[dict[str, Any]]:
    """What each rank has written, in their order.

    Args:
        what: they do, for the error.
        work: of a module that imports all that a run imports. It gets the environment of a rank as a launcher sets it, the
            file for what was found, as JSON, and the ``arguments``.
        timeout: seconds without any rank's end after which all of them have failed; None waits for ever.

    Raises:
        RuntimeError: one of them failed, or took too long; what it said is on stderr.
    """
    # Each rank is a new process; forked from one that has imported everything, but a CUDA driver does not survive a fork.
    forks = multiprocessing.get_context("spawn" if torch.cuda.is_available() else "forkserver")
    if not torch.cuda.is_available():
        forks.set_forkserver_preload([work.__module__])
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{rank}.json" for rank in range(processes)]
        common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(processes)}
        ranks = [
            forks.Process(target=work, args=({**common, "RANK": str(n), "LOCAL_RANK": str(n)}, file, *arguments), daemon=True)
            for n, file in enumerate(files)
        ]
        for rank in ranks:
            rank.start()
        while any(rank.is_alive() for rank in ranks) and not any(rank.exitcode for rank in ranks):
            alive = [rank.sentinel for rank in ranks if rank.is_alive()]
            if not multiprocessing.connection.wait(alive, timeout):
                break
        failed = any(rank.is_alive() or rank.exitcode for rank in ranks)
        for rank in ranks:
            rank.kill()
            rank.join()
        if failed:
            raise RuntimeError(f"{what} failed, or took too long; its error is above")
        return [json.loads(file.read_text()) for file in files]


@contextmanager
def as_rank(environment: Mapping[str, str], path: str, overrides: Sequence[str]) -> Iterator[tuple[Config, Groups]]:
    """Be the rank that the environment says, as a launcher would set it, of a config's layout; one thread."""
    quiet()
    torch.set_num_threads(1)
    os.environ.update(environment)
    world = World.from_environment()
    config = load_config(path, overrides, world_size=world.size)
    with process_group(world), model_parallel(config.parallel, config.train.seed) as groups:
        yield config, groups


def random_batches(config: Config, groups: Groups) -> list[Batch]:
    """This data rank's micro-batches of one step, of random tokens."""
    train = config.train
    micro, length = train.micro_batch(groups.data_size), train.sequence_length
    generator = torch.Generator().manual_seed(groups.data_rank)

    def batch() -> Batch:
        tokens = torch.randint(config.model.vocab_size, (micro, length + 1), generator=generator)
        positions = torch.arange(length).expand(micro, length).contiguous()
        return Batch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous(), torch.ones(micro, length), positions)

    return [batch() for _ in range(train.micro_batches(groups.data_size))]
