"""Check everything that a report of overheads needs, train the models, report."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ..config import Config, parse_config
from ..data.prepared import Prepared, read_prepared
from ..errors import Problem, UserError, raise_if_any
from ..train.environment import environment_problems
from ..train.run import data_problems
from .formula import formula
from .report import Report, Row

#: What the config's own norm is compared with where nothing else is asked for.
DEFAULT_NORMS = ("layernorm", "rmsnorm", "ibnorm_identity", "ibnorm_log", "ibnorm_tanh")

#: float32 weights, gradients and the two moments of AdamW: the least that a parameter takes in training.
_BYTES_A_PARAMETER = 16


@dataclass(frozen=True)
class Options:
    """What the command line says beside the config.

    Attributes:
        norms: each as ``model.norm`` takes it, in YAML; the config's own goes before them.
        steps: of each model that are timed.
    """

    norms: tuple[str, ...] = DEFAULT_NORMS
    steps: int = 20


def overhead(
    path: str,
    overrides: Sequence[str],
    options: Options,
    planned: Callable[[int], None] = lambda steps: None,
    done: Callable[[], None] = lambda: None,
) -> Report:
    """Measure what norms cost in the model of a config, on this machine, in one process.

    Args:
        path: the config's file.
        overrides: of the config.
        options: what to run.
        planned: told of how many steps there will be, when all is checked.
        done: called after each.

    Raises:
        UserError: everything that cannot work, at once, before anything is trained.
    """
    started = time.monotonic()
    # Nothing is kept but an index, of the samples' order, where the config has no place for it.
    with tempfile.TemporaryDirectory(prefix="ibnorm-overhead-") as folder:
        configs, prepared = _check(path, [*overrides, f"run.dir={folder}", "log.wandb=off", "log.tensorboard=false"], options)
        raise_if_any(_memory_problems(configs))

        from torch.distributed import HashStore

        from ..parallel.groups import World, model_parallel, process_group
        from .measure import PROFILED, WARM_UP, measure
        from .report import machine

        planned(len(configs) * (WARM_UP + 1 + PROFILED + options.steps))
        with (
            process_group(World(0, 1, 0), store=HashStore()),
            model_parallel(configs[0].parallel, configs[0].train.seed) as groups,
        ):
            found = measure(configs, prepared, groups, options.steps, done)
            where = machine()
    rows = [Row(config.model.norm_label(), formula(config), measured) for config, measured in zip(configs, found, strict=True)]
    values = configs[0].to_dict()
    del values["run"], values["log"]
    return Report(path, list(overrides), values, where, configs[0], rows, time.monotonic() - started)


def _check(path: str, overrides: list[str], options: Options) -> tuple[list[Config], Prepared]:
    """The config with its own norm and then with each of the others, without repetitions; and its data."""
    config, problems = parse_config(path, overrides, world_size=1)
    raise_if_any(problems if config is None else ())
    assert config is not None
    prepared: Prepared | None = None
    try:
        prepared = read_prepared(config.data)
        problems += data_problems(config, prepared)
    except UserError as error:
        problems += error.problems
    # Nothing is saved, so that a disk with too little room for a checkpoint does no harm.
    problems += [problem for problem in environment_problems(config, 1) if problem.where != "run.dir"]
    configs, own = [config], list(problems)
    for norm in options.norms:
        other, found = parse_config(path, [*overrides, f"model.norm={norm}"], world_size=1)
        assert other is not None
        problems += [_named(norm, problem) for problem in found if problem not in own]
        if not found and all(other.model.norm != known.model.norm for known in configs):
            configs.append(other)
    raise_if_any(problems)
    assert prepared is not None
    return configs, prepared


def _named(norm: str, problem: Problem) -> Problem:
    return Problem(f"in --norms {norm}, {problem.where}", problem.value, problem.why, problem.mend)


def _memory_problems(configs: list[Config]) -> Iterator[Problem]:
    """More models than this machine can train side by side."""
    parameters = sum(sum(config.model.num_params().values()) for config in configs)
    needed, free = parameters * _BYTES_A_PARAMETER, _free_memory()
    if needed > free:
        models = f"{len(configs)} models of {parameters // len(configs):,} parameters"
        why = f"side by side they take {needed / 1e9:,.1f} GB at least, and {free / 1e9:,.1f} GB are free"
        yield Problem("the config with its norms", models, why, "name fewer with --norms, or make the model smaller")


def _free_memory() -> int:
    import psutil
    import torch

    from ..parallel.cpu_compat import on_gpu

    return torch.cuda.mem_get_info()[0] if on_gpu() else psutil.virtual_memory().available


def split_norms(given: Sequence[str]) -> tuple[list[str], list[str]]:
    """Norms, and overrides of the config: both may follow ``--norms``, and an override is told by its name and ``=``."""
    overrides = [word for word in given if re.match(r"[\w.\-]+=", word)]
    return [word for word in given if word not in overrides], overrides
