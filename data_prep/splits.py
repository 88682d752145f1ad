"""Which documents train and which are held out: decided by a document's own text, and by nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import xxhash

from ibnorm_megatron.data.manifest import SplitName

_RANGE = float(1 << 64)


@dataclass(frozen=True)
class Splits:
    """Validation has the documents whose hash is in the lowest share of all hashes, test those in the highest share.

    So adding documents never moves one from a split to another, documents of the same text are in the same split, and
    changing one share moves no document between the other two.
    """

    validation: float
    test: float

    def of(self, text: bytes) -> SplitName:
        """The split of a document, given as UTF-8."""
        return self.at(place_of(text))

    def at(self, place: float) -> SplitName:
        """The split of a hash, as a share of their range."""
        if place < self.validation:
            return "validation"
        return "test" if place >= 1.0 - self.test else "train"


def place_of(text: bytes) -> float:
    """Where a document's XXH3 lies in the range of hashes: from 0 to below 1."""
    return place_of_hash(xxhash.xxh3_64_intdigest(text))


def place_of_hash(digest: int) -> float:
    """As :func:`place_of`, of a hash that was computed piece by piece."""
    return min(digest / _RANGE, 1.0 - 2.0**-53)
