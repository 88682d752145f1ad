"""What is trained, who is killed when, and what becomes of the folder in between."""

from __future__ import annotations

import random
import shutil
from dataclasses import dataclass
from pathlib import Path

from .launches import Kill
from .state import checkpoint_names, named_checkpoint, step_of, summary

#: Small enough that a start takes a second. Its losses need not fall; they have to be the same.
TINY = (
    *("model.num_layers=1", "model.hidden_size=32", "model.num_attention_heads=2", "model.num_key_value_heads=2"),
    *("model.ffn_hidden_size=64", "model.max_sequence_length=32", "model.norm=ibnorm_log", "train.sequence_length=32"),
    *("train.global_batch_size=4", "train.micro_batch_size=2", "train.steps=12", "checkpoint.interval=2"),
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

#: Before which call of a kind the first rank can die, in an order in which it can die at all of them in one story.
MOMENTS = (
    ("os.mkdir .", 1),
    ("os.rename .config.yaml.tmp-*", 1),
    ("os.rename .run_card.json.tmp-*", 1),
    ("os.mkdir index/*/.seed*.tmp-*", 1),
    ("open index/*/.seed*.tmp-*", 1),
    ("os.rename index/*/.seed*.tmp-*", 1),
    ("os.rename index/*/.seed*.tmp-*", 2),
    ("open metrics.jsonl", 2),
    ("os.mkdir checkpoints/.step-*.tmp", 1),
    ("os.fsync checkpoints/.step-*.tmp/*", 1),
    ("os.rename checkpoints/.step-*.tmp/*", 1),
    ("os.rename checkpoints/.step-*.tmp/*", 2),
    ("os.remove checkpoints/.step-*.tmp/.rank-*", 1),
    ("os.rename checkpoints/.step-*.tmp", 1),
    ("open checkpoints/.latest.tmp-*", 1),  # the first has its name, and nothing points to it
    ("open checkpoints/step-*/*", 1),
    ("os.rename .run_card.json.tmp-*", 1),
    ("os.rename checkpoints/.step-00000004.tmp", 1),  # so that steps will be run again
    ("os.rename .metrics.jsonl.tmp-*", 1),
    ("os.fsync checkpoints", 2),  # the pointer is new, and may be lost
    ("os.rename checkpoints/.latest.tmp-*", 1),
    ("os.rename checkpoints/step-*", 1),  # to put aside the one to which nothing points
    ("os.rename checkpoints/step-*", 2),  # to remove an old one
    ("os.remove checkpoints/.step-*.removed/*", 1),
    ("os.rmdir checkpoints/.step-*.removed", 1),
    ("os.rename .summary.json.tmp-*", 1),
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
        return Kill(0, "call", call=chance.randint(1, 2), pattern=chance.choice(MOMENTS)[0])
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
    if ".removed" in path:
        return "removing old checkpoints"
    if "/.step-" in path:
        return "giving the draft its name" if call == "os.rename" and path.endswith(".tmp") else "writing the draft"
    return "loading" if call == "open" and "/step-" in path else "around a checkpoint's name"


class Meddler:
    """What happens to a run's folder between two starts: nothing."""

    def touch(self, run: Path) -> None:
        """Do something to the folder before a start."""

    def newest(self, run: Path) -> str | None:
        """The checkpoint that the next start has to go on from."""
        return named_checkpoint(run)


class HalfADraft(Meddler):
    """Leaves what a kill in the middle of a save leaves, of a step that is not saved again; and sometimes no index."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    def touch(self, run: Path) -> None:
        if not (run / "config.yaml").is_file() or summary(run).get("status") == "complete":
            return  # no start would see it
        draft = run / "checkpoints" / f".step-{step_of(named_checkpoint(run)) + 1:08d}.tmp"
        draft.mkdir(parents=True, exist_ok=True)
        (draft / "rank-00000.safetensors").write_bytes(b"half")
        if self._chance.random() < 0.3:
            shutil.rmtree(run / "index", ignore_errors=True)


class Vandal(HalfADraft):
    """Damages the newest checkpoint as well, wherever an older one is whole.

    Attributes:
        done: what was damaged, and how.
    """

    def __init__(self, chance: random.Random, often: float = 0.5) -> None:
        super().__init__(chance)
        self._often = often
        self._damaged: set[int] = set()  # folders, by what stays when they are renamed
        self.done: list[str] = []

    def touch(self, run: Path) -> None:
        super().touch(run)
        if summary(run).get("status") == "complete" or self._chance.random() > self._often:
            return
        how = self._chance.choice(["cut", "flipped", "gone", "pointer"])
        if how == "pointer" and (run / "checkpoints" / "latest").is_file():
            (run / "checkpoints" / "latest").write_text("")
        elif how != "pointer" and len(self._whole(run)) > 1:
            newest = run / "checkpoints" / self._whole(run)[0]
            self._damaged.add(newest.stat().st_ino)
            file = self._chance.choice(sorted(newest.iterdir()))
            self._damage(file, how)
        else:
            return
        self.done.append(how)

    def newest(self, run: Path) -> str | None:
        return next(iter(self._whole(run)), None)

    def _whole(self, run: Path) -> list[str]:
        named = named_checkpoint(run) or ""
        folder = run / "checkpoints"
        return [n for n in checkpoint_names(run) if n <= named and (folder / n).stat().st_ino not in self._damaged]

    def _damage(self, file: Path, how: str) -> None:
        if how == "gone":
            file.unlink()
            return
        whole = bytearray(file.read_bytes())
        place = self._chance.randrange(len(whole))
        if how == "flipped":
            whole[place] ^= 1 << self._chance.randrange(8)
        file.write_bytes(whole if how == "flipped" else whole[:place])
