"""All that is asked of a run's model, one model at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal, get_args

from ..data.config import DataConfig
from ..data.prepared import Prepared, read_prepared
from ..errors import Problem, UserError, raise_if_any
from ..lab.results import Estimate

if TYPE_CHECKING:
    from ..model.language_model import LanguageModel
    from ..progress import Progress
    from .documents import Documents
    from .information import Informed
    from .opening import Source
    from .quantization import Quantized
    from .robustness import Disturbed, Domain

Report = Literal["information", "quantization", "robustness"]
REPORTS: tuple[Report, ...] = get_args(Report)

#: The text of the run itself among the domains.
OWN = "own"


@dataclass(frozen=True)
class Question:
    """What is asked, of every run alike.

    Attributes:
        reports: which parts.
        data: prepared text in place of the run's own.
        domains: further prepared texts by name, in the same tokenizer.
        tokens: labels of held-out text at most, and a quarter of that for calibration.
        sites: names of norms whose outputs information is about; empty: the first of some layers, and the final one.
    """

    reports: tuple[Report, ...] = REPORTS
    data: Path | None = None
    domains: Mapping[str, Path] | None = None
    tokens: int = 65_536
    sites: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What one run's model said.

    Attributes:
        run: the folder that was given.
        checkpoint, step: which state of it.
        norm, seed: its arm, and which of the arm's runs it is.
        loss: of held-out documents, each by itself, with the document bootstrap's interval; nats a label.
        quantized, disturbed, domains: by report; empty where it was not asked.
        gap: validation less training loss; None where it was not asked.
        informed: what norms' outputs say of tokens; None where it was not asked.
    """

    run: str
    checkpoint: str
    step: int
    norm: str
    seed: int
    loss: Estimate
    quantized: tuple[Quantized, ...] = ()
    disturbed: tuple[Disturbed, ...] = ()
    domains: tuple[Domain, ...] = ()
    gap: Estimate | None = None
    informed: Informed | None = None


@dataclass(frozen=True)
class _Texts:
    own: Prepared
    domains: Mapping[str, Prepared]


def find_texts(sources: Sequence[Source], question: Question) -> list[_Texts]:
    """The texts of every run; read once before any model is.

    Raises:
        UserError: a run's data is not there, or a text is of another tokenizer than a run's.
    """
    problems: list[Problem] = []
    given: dict[str, Prepared] = {}
    for name, path in {**({OWN: question.data} if question.data else {}), **(question.domains or {})}.items():
        try:
            given[name] = read_prepared(DataConfig(path=str(path)))
        except UserError as error:
            problems += error.problems
    found = []
    for source in sources:
        own = given.get(OWN, source.data)
        if own is None:
            why = "; ".join(f"{problem.where} is {problem.value}: {problem.why}" for problem in source.missing)
            problems.append(Problem(f"the data of {source.given}", "missing", why, "give prepared text by --data"))
            continue
        for text in (own, *(prepared for name, prepared in given.items() if name != OWN)):
            expected = source.record.card.get("data", {}).get("tokenizer", text.tokenizer.hash)
            if text.tokenizer.hash != expected:
                why = f"it was prepared with another tokenizer than {source.given} was trained on"
                mend = "prepare it with that one: a recipe names it as tokenizer.path"
                problems.append(Problem("the data", text.where, why, mend))
        found.append(_Texts(own, {name: prepared for name, prepared in given.items() if name != OWN}))
    raise_if_any(problems)
    return found


def count(source: Source, question: Question) -> int:
    """Units of work that :func:`ask` shows, about: evaluations."""
    from .activations import most_sites
    from .information import questions
    from .quantization import FORMATS, PLACES, SCALINGS
    from .robustness import disturbances

    layers = source.config.model.num_layers
    quantized = len(FORMATS) * (len(PLACES) * len(SCALINGS) + layers) if "quantization" in question.reports else 0
    disturbed = disturbances() + 1 + len(question.domains or {}) if "robustness" in question.reports else 0
    informed = questions(len(question.sites) or most_sites(layers)) if "information" in question.reports else 0
    return 1 + quantized + disturbed + informed


def ask(sources: Sequence[Source], question: Question, progress: Progress) -> list[Answer]:
    """Open one model after another, and ask it.

    Raises:
        UserError: texts do not fit, or a checkpoint does not fit its config.
    """
    from .opening import one_process, open_model

    texts = find_texts(sources, question)
    with one_process() as groups:
        return [
            _ask(source, open_model(source, groups), own, question, progress)
            for source, own in zip(sources, texts, strict=True)
        ]


def _ask(source: Source, module: LanguageModel, texts: _Texts, question: Question, progress: Progress) -> Answer:
    from ..data.tokenizer import token_bytes
    from .documents import read_documents
    from .losses import evaluate, ratio
    from .quantization import quantized_losses
    from .robustness import disturbed_losses, domain_loss, gap

    length = source.config.train.sequence_length
    held_out = read_documents(texts.own, "validation", length, question.tokens)
    seen = read_documents(texts.own, "train", length, max(2, question.tokens // 4))
    progress.print(f"{source.norm}, seed {source.seed}: {source.given}")
    plain = evaluate(module, held_out)
    progress.advance()
    quantized, disturbed, domains, distance = [], [], [], None
    if "quantization" in question.reports:
        quantized = list(quantized_losses(module, held_out, seen, plain, progress.advance))
    if "robustness" in question.reports:
        disturbed = list(disturbed_losses(module, held_out, plain, progress.advance))
        sizes = token_bytes(texts.own.folders[0], texts.own.tokenizer)
        domains.append(domain_loss(OWN, held_out, plain, sizes))
        for name, prepared in texts.domains.items():
            documents = read_documents(prepared, "validation", length, question.tokens)
            domains.append(domain_loss(name, documents, evaluate(module, documents), sizes))
            progress.advance()
        distance = gap(evaluate(module, seen), plain)
        progress.advance()
    informed = _informed(module, held_out, question, progress) if "information" in question.reports else None
    return Answer(
        run=str(source.given),
        checkpoint=source.checkpoint.name,
        step=source.record.step,
        norm=source.norm,
        seed=source.seed,
        loss=ratio(plain.nats, plain.labels),
        quantized=tuple(quantized),
        disturbed=tuple(disturbed),
        domains=tuple(domains),
        gap=distance,
        informed=informed,
    )


def _informed(module: LanguageModel, documents: Documents, question: Question, progress: Progress) -> Informed:
    from .activations import choose_sites, collect
    from .information import inform

    with TemporaryDirectory(prefix="ibnorm-activations-") as folder:
        found = collect(module, documents, choose_sites(module, question.sites), Path(folder))
        return inform(found, progress.advance)
