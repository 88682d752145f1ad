"""Finding documents that repeat others, in two passes and bounded memory.

A piece is the documents that one worker reads. In the first pass every worker adds its documents, as cleaned, to
:class:`Fingerprints` and writes them: 16 bytes of XXH3 hash a document, and a MinHash signature of 4 bytes a number if
near-duplicates are asked for. In the second pass :func:`find_duplicates` reads the pieces' files and says which documents to
drop. Of every set of duplicates the first stays, in the order of the pieces and within them: how the documents are spread
over pieces changes nothing.

Near-duplicates are those whose signatures agree in at least ``threshold`` of their numbers (Broder 1997, "On the resemblance
and containment of documents"), and all that such pairs connect. Pairs to compare are those with a band of equal numbers
(Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", section 3.4). A pair of Jaccard similarity s has none in common,
and is missed, with the probability :func:`missed`: with the defaults (threshold 0.8, 128 numbers, 18 bands of 7) 1.45 % at
s = 0.8, 0.10 % at 0.85 and 0.001 % at 0.9. Besides, the estimate itself has a standard deviation of
sqrt(s (1 - s) / 128), 0.035 at the threshold: of the pairs that lie there exactly about half are found.
"""

from __future__ import annotations

import resource
import shutil
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import xxhash

from ibnorm_megatron.files import replacing

from .config import CleaningConfig, NearDuplicatesConfig
from .ngrams import WordHashes, extend, ngram_hashes, words_of

#: What :func:`find_duplicates` says of a document.
KEPT, EXACT, NEAR = 0, 1, 2

#: Share of pairs at the threshold that may have no band in common. With fewer bands fewer pairs are compared in vain.
_MISSED = 0.02

#: Numbers that wait, shingles and signatures, before signatures are computed: one call for many documents. rensa hands
#: signatures over as Python integers of 32 bytes.
_WAITING = 1 << 18

#: Bytes of fingerprints held in memory; beyond them they go to a temporary file.
_HELD = 1 << 26

#: Documents whose signatures are read at once: 4 MB with 128 numbers.
_BLOCK = 1 << 13

#: Steps in a bucket: at least every other one compares a document with all that are left. Without a limit, a template of
#: which a million documents share a band but too little else would cost 10^12 comparisons.
_STEPS = 1000


def missed(similarity: float, rows: int, bands: int) -> float:
    """The probability that two documents of a Jaccard similarity have no band of equal numbers in common."""
    return (1 - similarity**rows) ** bands


def choose_bands(config: NearDuplicatesConfig) -> tuple[int, int]:
    """How many bands to compare, and of how many numbers each.

    The longest rows with which at most 2 % of the pairs at the threshold are missed, or as many bands as the config says.
    """
    if config.bands is not None:
        return config.bands, config.num_perm // config.bands
    for rows in range(config.num_perm, 1, -1):
        bands = config.num_perm // rows
        if missed(config.threshold, rows, bands) <= _MISSED:
            return bands, rows
    return config.num_perm, 1


class Fingerprints:
    """The fingerprints of one piece's documents, in order.

    Memory: 64 MB of fingerprints, beyond which they lie in a temporary file (in the folder that ``TMPDIR`` names); besides,
    20 MB for what waits, and the words of a document.
    """

    def __init__(self, config: CleaningConfig) -> None:
        self._near, self._dtype = config.near_duplicates, _dtype(config)
        self._hashes = WordHashes()
        self._exact = bytearray()  # of the documents whose shingles wait
        self._shingles: list[np.ndarray] = []
        self._waiting = self._documents = 0
        self._rows = tempfile.SpooledTemporaryFile(max_size=_HELD)  # noqa: SIM115 - closed by write, or with this object

    def add(self, text: str) -> None:
        """Add the next document, as it was cleaned."""
        data = text.encode("utf-8")
        self._exact += xxhash.xxh3_128_digest(data)
        self._documents += 1
        if self._near:
            # Fewer words than a shingle has: the whole text is the only one.
            shingles = ngram_hashes(self._hashes.of(words_of(text)), self._near.ngram)
            if not len(shingles):
                shingles = np.array([xxhash.xxh3_64_intdigest(data)], dtype=np.uint64)
            self._shingles.append(shingles)
            self._waiting += len(shingles) + self._near.num_perm
        else:
            self._waiting += 1
        if self._waiting >= _WAITING:
            self._flush()

    def write(self, path: Path) -> None:
        """Write the fingerprints in one step, as .npy with a row for each document, and end the collection."""
        self._flush()
        header = {"descr": np.lib.format.dtype_to_descr(self._dtype), "fortran_order": False, "shape": (self._documents,)}
        with self._rows as rows, replacing(path) as file:
            np.lib.format.write_array_header_2_0(file, header)
            rows.seek(0)
            shutil.copyfileobj(rows, file)

    def _flush(self) -> None:
        rows = np.empty(len(self._exact) // 16, dtype=self._dtype)
        rows["exact"] = np.frombuffer(self._exact, dtype=np.uint64).reshape(-1, 2)
        if self._near and self._shingles:
            rows["minhash"] = _signatures(self._shingles, self._near)
        self._rows.write(rows.tobytes())
        self._exact, self._shingles, self._waiting = bytearray(), [], 0


def _dtype(config: CleaningConfig) -> np.dtype:
    near = config.near_duplicates
    fields = [("exact", np.uint64, 2), *([("minhash", np.uint32, near.num_perm)] if near else [])]
    return np.dtype(fields)  # type: ignore[arg-type]


def _signatures(shingles: list[np.ndarray], config: NearDuplicatesConfig) -> np.ndarray:
    from rensa import RMinHash  # only who asks for near-duplicates needs it

    offsets = np.zeros(len(shingles) + 1, dtype=np.uint64)
    offsets[1:] = np.cumsum([len(each) for each in shingles])
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(np.concatenate(shingles), offsets, config.num_perm, config.seed)
    return np.array(matrix.to_rows(), dtype=np.uint32)


def find_duplicates(paths: Sequence[Path], config: CleaningConfig) -> list[np.ndarray]:
    """Which documents to drop, from the files that :class:`Fingerprints` wrote.

    Exact duplicates are found by 128-bit hashes, which never collide by chance. If only near-duplicates are asked for,
    exact ones are among them. Every document of a bucket (those with one band in common) is compared with every other that
    is not connected to it yet, until 500 are compared with all that are left: of more unlike ones some pairs go unseen.

    Memory: at most 120 bytes a document (60 where none is like another), besides 16 MB and the pages of the files, which are
    mapped and can be given up. One file handle is open for each piece.

    Args:
        paths: one file for each piece, in the order of the pieces.
        config: the one that the fingerprints were made with.

    Returns:
        For each piece an int8 array with an element for each of its documents: 0 to keep it, 1 for an exact duplicate of an
        earlier one, 2 for a near-duplicate.
    """
    _allow_open(len(paths))
    pieces = _Pieces(paths, _dtype(config))
    verdicts = np.zeros(pieces.documents, dtype=np.int8)
    if pieces.documents and (config.exact_duplicates or config.near_duplicates):
        different = _first_of_equal(pieces)
        verdicts[:] = EXACT if config.exact_duplicates else NEAR
        verdicts[different] = KEPT
        if config.near_duplicates:
            verdicts[different[_connected(pieces, different, config.near_duplicates) < np.arange(len(different))]] = NEAR
    return np.split(verdicts, pieces.ends[:-1]) if paths else []


def _allow_open(files: int) -> None:
    """Most systems let a process open 1,024 files at first, and many more if it asks."""
    here = Path("/proc/self/fd")
    open_now = len(list(here.iterdir())) if here.is_dir() else 256
    wanted, (soft, hard) = files + open_now + 64, resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))


class _Pieces:
    """All pieces' fingerprints under one numbering of documents, on disk."""

    def __init__(self, paths: Sequence[Path], dtype: np.dtype) -> None:
        # A file without documents cannot be mapped.
        self._maps = [np.load(path, mmap_mode="r") if _documents_in(path) else np.empty(0, dtype) for path in paths]
        assert all(piece.dtype == dtype for piece in self._maps), "the fingerprints were made with another config"
        self.ends = np.cumsum([len(piece) for piece in self._maps], dtype=np.int64)
        self.documents = int(self.ends[-1]) if len(paths) else 0

    def exact(self, column: int) -> np.ndarray:
        """One half of every document's hash."""
        return np.concatenate([piece["exact"][:, column] for piece in self._maps])

    def signatures(self, documents: np.ndarray, columns: slice = slice(None)) -> np.ndarray:
        """The signatures of some documents, or some columns of them."""
        owner = np.searchsorted(self.ends, documents, side="right")
        found: np.ndarray | None = None
        for piece in np.unique(owner):
            mine = owner == piece
            begin = self.ends[piece] - len(self._maps[piece])
            rows = self._maps[piece]["minhash"][documents[mine] - begin, columns]
            if found is None:
                found = np.empty((len(documents), rows.shape[1]), dtype=np.uint32)
            found[mine] = rows
        assert found is not None, "asked for no document"
        return found


def _documents_in(path: Path) -> int:
    with open(path, "rb") as file:
        np.lib.format.read_magic(file)
        return int(np.lib.format.read_array_header_2_0(file)[0][0])


def _first_of_equal(pieces: _Pieces) -> np.ndarray:
    """The documents that no earlier one equals, in order."""
    low, high = pieces.exact(0), pieces.exact(1)
    order = np.lexsort((low, high))  # stable: equal documents stay in order
    low, high = low[order], high[order]
    new = np.ones(len(order), dtype=bool)
    new[1:] = (low[1:] != low[:-1]) | (high[1:] != high[:-1])
    return np.sort(order[new])


def _connected(pieces: _Pieces, documents: np.ndarray, config: NearDuplicatesConfig) -> np.ndarray:
    """For each document, the first that near-duplicates connect it to: itself if there is no earlier one."""
    bands, rows = choose_bands(config)
    same = _Same(pieces, documents, int(np.ceil(config.threshold * config.num_perm - 1e-9)))
    roots = np.arange(len(documents))
    for band in range(bands):
        members, sizes = _buckets(_band_keys(pieces, documents, slice(band * rows, (band + 1) * rows)))
        begins = np.cumsum(sizes) - sizes
        heads = np.repeat(members[begins], sizes)
        apart = roots[heads] != roots[members]
        agree = np.flatnonzero(apart)[same.pairs(heads[apart], members[apart])]
        roots = _joined(roots, heads[agree], members[agree])
        # What its bucket's first document did not take in may still be like another of the bucket.
        left = np.add.reduceat(roots[heads] != roots[members], begins) if len(begins) else begins
        links = [
            link
            for bucket in np.flatnonzero(left)
            for link in _links(same, members[begins[bucket] : begins[bucket] + sizes[bucket]], roots)
        ]
        if links:
            one, other = (np.concatenate(side) for side in zip(*links, strict=True))
            roots = _joined(roots, one, other)
    return roots


def _band_keys(pieces: _Pieces, documents: np.ndarray, columns: slice) -> np.ndarray:
    """A 64-bit key of each document's band; a chance collision only costs a comparison."""
    keys = np.empty(len(documents), dtype=np.uint64)
    for start in range(0, len(documents), _BLOCK):
        block = slice(start, start + _BLOCK)
        part = pieces.signatures(documents[block], columns).astype(np.uint64)
        key = part[:, 0]
        for number in range(1, part.shape[1]):
            key = extend(key, part[:, number])
        keys[block] = key
    return keys


def _buckets(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Documents with equal keys, bucket after bucket and in order within each, and how many are in each; no single ones."""
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    begins = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    sizes = np.diff(begins, append=len(keys))
    shared = np.repeat(sizes > 1, sizes)
    return order[shared], sizes[sizes > 1]


class _Same:
    """Whether signatures agree in enough numbers."""

    def __init__(self, pieces: _Pieces, documents: np.ndarray, least: int) -> None:
        self._pieces, self._documents, self._least = pieces, documents, least

    def rows(self, documents: np.ndarray) -> np.ndarray:
        """The documents' signatures."""
        return self._pieces.signatures(self._documents[documents])

    def pairs(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """For each pair whether it agrees."""
        agree = np.empty(len(one), dtype=bool)
        for start in range(0, len(one), _BLOCK):
            block = slice(start, start + _BLOCK)
            agree[block] = self._agree(self.rows(one[block]), self.rows(other[block]))
        return agree

    def with_one(self, one: int, others: np.ndarray, rows: np.ndarray | None) -> np.ndarray:
        """For each of the others whether it agrees with the one; ``rows`` are their signatures, if they were read."""
        mine = self.rows(np.array([one]))
        if rows is not None:
            return self._agree(mine, rows)
        blocks = (others[start : start + _BLOCK] for start in range(0, len(others), _BLOCK))
        return np.concatenate([self._agree(mine, self.rows(block)) for block in blocks])

    def _agree(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        return np.count_nonzero(one == other, axis=1) >= self._least


def _links(same: _Same, members: np.ndarray, roots: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Like pairs of one bucket, as two arrays: as many as connect what is connected."""
    left = members
    rows = same.rows(left) if len(left) <= _BLOCK else None  # most buckets are read once
    waiting: deque[int] = deque()
    for _ in range(_STEPS):
        if not waiting:
            # The first that nothing has reached, and all that is connected to it already.
            reached = roots[left] == roots[left[0]]
            waiting.extend(left[reached].tolist())
        else:
            one = waiting.popleft()
            reached = same.with_one(one, left, rows)
            if reached.any():
                yield np.full(int(reached.sum()), one), left[reached]
                waiting.extend(left[reached].tolist())
        if reached.any():
            left, rows = left[~reached], None if rows is None else rows[~reached]
        if not len(left):
            return


def _joined(roots: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The roots after joining the sets of each pair: the smallest number of each set."""
    while len(one):
        low, high = np.minimum(roots[one], roots[other]), np.maximum(roots[one], roots[other])
        apart = low != high
        one, other = one[apart], other[apart]
        np.minimum.at(roots, high[apart], low[apart])
        while not np.array_equal(shorter := roots[roots], roots):
            roots = shorter
    return roots
