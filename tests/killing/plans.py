"""What is trained, who is killed when, and what becomes of the folder in between."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .launches import Kill
from .state import named_checkpoint, step_of

#: Small enough that a start takes a second. Its losses need not fall; they have to be the same.
TINY = (
    *("model.num_layers=1", "model.hidden_size=32", "model.num_attention_heads=2", "model.num_key_value_heads=2"),
    *("model.ffn_hidden_size=64", "model.max_sequence_length=32", "model.norm=ibnorm_log", "train.sequence_length=32"),
    *("train.global_batch_size=4", "train.micro_batch_size=2", "train.steps=12", "checkpoint.interval=3"),
    *("checkpoint.keep_last=2", "evaluate.interval=5", "evaluate.batches=1"),
)


@dataclass(frozen=True)
class Case:
    """A run to kill: what is typed, and on how many ranks."""

    name: str
    ranks: int
    overrides: tuple[str, ...]


def _case(name: str, ranks: int, *overrides: str) -> Case:
    return Case(name, ranks, overrides)


#: Every state that a resumed run has to find again: weights, master copies, moments, shards, random numbers, positions.
CASES = (
    _case(
        *("one rank, fp32, ZeRO 0, dropout, accumulation", 1, "train.precision=fp32", "parallel.zero_stage=0"),
        *("model.dropout=0.1", "train.micro_batch_size=1"),
    ),
    _case("one rank, bf16, ZeRO 1, dropout", 1, "train.precision=bf16", "model.dropout=0.1"),
    _case(
        *("TP 2, bf16, sequence parallel, dropout", 2, "train.precision=bf16", "parallel.tensor=2", "parallel.sequence=true"),
        "model.dropout=0.1",
    ),
    _case("TP 2, fp32, accumulation", 2, "train.precision=fp32", "parallel.tensor=2", "train.micro_batch_size=1"),
    _case("DP 2, bf16, ZeRO 1, accumulation", 2, "train.precision=bf16", "train.micro_batch_size=1"),
    _case("DP 2, fp32, ZeRO 2, dropout", 2, "train.precision=fp32", "parallel.zero_stage=2", "model.dropout=0.1"),
    _case("DP 2, bf16, ZeRO 3, dropout", 2, "train.precision=bf16", "parallel.zero_stage=3", "model.dropout=0.1"),
)


@dataclass(frozen=True)
class Undisturbed:
    """A case as it runs in peace: what it left, how many calls each rank made, how long it took, its largest file's bytes."""

    run: Path
    calls: tuple[int, ...]
    seconds: float
    largest: int


#: Names that are there while something is being made, for long enough to be seen from outside.
WINDOWS = ("checkpoints/.step-*.tmp", "index/*/.*.tmp-*")

#: Moments between two steps of the file system, in an order in which the first rank of one story can die at all of them.
MOMENTS = (
    "os.mkdir .",
    "os.rename .config.yaml.tmp-*",
    "os.rename .run_card.json.tmp-*",
    "os.mkdir index/*/.seed*.tmp-*",
    "open index/*/.seed*.tmp-*",
    "os.rename index/*/.seed*.tmp-*",
    "open metrics.jsonl",
    "os.mkdir checkpoints/.step-*.tmp",
    "os.fsync checkpoints/.step-*.tmp/*",
    "os.rename checkpoints/.step-*.tmp",
    "open checkpoints/.latest.tmp-*",  # after the first one has its name: it is there, and nothing points to it
    "os.rename checkpoints/step-*",  # and is put aside
    "os.rename checkpoints/.latest.tmp-*",
    "os.mkdir checkpoints/.step-00000006.tmp",  # now there is something to go on from
    "open checkpoints/step-*/*",
    "os.rename .run_card.json.tmp-*",
    "os.rename .metrics.jsonl.tmp-*",
    "os.remove *checkpoints/step-*",
    "os.rmdir checkpoints/step-*",
    "os.rename .summary.json.tmp-*",
)


def random_kill(chance: random.Random, peace: Undisturbed) -> Kill:
    """A kill somewhere in a run: by the clock, at a step of the file system, within a file, or while something is made."""
    rank = chance.randrange(len(peace.calls))
    how = chance.choice(["time", "time", "call", "call", "size", "seen", "moment"])
    if how == "time":
        return Kill(chance.choice([rank, None]), "time", seconds=chance.uniform(0.0, peace.seconds))
    if how == "seen":
        return Kill(chance.choice([rank, None]), "seen", pattern=chance.choice(WINDOWS))
    if how == "moment":
        return Kill(0, "call", call=chance.randint(1, 2), pattern=chance.choice(MOMENTS))
    call = chance.randint(1, max(1, peace.calls[rank]))
    if how == "size":
        return Kill(rank, "size", call=call, size=chance.randint(1, peace.largest))
    return Kill(rank, "call", call=call)


def phase(last: str) -> str:
    """What a rank was doing whose last call to the file system this was."""
    call, _, path = last.partition(" ")
    first, name = path.partition("/")[0], path.rpartition("/")[2]
    if not path:
        return "before anything is written"
    if path == ".":
        return "meeting, building the model"
    if first == "index":
        return "building or opening the index"
    if first != "checkpoints":
        known = {"metrics.jsonl": "steps", "summary.json": "the summary", "run_card.json": "the run card"}
        return known.get(name.removeprefix(".").partition(".tmp-")[0], "making the folder")
    if name.removeprefix(".").startswith("latest"):
        return "the pointer to the newest"
    if "/.step-" in path:
        return "giving the draft its name" if call == "os.rename" else "writing the draft"
    if call in ("os.remove", "os.rmdir"):
        return "removing old checkpoints"
    return "loading" if call == "open" and "/step-" in path else "around a checkpoint's name"


def without_index(chance: random.Random) -> Callable[[Path], str | None]:
    """Now and then the run's index is gone, and has to be built again."""

    def before_start(run: Path) -> str | None:
        if chance.random() < 0.3:
            shutil.rmtree(run / "index", ignore_errors=True)
        return named_checkpoint(run)

    return before_start


def half_a_draft(run: Path) -> str | None:
    """What a kill in the middle of a save leaves, of a step that is not saved again."""
    name = named_checkpoint(run)
    if not (run / "config.yaml").is_file():
        return name
    draft = run / "checkpoints" / f".step-{step_of(name) + 1:08d}.tmp"
    draft.mkdir(parents=True, exist_ok=True)
    (draft / "mp_rank_00_model_states.pt").write_bytes(b"half")
    return name
