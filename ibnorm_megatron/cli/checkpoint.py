"""``ibnorm checkpoint``: look into a checkpoint, check every byte of it, write it anew."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from ..checkpoints.record import CheckpointRecord

HELP = "look into a run's checkpoints, check every byte of them, or write one anew"

_INSPECT = "show what a checkpoint holds: where the run was, its layout, every tensor"
_VERIFY = "read and hash every byte of a checkpoint, or of all that a run has; exit code 1 if something is wrong"
_CONVERT = "write a checkpoint with whole tensors in few files, or its weights alone for other programs"

_GIB = 1 << 30


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    where = "a checkpoint, or the folder of a run, whose newest one is taken"
    inspect = actions.add_parser("inspect", help=_INSPECT, description=_INSPECT)
    inspect.add_argument("folder", type=Path, metavar="FOLDER", help=where)
    inspect.add_argument("--tensors", action="store_true", help="list every tensor")
    verify = actions.add_parser("verify", help=_VERIFY, description=_VERIFY)
    verify.add_argument("folder", type=Path, metavar="FOLDER", help="a checkpoint, or the folder of a run, for all of them")
    convert = actions.add_parser("convert", help=_CONVERT, description=_CONVERT)
    convert.add_argument("folder", type=Path, metavar="FOLDER", help=where)
    convert.add_argument("--out", type=Path, required=True, metavar="NEW", help="a folder that does not exist yet")
    convert.add_argument(
        "--weights", choices=["float32", "bfloat16", "float16"], help="only the weights, in this type; not to go on from"
    )
    convert.add_argument("--file-size", type=float, default=4.0, metavar="GIB", help="about how long a file may be (default 4)")


def execute(arguments: argparse.Namespace) -> int:
    return {"inspect": _inspect, "verify": _verify, "convert": _convert}[arguments.action](arguments)


def _inspect(arguments: argparse.Namespace) -> int:
    from ..checkpoints.record import read_record
    from ..printing import wide_console
    from ..train.run_folder import checkpoints_at

    folder = checkpoints_at(arguments.folder)[0]
    record = read_record(folder)
    console = wide_console()
    console.print(_overview(folder, record))
    if arguments.tensors:
        console.print(_tensors(record))
    return 0


def _overview(folder: Path, record: CheckpointRecord) -> Table:
    from math import prod

    from rich.table import Table
    from rich.text import Text

    from ..printing import printable

    layout, card = record.layout, record.card
    size = sum(file.bytes for file in record.files.values())
    elements = sum(prod(tensor.shape) for tensor in record.parameters.values())
    of_model = {"data", "world_size", "tensor", "pipeline", "context", "zero_stage"} & layout.keys()
    rows = {
        "step": f"{record.step:,} of {_at(record.config, 'train', 'steps')}",
        "optimizer steps": f"{record.optimizer_steps:,}",
        "samples, labels": f"{record.samples:,}, {record.tokens:,}",
        "norm": str(card.get("norm")),
        "seed": str(card.get("seed")),
        "parameters": f"{elements:,}, each as {', '.join(record.kinds)}",
        "buffers": str(len(record.buffers)),
        "written by": ", ".join(f"{name} {layout[name]}" for name in layout if name in of_model),
        "precision": str(layout.get("precision")),
        "files": f"{len(record.files):,}, {size / 2**20:,.1f} MiB, the slowest in "
        f"{max(file.seconds for file in record.files.values()):.2f} s",
        "data": str(_at(card, "data", "hash")),
        "tokenizer": str(_at(card, "data", "tokenizer")),
        "ibnorm_megatron": f"{card.get('ibnorm_megatron')}, commit {_at(card, 'git', 'commit')}",
    }
    table = Table(title=Text(printable(str(folder))), title_justify="left", show_header=False)
    for name, value in rows.items():
        table.add_row(name, Text(printable(value)))
    return table


def _at(values: object, *names: str) -> object:
    """What mappings within mappings have under these names; None where one has it not."""
    for name in names:
        values = values.get(name) if isinstance(values, dict) else None
    return f"{values:,}" if isinstance(values, int) else values


def _tensors(record: CheckpointRecord) -> Table:
    from rich.table import Table
    from rich.text import Text

    from ..printing import printable

    table = Table("tensor", "shape", "sharded", "runs", title="tensors", title_justify="left")
    for name, tensor in (record.parameters | record.buffers).items():
        ranks = range(record.tensor_ranks if tensor.dim is not None else 1)
        runs = sum(len(record.runs(name, rank)) for rank in ranks) if name in record.parameters else len(ranks)
        sharded = "no" if tensor.dim is None else f"dimension {tensor.dim} over {record.tensor_ranks}"
        table.add_row(Text(printable(name)), " x ".join(map(str, tensor.shape)) or "scalar", sharded, f"{runs:,}")
    return table


def _verify(arguments: argparse.Namespace) -> int:
    import sys

    from ..checkpoints.record import damages, read_record
    from ..errors import Problem, UserError
    from ..progress import Progress
    from ..train.run_folder import checkpoints_at

    wrong: list[Problem] = []
    checkpoints = checkpoints_at(arguments.folder)
    with Progress("checkpoints", len(checkpoints), unit="checkpoints") as progress:
        for folder in checkpoints:
            try:
                record = read_record(folder)
                wrong += damages(folder, record, record.files)
            except UserError as error:
                wrong += error.problems
            progress.advance(1)
    for problem in wrong:
        print(f"error: {problem}", file=sys.stderr)
    if wrong:
        return 1
    print(f"all is well: {', '.join(folder.name for folder in checkpoints)}")
    return 0


def _convert(arguments: argparse.Namespace) -> int:
    from math import prod

    from ..checkpoints.convert import convert, export_weights
    from ..checkpoints.record import read_record
    from ..errors import Problem, RunFailure, UserError
    from ..progress import Progress
    from ..train.run_folder import checkpoints_at

    if not 0 < arguments.file_size <= 1 << 20:
        raise UserError(Problem("--file-size", str(arguments.file_size), "it is no sensible size", "give GiB, such as 4"))
    folder, out = checkpoints_at(arguments.folder)[0], arguments.out.expanduser()
    record = read_record(folder)
    kinds = 1 if arguments.weights else len(record.kinds)
    elements = kinds * sum(prod(tensor.shape) for tensor in record.parameters.values())
    max_bytes = int(arguments.file_size * _GIB)
    try:
        with Progress("converting", elements, unit="numbers") as progress:
            if arguments.weights:
                export_weights(folder, out, arguments.weights, max_bytes=max_bytes, show=progress.advance)
            else:
                convert(folder, out, max_bytes=max_bytes, show=progress.advance)
    except OSError as error:
        raise RunFailure(Problem("--out", str(out), f"it cannot be written ({error})", "make room there")) from None
    print(f"{folder} is in {out}")
    return 0
