"""``ibnorm prepare``: from sources to a folder of shards, in stages that can each be stopped at any moment and gone on with.

Everything grows in ``OUT.partial``, which gets its name when it is complete. A stage leaves one file for each piece it is done
with, so the same command goes on where it was stopped, and the result is the same byte for byte. The stages: plan (which files,
which pieces), tokenizer, scan (fingerprints, if duplicates are dropped), duplicates, encode, finish.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ibnorm_megatron.data.manifest import MANIFEST, Manifest, Tokenizer, load_manifest, read_manifest
from ibnorm_megatron.errors import Problem, UserError
from ibnorm_megatron.files import rename_directory, replacing, write_text
from ibnorm_megatron.progress import Progress

from .cleaning.duplicates import find_duplicates
from .manifests import make_manifest, write_card
from .pieces import Piece, PieceReport, Work, pieces_of
from .plan import keep_plan
from .recipe import Recipe, is_unicode
from .sources import Source, find_sources
from .tokenizer import take_tokenizer, train_tokenizer
from .workers import run_pieces

Stage = Literal["all", "tokenizer", "scan", "duplicates", "encode", "finish"]


@dataclass(frozen=True)
class Options:
    """What ``ibnorm prepare`` was asked for.

    Attributes:
        recipe: what to make.
        out: the folder to make; it must not exist.
        workers: processes on this machine; all of its cores if None.
        stage: which stage to do; ``all`` for those that are left.
        task: which share of the stage's pieces to do, from 0.
        tasks: how many shares there are.
    """

    recipe: Recipe
    out: Path
    workers: int | None = None
    stage: Stage = "all"
    task: int = 0
    tasks: int = 1


def prepare(options: Options) -> Manifest | None:
    """Prepare a data folder, or do one stage of it. The folder appears under its name only when everything in it is complete.

    Returns:
        The manifest; None if the folder is not complete yet.

    Raises:
        UserError: the folder exists or cannot be made, a source cannot be read or has changed, an earlier stage is not
            done, or a split would be empty.
    """
    out = Path(os.path.abspath(os.path.expanduser(options.out)))
    if os.path.lexists(out):
        raise UserError(
            Problem("--out", str(options.out), "it exists and is never overwritten", "choose another folder or remove it")
        )
    if not is_unicode(str(out)):
        raise UserError(Problem("--out", str(options.out), "its path is not UTF-8", "choose another folder"))
    _check_tasks(options)
    sources = find_sources(options.recipe.sources, options.recipe.names(), options.recipe.piece_bytes)
    partial = out.with_name(out.name + ".partial")
    try:
        with _folder(partial, shared=options.tasks > 1):
            return _Preparation(partial, out, options, sources).run()
    except OSError as error:  # the sources' own are UserErrors already
        why = f"it cannot be written ({error.strerror})"
        raise UserError(Problem("--out", str(options.out), why, "choose another folder or make room for it")) from error


def _check_tasks(options: Options) -> None:
    if not 0 <= options.task < options.tasks:
        why, mend = f"there are {options.tasks} tasks, numbered from 0", "give --task a number below --tasks"
        raise UserError(Problem("--task", str(options.task), why, mend))
    if options.tasks > 1 and options.stage not in ("scan", "encode"):
        why = "only the stages scan and encode have pieces to share"
        raise UserError(Problem("--tasks", str(options.tasks), why, "give --stage scan or --stage encode"))


@contextmanager
def _folder(partial: Path, shared: bool) -> Iterator[None]:
    """The folder that grows, held against another preparation into it. Nothing is left of it if nothing was finished."""
    new = [folder for folder in (partial, *partial.parents) if not os.path.lexists(folder)]
    if partial.is_dir() and not ((partial / "work").is_dir() or (partial / MANIFEST).exists()) and any(partial.iterdir()):
        why, mend = "it holds something else than a preparation", "move it away, or choose another --out"
        raise UserError(Problem("the folder to work in", str(partial), why, mend))
    try:
        (partial / "work").mkdir(parents=True, exist_ok=True)
    except OSError:
        for folder in new:
            with suppress(OSError):
                folder.rmdir()
        raise
    lock = os.open(partial / "work" / "lock", os.O_RDWR | os.O_CREAT)
    try:
        try:
            fcntl.flock(lock, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            why, mend = "another process is preparing it", "wait for it, or choose another folder"
            raise UserError(Problem("--out", str(partial.with_suffix("")), why, mend)) from None
        yield
    except UserError:
        with suppress(OSError):  # other tasks may be at work in it by now, or something else beside it
            if new and not any(any((partial / "work").glob(done)) for done in ("*.json", "*.fingerprints.npy")):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(partial, ignore_errors=True)
                for folder in new[1:]:
                    folder.rmdir()
        raise
    finally:
        os.close(lock)


class _Preparation:
    """One call of :func:`prepare`, inside its folder."""

    def __init__(self, partial: Path, out: Path, options: Options, sources: Sequence[Source]) -> None:
        self._partial, self._out, self._options, self._recipe = partial, out, options, options.recipe
        self._work = Work(partial, options.recipe, sources)
        self._pieces = pieces_of(sources, options.recipe.piece_bytes)
        mine = range(options.task, len(self._pieces), options.tasks)
        self._mine = [self._pieces[i] for i in mine]
        self._workers = options.workers or len(os.sched_getaffinity(0))

    def run(self) -> Manifest | None:
        stage, tasks = self._options.stage, self._options.tasks
        if tasks == 1:
            for left in self._partial.rglob(".*.tmp-*"):  # what a kill left
                left.unlink(missing_ok=True)
        complete = (self._partial / MANIFEST).exists()
        if complete and load_manifest(self._partial).recipe_hash != self._recipe.hash():  # it may have no plan any more
            why, mend = "it is complete, and was made from another recipe", "set the recipe back, or remove it to begin again"
            raise UserError(Problem("--out", str(self._partial), why, mend))
        keep_plan(self._work.side, self._recipe, self._work.sources)
        if complete:
            return self._name()
        if stage in ("all", "tokenizer"):
            self._tokenize()
        if stage in ("all", "scan"):
            self._scan()
        if stage in ("all", "duplicates"):
            self._find_duplicates()
        if stage in ("all", "encode"):
            self._encode()
        return self._finish() if stage in ("all", "finish") else None

    @property
    def _tokenizer_path(self) -> Path:
        return self._work.side / "tokenizer.record"

    def _tokenize(self) -> None:
        if self._tokenizer_path.exists():
            return
        config = self._recipe.tokenizer
        if config.file is not None:
            record = take_tokenizer(self._partial, config)
        else:
            with Progress("training the tokenizer on", total=self._sample_size, unit="B") as progress:
                record = train_tokenizer(self._sample(progress), self._partial, config)
        write_text(self._tokenizer_path, record.model_dump_json())

    @property
    def _sample_size(self) -> int:
        total = sum(piece.size for piece in self._pieces)
        return min(total, self._recipe.tokenizer.sample_bytes) or total

    def _sample(self, progress: Progress) -> Iterator[str]:
        """Documents to train a tokenizer on: of every piece the same share, from its beginning; none that are held out.

        Where all are held out it is all of them, and :meth:`_finish` refuses.

        Raises:
            UserError: there is no text at all.
        """
        total = sum(piece.size for piece in self._pieces)
        share = min(1.0, self._recipe.tokenizer.sample_bytes / max(1, total))
        held_out: list[str] | None = []
        for piece in self._pieces:
            most = piece.size * share if share < 1 and piece.size else float("inf")
            taken = 0
            for text in self._work.texts(piece.source, piece.parts):
                data = text.encode("utf-8")
                if self._work.splits.of(data) == "train":
                    yield text
                    held_out = None
                elif held_out is not None:
                    held_out.append(text)
                progress.advance(int(min(len(data), max(0, most - taken))))
                taken += len(data)
                if taken >= most:
                    break
        if held_out == []:
            why, mend = "there is nothing to train on", "give sources with text, or drop less"
            raise UserError(Problem("all that the sources hold", "without any text", why, mend))
        yield from held_out or []

    def _tokenizer(self) -> Tokenizer:
        try:
            return Tokenizer.model_validate_json(self._tokenizer_path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise _not_done("the tokenizer", "tokenizer") from None

    @property
    def _drops_duplicates(self) -> bool:
        return self._recipe.cleaning.exact_duplicates or self._recipe.cleaning.near_duplicates is not None

    def _scan(self) -> None:
        if self._drops_duplicates and not self._all(self._work.verdicts_path):
            self._each("fingerprint", self._work.fingerprints_path, "looking for duplicates in")

    def _find_duplicates(self) -> None:
        if not self._drops_duplicates or self._all(self._work.verdicts_path):
            return
        paths = [self._work.fingerprints_path(piece) for piece in self._pieces]
        if not all(path.exists() for path in paths):
            raise _not_done("some fingerprints", "scan")
        for piece, verdicts in zip(self._pieces, find_duplicates(paths, self._recipe.cleaning), strict=True):
            with replacing(self._work.verdicts_path(piece)) as file:
                np.save(file, verdicts)

    def _encode(self) -> None:
        self._work.tokenizer = self._tokenizer()
        if self._drops_duplicates and not self._all(self._work.verdicts_path):
            raise _not_done("the list of duplicates", "duplicates")
        self._each("encode", self._work.report_path, "encoding")

    def _each(self, job: Literal["fingerprint", "encode"], path: object, title: str) -> None:
        left = [piece for piece in self._mine if not path(piece).exists()]  # type: ignore[operator]
        done = sum(piece.size for piece in self._mine) - sum(piece.size for piece in left)
        if left:
            run_pieces(self._work, job, left, self._workers, title, done)

    def _all(self, path: object) -> bool:
        return all(path(piece).exists() for piece in self._pieces)  # type: ignore[operator]

    def _finish(self) -> Manifest:
        tokenizer = self._tokenizer()
        reports = [self._report(piece) for piece in self._pieces]
        counts = sum(np.load(self._work.counts_path(piece)) for piece in self._pieces)
        try:
            manifest = make_manifest(self._recipe, self._work.sources, self._pieces, reports, tokenizer, counts)
        except UserError:
            shutil.rmtree(self._partial)  # every shard would be another if the shares were
            raise
        write_card(self._partial, self._recipe, manifest, reports, counts)
        manifest.write(self._partial)
        return self._name()

    def _report(self, piece: Piece) -> PieceReport:
        try:
            return PieceReport.model_validate_json(self._work.report_path(piece).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise _not_done(f"{piece.name}, of {len(self._pieces)} pieces,", "encode") from None

    def _name(self) -> Manifest:
        """Take away what only the work needed, and give the folder its name."""
        manifest = read_manifest(self._partial)
        for done in self._work.side.iterdir():
            if done.name != "lock":  # last, so that nobody else begins meanwhile
                done.unlink()
        shutil.rmtree(self._work.side, ignore_errors=True)
        for left in self._partial.glob(".*.tmp-*"):
            left.unlink()
        rename_directory(self._partial, self._out)
        return manifest


def _not_done(what: str, stage: str) -> UserError:
    return UserError(
        Problem(what, "missing", f"the stage {stage} is not done", f"run the same command with --stage {stage} first")
    )
