"""Duplicates: on real near-duplicates (pip's copies of installed packages), however they are spread over pieces."""

from __future__ import annotations

import re
import resource
import tracemalloc
from collections.abc import Sequence
from importlib.metadata import distribution
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.cleaning import duplicates
from data_prep.cleaning.config import CleaningConfig, NearDuplicatesConfig
from data_prep.cleaning.duplicates import EXACT, KEPT, Fingerprints, choose_bands, find_duplicates, missed

#: pip carries copies of these; the installed versions are others, or the same.
_PACKAGES = ("rich", "packaging", "requests", "urllib3", "idna")

BOTH = CleaningConfig(exact_duplicates=True, near_duplicates=NearDuplicatesConfig())


def _found(folder: Path, texts: Sequence[str], config: CleaningConfig, sizes: Sequence[int] | None = None) -> list[int]:
    """The verdict on every text, with so many of them in each piece."""
    paths, at = [], 0
    for number, size in enumerate(sizes or [len(texts)]):
        piece = Fingerprints(config)
        for text in texts[at : at + size]:
            piece.add(text)
        at += size
        paths.append(folder / f"{number}.npy")
        piece.write(paths[-1])
    assert at == len(texts)
    verdicts = find_duplicates(paths, config)
    assert [len(each) for each in verdicts] == list(sizes or [len(texts)])
    assert all(each.dtype == np.int8 for each in verdicts)
    return [int(verdict) for each in verdicts for verdict in each]


@pytest.fixture(scope="module")
def real() -> list[str]:
    """The installed packages' files, then pip's copies."""
    # By metadata: whoever asks the import system for pip switches off setuptools' distutils for all tests after it.
    copies = Path(str(distribution("pip").locate_file("pip/_vendor")))
    folders = [Path(str(distribution(package).locate_file(package))) for package in _PACKAGES]
    folders += [copies / package for package in _PACKAGES]
    texts = [path.read_text("utf-8") for folder in folders for path in sorted(folder.rglob("*.py"))]
    texts = [text for text in texts if text]
    assert len(texts) > 150, "pip brings copies of packages that are installed too"
    return texts


@pytest.fixture(scope="module")
def jaccard(real: list[str]) -> np.ndarray:
    """The similarity of every two of them, by sets of word 5-grams; the whole text of fewer words."""
    sets = []
    for text in real:
        words = re.findall(r"[^\W_]+", text.lower())
        sets.append({tuple(words[i : i + 5]) for i in range(len(words) - 4)} or {text})
    table = np.eye(len(sets))
    for i, j in combinations(range(len(sets)), 2):
        common = len(sets[i] & sets[j])
        table[i, j] = table[j, i] = common / (len(sets[i]) + len(sets[j]) - common)
    return table


@pytest.fixture(scope="module")
def verdicts(real: list[str], tmp_path_factory: pytest.TempPathFactory) -> list[int]:
    return _found(tmp_path_factory.mktemp("one"), real, BOTH)


def test_real_near_duplicates_are_found_and_nothing_else(real: list[str], jaccard: np.ndarray, verdicts: list[int]) -> None:
    kept = np.array(verdicts) == duplicates.KEPT
    alike = [(i, j) for i, j in combinations(range(len(real)), 2) if jaccard[i, j] >= 0.9]
    assert len(alike) > 20
    assert not [pair for pair in alike if kept[pair[0]] and kept[pair[1]]], "one of two documents that are alike goes"
    others = jaccard - np.eye(len(real))
    assert others[~kept].max(axis=1).min() >= 0.6, "what goes is like another"
    for i, text in enumerate(real):
        assert (verdicts[i] == duplicates.EXACT) == (text in real[:i])
    assert {duplicates.KEPT, duplicates.NEAR, duplicates.EXACT} == set(verdicts), "there are all three"


@pytest.mark.parametrize("pieces", [3, 7])
def test_the_spread_over_pieces_changes_nothing(
    real: list[str], verdicts: list[int], tmp_path: Path, pieces: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Small bounds, so that signatures are computed for few documents at once, lie on disk, and are read in parts.
    monkeypatch.setattr(duplicates, "_WAITING", 3000)
    monkeypatch.setattr(duplicates, "_HELD", 1000)
    monkeypatch.setattr(duplicates, "_BLOCK", 7)
    cuts = sorted(np.random.default_rng(pieces).choice(len(real), pieces - 2, replace=False).tolist())
    sizes = np.diff([0, 0, *cuts, len(real)]).tolist()  # the first is empty
    assert len(sizes) == pieces
    assert _found(tmp_path, real, BOTH, sizes) == verdicts


def test_only_near_duplicates_counts_exact_ones_among_them(real: list[str], verdicts: list[int], tmp_path: Path) -> None:
    found = _found(tmp_path, real, CleaningConfig(near_duplicates=NearDuplicatesConfig()))
    assert found == [2 if verdict else 0 for verdict in verdicts]


def test_only_exact_duplicates_needs_no_signatures(real: list[str], verdicts: list[int], tmp_path: Path) -> None:
    config = CleaningConfig(exact_duplicates=True)
    assert _found(tmp_path, real, config, [5, len(real) - 5]) == [int(verdict == 1) for verdict in verdicts]
    assert np.load(tmp_path / "0.npy").dtype.itemsize == 16
    assert _found(tmp_path, real, CleaningConfig()) == [0] * len(real)


@settings(max_examples=30, deadline=None)  # it waits for the disk
@given(st.lists(st.sampled_from(["a", "A", "b c", "b c ", "", "!", "?", "d e f g h i j k"]), max_size=20), st.integers(0, 20))
def test_short_documents_are_duplicates_only_of_themselves(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], cut: int
) -> None:
    cut = min(cut, len(texts))
    found = _found(tmp_path_factory.mktemp("short"), texts, BOTH, [cut, len(texts) - cut])
    assert found == [int(text in texts[:i]) for i, text in enumerate(texts)]


def _chain(links: int) -> list[str]:
    """Each document is like the next, the ends share nothing."""
    words = [f"w{i}" for i in range(300 + 20 * links)]
    return [" ".join(words[20 * i : 20 * i + 300]) for i in range(links)]


@pytest.mark.parametrize("bands", [None, 128])
def test_what_pairs_connect_is_one_set(tmp_path: Path, bands: int | None) -> None:
    config = CleaningConfig(near_duplicates=NearDuplicatesConfig(bands=bands))
    texts = _chain(30)
    shuffled = np.random.default_rng(1).permutation(texts).tolist()
    assert _found(tmp_path, shuffled, config, [10, 20]) == [0] + [2] * 29
    apart = [" ".join(f"{prefix}{word}" for word in texts[0].split()) for prefix in "abc"]
    assert _found(tmp_path, [*apart, texts[0], *texts], config) == [0, 0, 0, 0] + [2] * 30


def test_a_bucket_is_searched_through(tmp_path: Path) -> None:
    # With one number a band nearly all documents share buckets with documents unlike them; every set is found all the same.
    common = [f"c{i}" for i in range(150)]
    groups = [[f"g{group}w{i}" for i in range(150)] for group in range(12)]
    texts = [" ".join(common + group[: 150 - k]) for k in range(3) for group in groups]
    found = _found(tmp_path, texts, CleaningConfig(near_duplicates=NearDuplicatesConfig(bands=128, threshold=0.75)))
    assert found == [0] * 12 + [2] * 24
    shuffled = np.random.default_rng(2).permutation(texts).tolist()
    found = _found(tmp_path, shuffled, CleaningConfig(near_duplicates=NearDuplicatesConfig(bands=128, threshold=0.75)))
    assert found.count(0) == 12


def test_bands_fit_the_threshold() -> None:
    assert choose_bands(NearDuplicatesConfig()) == (18, 7)
    assert [round(missed(s, 7, 18), 4) for s in (0.8, 0.85)] == [0.0145, 0.001]
    assert round(missed(0.9, 7, 18), 6) == 8e-6
    assert choose_bands(NearDuplicatesConfig(bands=16)) == (16, 8)
    assert choose_bands(NearDuplicatesConfig(threshold=0.01, num_perm=16)) == (16, 1)
    for threshold in (0.3, 0.5, 0.7, 0.9, 1.0):
        for num_perm in (64, 128, 256):
            bands, rows = choose_bands(NearDuplicatesConfig(threshold=threshold, num_perm=num_perm))
            assert bands * rows <= num_perm
            assert missed(threshold, rows, bands) <= 0.02


def test_estimates_are_as_good_as_minhash_promises(real: list[str], jaccard: np.ndarray, tmp_path: Path) -> None:
    piece = Fingerprints(BOTH)
    for text in real:
        piece.add(text)
    piece.write(tmp_path / "real.npy")
    signatures = np.load(tmp_path / "real.npy")["minhash"]
    i, j = np.array([pair for pair in combinations(range(len(real)), 2) if 0.05 < jaccard[pair] < 1]).T
    errors = (signatures[i] == signatures[j]).mean(axis=1) - jaccard[i, j]
    deviation = np.sqrt(jaccard[i, j] * (1 - jaccard[i, j]) / 128)
    assert len(errors) > 30
    assert np.abs(errors / deviation).max() < 5
    assert abs((errors / deviation).mean()) < 1


def test_memory_is_bounded(tmp_path: Path) -> None:
    documents, config = 60_000, CleaningConfig(exact_duplicates=True, near_duplicates=NearDuplicatesConfig(num_perm=16))
    rng = np.random.default_rng(1)
    rows = np.empty(documents, dtype=[("exact", np.uint64, 2), ("minhash", np.uint32, 16)])
    rows["exact"] = rng.integers(0, 1 << 63, (documents, 2))
    rows["minhash"] = rng.integers(0, 1 << 31, (documents, 16))
    rows["minhash"][1::2] = rows["minhash"][::2]  # every other one is like the one before
    piece = Fingerprints(config)
    piece.write(tmp_path / "empty.npy")
    with open(tmp_path / "many.npy", "wb") as file:
        np.lib.format.write_array(file, rows, version=(2, 0))
    find_duplicates([tmp_path / "empty.npy"], config)  # whatever is loaded once
    tracemalloc.start()
    (_, verdicts) = find_duplicates([tmp_path / "empty.npy", tmp_path / "many.npy"], config)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert verdicts.tolist() == [0, 2] * (documents // 2)
    assert peak < 120 * documents + (1 << 21)  # the signatures read at once are shorter here


def test_no_pieces_and_empty_pieces(tmp_path: Path) -> None:
    assert find_duplicates([], BOTH) == []
    assert _found(tmp_path, [], BOTH, [0, 0]) == []


def test_fingerprints_of_another_config_are_refused(tmp_path: Path) -> None:
    _found(tmp_path, ["a"], BOTH)
    with pytest.raises(AssertionError, match="another config"):
        find_duplicates([tmp_path / "0.npy"], CleaningConfig(exact_duplicates=True))


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "0.npy"
    _found(tmp_path, ["a", "b"], BOTH)
    old = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(duplicates.shutil, "copyfileobj", fail)
    piece = Fingerprints(BOTH)
    piece.add("c")
    with pytest.raises(OSError, match="no space"):
        piece.write(path)
    assert path.read_bytes() == old and list(tmp_path.iterdir()) == [path]


def test_more_pieces_than_files_that_may_be_open(tmp_path: Path) -> None:
    """Of a large corpus: every piece is a file."""
    config, paths = CleaningConfig(exact_duplicates=True), [tmp_path / f"{i}.npy" for i in range(120)]
    for path in paths:
        fingerprints = Fingerprints(config)
        fingerprints.add("same")
        fingerprints.write(path)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, limits[1]))
    try:
        found = find_duplicates(paths, config)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert [int(verdict) for piece in found for verdict in piece] == [KEPT] + [EXACT] * 119
