"""Whether runs differ in nothing but what the study compares, by what each of them recorded of itself.

Runs of one size, seed and horizon are one group: from every arm, every stage and every learning rate. Within a group all but
the norm and the peak learning rate has to be the same: initial weights that arms share, steps, batch, schedule, FLOPs, data,
tokenizer, layout, plugins, and every other field of the config. Over the horizons of one size and seed the order of samples
has to be the same, as far as the shorter run goes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import Problem
from ..train.run_folder import differences
from .ledger import latest
from .trials import Entry

#: Fields of a config that change no result.
_NOTHING = (
    "plugins",  # paths; what is in them is compared by hash
    "data.path",  # data is compared by hash
    "data.index_cache",
    "train.replica_audit",
    "evaluate.interval",
    "checkpoint",
    "log",
    "run",
)

#: Fields in which runs of a group may differ: the norm and its rate as well.
_FREE = ("model.norm", "model.norm_placement", "model.qk_norm", "train.lr", *_NOTHING)

_MEND = (
    "take the lines of the runs that are wrong out of the ledger and remove their folders, so that they are trained again; or "
    "begin the study anew in another dir"
)


@dataclass(frozen=True)
class Matching:
    """What was found.

    Attributes:
        problems: where runs differ that have to be alike; nothing can be concluded from them.
        warnings: what differs and changes no result if all is well: code, libraries, machines.
    """

    problems: tuple[Problem, ...]
    warnings: tuple[str, ...]


def facts(config: Mapping[str, Any], card: Mapping[str, Any], flops: float) -> dict[str, Any]:
    """What an entry says of a run so that it can be matched with others: plain values.

    Args:
        config: the run's, as it recorded it.
        card: its run card.
        flops: of its training, by what it recorded.
    """
    digests, data, train = card.get("digests", {}), card["data"], config["train"]
    resumed = [again for again in card.get("resumed", []) if again.get("git")]
    commits = [again["git"] for again in (card, *resumed) if again.get("git")]
    return {
        "initial_weights": digests.get("initial_weights"),
        "samples": digests.get("samples"),
        "steps": train["steps"],
        "batch_tokens": train["global_batch_size"] * train["sequence_length"],
        "flops": flops,
        "data": data["hash"],
        "tokenizer": data["tokenizer"],
        "layout": card["layout"],
        "plugins": sorted(map(str, card.get("plugins", {}).values())),
        "config": _compared(config),
        "lr": train["lr"],
        "code": {"version": card["ibnorm_megatron"], "commits": [_commit(git) for git in commits]},
        "machine": {"hardware": card["hardware"], "libraries": card["libraries"], "python": card["python"]},
    }


def _commit(git: Mapping[str, Any]) -> str:
    return f"{git.get('commit', 'unknown')}{' with changes' if git.get('changed') else ''}"


def _compared(values: Mapping[str, Any], free: Sequence[str] = _FREE, prefix: str = "") -> dict[str, Any]:
    """A config without its free fields."""
    kept: dict[str, Any] = {}
    for name, value in values.items():
        dotted = f"{prefix}{name}"
        if dotted not in free:
            kept[name] = _compared(value, free, f"{dotted}.") if isinstance(value, dict) else value
    return kept


def not_as_asked(asked: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """In what decides its result a run's own config differs from the one that it was given: a sentence, or an empty text."""
    fields = [
        f"{field} is {there!r} and was to be {was!r}"
        for field, was, there in differences(_compared(asked, _NOTHING), _compared(found, _NOTHING))
    ]
    return f"it was trained with another config than the study's: {', '.join(fields[:3])}" if fields else ""


def check(entries: Sequence[Entry]) -> Matching:
    """Compare all entries that say enough of themselves; those of runs that failed before they began say nothing."""
    told = [entry for entry in latest(entries).values() if entry.matching]
    problems: list[Problem] = []
    groups, seeds = defaultdict(list), defaultdict(list)
    problems += [
        Problem(f"the run card of {entry.folder}", "missing", "nobody knows whether the run matches others", _MEND)
        for entry in latest(entries).values()
        if entry.status == "complete" and not entry.matching and told
    ]
    for entry in told:
        problems += _as_asked(entry)
        trial = entry.trial
        groups[trial.size, trial.seed, trial.horizon].append(entry)
        seeds[trial.size, trial.seed].append(entry)
    for group in groups.values():
        for entry in group[1:]:
            problems += _other(group[0], entry)
    for alike in seeds.values():
        longest = max(alike, key=lambda entry: len(_samples(entry)))
        for entry in alike:
            problems += _other_samples(longest, entry)
    return Matching(tuple(dict.fromkeys(problems)), tuple(_warnings(told)))


def _as_asked(entry: Entry) -> Iterator[Problem]:
    """Where a run is not the trial that its entry names."""
    trained = entry.matching.get("config", {}).get("train", {})
    for field, asked, found in (
        ("train.lr", entry.trial.learning_rate, entry.matching.get("lr")),
        ("train.seed", entry.trial.seed, trained.get("seed")),
        ("flops", entry.flops, entry.matching.get("flops")),
    ):
        if asked != found:
            yield Problem(f"{field} of {entry.folder}", repr(found), f"its trial says {asked!r}", _MEND)


def _other(first: Entry, entry: Entry) -> Iterator[Problem]:
    """In what a run differs from the first of its group."""
    old, new = (_to_compare(one) for one in (first, entry))
    for field, was, found in differences(old, new):
        yield Problem(f"{field.removeprefix('config.')} of {entry.folder}", repr(found), f"{first.folder} has {was!r}", _MEND)


def _to_compare(entry: Entry) -> dict[str, Any]:
    left_out = ("code", "machine", "samples", "lr", "config")
    return {
        "parameters": entry.parameters,
        **{name: value for name, value in entry.matching.items() if name not in left_out},
        "config": _compared(entry.matching.get("config", {})),
    }


def _samples(entry: Entry) -> dict[int, str]:
    """Which sample has which contents, for those that a run card tells of."""
    return {int(number): digest for number, digest in entry.matching.get("samples") or ()}


def _other_samples(longest: Entry, entry: Entry) -> Iterator[Problem]:
    """The first sample that two runs of one seed do not share; the shorter one's are a prefix of the longer one's."""
    there, here = _samples(longest), _samples(entry)
    if bool(there) != bool(here):
        why = f"{longest.folder} has one"
        yield Problem(f"the digest of samples of {entry.folder}", "missing", why, _MEND)
        return
    for number in sorted(here):
        if here[number] != there.get(number):
            why = f"{longest.folder} has {there.get(number)!r}"
            yield Problem(f"sample {number} of {entry.folder}", repr(here[number]), why, _MEND)
            return


def _warnings(told: Sequence[Entry]) -> Iterator[str]:
    """What differs between runs without making them unlike by itself."""
    codes = [entry.matching.get("code", {}) for entry in told]
    versions = sorted({code["version"] for code in codes if "version" in code})
    commits = sorted({commit for code in codes for commit in code.get("commits", ())})
    if len(versions) > 1:
        yield f"runs are of {len(versions)} versions of the program: {', '.join(versions)}"
    if len(commits) > 1:
        yield f"runs are of {len(commits)} commits: {', '.join(commits)}"
    elif commits and commits[0].endswith(" with changes"):
        yield f"the code had changes that are in no commit ({commits[0]})"
    machines = [entry.matching.get("machine", {}) for entry in told]
    changing = {field: None for machine in machines[1:] for field, _, _ in differences(machines[0], machine)}
    if changing:
        yield f"runs are of machines or libraries that differ in {', '.join(changing)}"
    undigested = [entry.folder for entry in told if entry.matching.get("initial_weights") is None or not _samples(entry)]
    if undigested:
        yield f"{undigested[0]} and perhaps others recorded no digest of initial weights or samples: these are not compared"
