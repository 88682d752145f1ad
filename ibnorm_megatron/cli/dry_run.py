"""``ibnorm dry-run``: what a config means, without a GPU, a process group, or torch."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..printing import table as new_table
from . import add_config_arguments

if TYPE_CHECKING:
    from rich.table import Table

    from ..config import Config
    from ..data.prepared import Prepared

HELP = "show what a config means: sizes, layout, norms, schedule; starts nothing"


def configure(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument("--world-size", type=int, metavar="N", help="processes to lay out; by default one copy of the model")


def execute(arguments: argparse.Namespace) -> None:
    from rich.console import Console

    from ..config import parse_config
    from ..errors import UserError, raise_if_any

    config, problems = parse_config(arguments.config, arguments.overrides, world_size=arguments.world_size)
    prepared: Prepared | None = None
    if config:
        try:
            prepared = prepared_data(config)
        except UserError as error:
            problems += error.problems
    raise_if_any(problems)
    assert config is not None
    world = config.parallel.model_parallel if arguments.world_size is None else arguments.world_size
    console = Console(highlight=False)
    console.print(config.to_yaml(), markup=False)
    tables = [_parameters(config), _layout(config, world), *_traffic(config, world), _norms(config), _schedule(config)]
    for table in (*tables, *_corpora(config, prepared), _data(config, prepared)):
        console.print(table)


def prepared_data(config: Config) -> Prepared | None:
    """The data, or None where some of it is not prepared yet: a dry run may come first.

    Raises:
        UserError: the data is there and damaged, or does not fit the model or the sequence length.
    """
    from ..data.manifest import MANIFEST
    from ..data.prepared import read_prepared
    from ..errors import raise_if_any
    from ..train.run import data_problems

    # Unlike Path.is_file, os.path.isfile is false for a name that cannot be one.
    if not all(os.path.isfile(folder / MANIFEST) for folder in config.data.paths()):
        return None
    prepared = read_prepared(config.data)
    raise_if_any(data_problems(config, prepared))
    return prepared


def _parameters(config: Config) -> Table:
    table = new_table("parameters", "part", "count", "share")
    parts = config.model.num_params()
    total = sum(parts.values())
    for part, count in parts.items():
        table.add_row(part, f"{count:,}", f"{100 * count / total:.1f} %")
    table.add_row("total", f"{total:,}", "")
    padding = config.model.padded_vocab_size(config.parallel.tensor) - config.model.vocab_size
    table.caption = f"built with {padding} more vocabulary rows, which are never predicted" if padding else None
    return table


def _layout(config: Config, world: int) -> Table:
    from ..train.traffic import bubble

    layout, train = config.parallel, config.train
    data = layout.data(world)
    table = new_table("layout", "what", "value")
    rows = {
        "processes": world,
        "tensor parallel": layout.tensor,
        "sequence parallel": "yes" if layout.sequence_parallel else "no",
        "pipeline parallel": layout.pipeline,
        "context parallel": layout.context,
        "data parallel": data,
        "ZeRO stage": layout.zero_stage,
        "optimizer on the CPU": "yes" if layout.offload_optimizer else "no",
        "precision": train.precision,
        "micro-batch": f"{train.micro_batch(data)} x {train.sequence_length} tokens",
        "micro-batches a step and rank": train.micro_batches(data),
    }
    if layout.context > 1:
        rows["context parallel"] = f"{layout.context}, {layout.context_method}"
    if layout.recompute != "none":
        rows["computed again backward"] = {"selective": "core attention", "full": "every layer"}[layout.recompute]
    if layout.pipeline > 1:
        rows["pipeline bubble, equal stages"] = f"{100 * bubble(config, world):.1f} % of a step"
    for name, value in rows.items():
        table.add_row(name, str(value))
    return table


def _traffic(config: Config, world: int) -> Iterator[Table]:
    """What goes between ranks, where anything does."""
    from ..train.traffic import sent_by_group, step_messages

    messages = step_messages(config, world)
    groups = sent_by_group(messages)
    total = sum(groups.values())
    if not messages:
        return
    table = new_table("communication of one step and rank", "what", "collective", "calls", "MiB sent")
    for group, of_group in groups.items():
        own = sorted((message for message in messages if message.group == group), key=lambda message: -message.sent)
        share = f"{group}, {own[0].ranks} ranks: {100 * of_group / total:.1f} %"
        table.add_row(share, "", "", _mebibytes(of_group), style="bold")
        for message in own:
            calls = "by bucket" if message.calls is None else f"{message.calls:,}"
            table.add_row(f"  {message.what}", message.operation.replace("_", "-"), calls, _mebibytes(message.sent))
        table.add_section()
    table.add_row("total", "", "", _mebibytes(total))
    busiest = "; a pipeline stage that sends the most" if config.parallel.pipeline > 1 else ""
    table.caption = f"by formula, collectives as rings{busiest}"
    yield table


def _mebibytes(size: float) -> str:
    return f"{size / 2**20:,.2f}" if size >= 0.005 * 2**20 else "< 0.01"


def _norms(config: Config) -> Table:
    model = config.model
    table = new_table(f"norm at every site ({model.norm_placement}-norm)", "site", "layers", "norm", "width", "parameters")
    sites: dict[tuple[str, str, int, int], list[int | None]] = {}
    for site, norm in model.norm_sites().items():
        width = model.norm_width(site)
        sites.setdefault((site.name, norm.label(), width, norm.num_params(width)), []).append(site.layer)
    for (site, label, width, count), layers in sites.items():
        where = _ranges([layer for layer in layers if layer is not None]) or "-"
        table.add_row(site, where, label, str(width), f"{count * len(layers):,}")
    return table


def _ranges(numbers: list[int]) -> str:
    """Rising numbers as ranges: 0-3, 8."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)


def _schedule(config: Config) -> Table:
    from ..train.schedule import learning_rate

    train = config.train
    table = new_table(f"schedule: {train.schedule}, {train.steps:,} steps", "at step", "learning rate", "tokens")
    marks = {1, train.warmup_steps, train.steps // 4, train.steps // 2, 3 * train.steps // 4, train.steps}
    for step in sorted(mark for mark in marks if mark >= 1):
        table.add_row(f"{step:,}", f"{learning_rate(train, step):.3e}", f"{step * train.tokens_per_step():,}")
    return table


def _corpora(config: Config, prepared: Prepared | None) -> Iterator[Table]:
    """What each corpus gives to the run, where it is known."""
    from ..data.prepared import tokens_of

    if prepared is None:
        return
    table = new_table("training data", "corpus", "documents", "tokens", "weight", "share of the samples", "epochs")
    consumed, weights = config.train.steps * config.train.tokens_per_step(), prepared.weights
    for _, _, corpus in prepared.corpora:
        shards = corpus.splits.get("train", [])
        tokens, documents = tokens_of(shards), sum(shard.documents for shard in shards)
        share = weights[corpus.name] / sum(weights.values()) if weights else tokens / prepared.tokens("train")
        epochs = f"{consumed * share / tokens:.2f}" if tokens else "-"
        weight = f"{weights[corpus.name]:g}" if weights else "-"
        table.add_row(corpus.name, f"{documents:,}", f"{tokens:,}", weight, f"{100 * share:.2f} %", epochs)
    table.caption = None if weights else "without weights all documents are permuted together"
    yield table


def _data(config: Config, prepared: Prepared | None) -> Table:
    tokens = config.train.steps * config.train.tokens_per_step()
    parameters = sum(config.model.num_params().values())
    table = new_table("tokens and compute", "what", "value")
    table.add_row("tokens a step", f"{config.train.tokens_per_step():,}")
    table.add_row("tokens in all", f"{tokens:,}")
    table.add_row("tokens a parameter", f"{tokens / parameters:.1f}")
    table.add_row("FLOPs in all", f"{tokens * config.model.flops_per_token(config.train.sequence_length):.3e}")
    if prepared:
        table.add_row("epochs", f"{tokens / prepared.tokens('train'):.2f}")
    else:
        table.add_row("epochs", f"{', '.join(map(str, config.data.paths()))} is not prepared yet")
    return table
