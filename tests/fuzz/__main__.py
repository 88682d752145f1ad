"""``python -m tests.fuzz --cases N``: many cases over all targets, and a table of how many were accepted and refused.

Faults are counted and shown one of a kind, with their input; the exit code is then 1.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings

from .guard import Hangs
from .targets import Target, make_targets


class Tally:
    """What became of one target's cases."""

    def __init__(self, name: str, target: Target) -> None:
        self.name, self._target = name, target
        self.accepted = self.refused = 0
        self.faults: Counter[str] = Counter()
        self.examples: dict[str, tuple[str, object]] = {}
        self.seconds = 0.0

    def run(self, cases: int, number: int) -> None:
        """Run so many cases; ``number`` decides which."""
        began = time.monotonic()

        @seed(number)
        @settings(
            max_examples=cases,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(self._target.cases)
        def one(case: object) -> None:
            try:
                accepted = self._target.check(case)
            except (Exception, Hangs) as error:  # all of them are what is looked for
                where = traceback.extract_tb(error.__traceback__)[-1]
                kind = f"{type(error).__name__} at {Path(where.filename).name}:{where.lineno}"
                self.faults[kind] += 1
                self.examples.setdefault(kind, (str(error)[:500], case))
            else:
                self.accepted += accepted
                self.refused += not accepted

        one()
        self.seconds = time.monotonic() - began


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=100_000, metavar="N", help="in all (default 100,000)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="other cases (default 0)")
    parser.add_argument("--only", default="", metavar="TEXT", help="targets whose name holds it")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ibnorm-fuzz-") as name:
        targets = {key: target for key, target in make_targets(Path(name)).items() if arguments.only in key}
        shares = sum(target.share for target in targets.values())
        tallies = []
        for key, target in targets.items():
            tally = Tally(key, target)
            tally.run(-(-arguments.cases * target.share // shares), arguments.seed)
            tallies.append(tally)
            print(f"{key}: {tally.seconds:.0f} s", file=sys.stderr)
    print("| target | cases | accepted | refused in a sentence | faults |\n|---|---:|---:|---:|---:|")
    for tally in tallies:
        faults = sum(tally.faults.values())
        cases = tally.accepted + tally.refused + faults
        print(f"| {tally.name} | {cases:,} | {tally.accepted:,} | {tally.refused:,} | {faults:,} |")
    accepted, refused = (sum(getattr(tally, what) for tally in tallies) for what in ("accepted", "refused"))
    faults = sum(sum(tally.faults.values()) for tally in tallies)
    print(f"| all | {accepted + refused + faults:,} | {accepted:,} | {refused:,} | {faults:,} |")
    for tally in tallies:
        for kind, count in tally.faults.most_common():
            print(f"\n{tally.name}: {count:,} times {kind}")
            error, case = tally.examples[kind]
            print(f"  {error!r}\n  {case!r}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
