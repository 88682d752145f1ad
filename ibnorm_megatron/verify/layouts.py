"""Names of layouts: ``tp2-sp-dp2-zero2-acc4`` says what to run on how many processes. Imports no torch.

A name is tokens joined by ``-``, in any order. Each sets one field of the config; what a name leaves out is as in a config
that says nothing: one rank, ZeRO stage 1, fp32. Any product can be asked for; what cannot work the config's own checks refuse.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from ..config import Config
from ..errors import Problem, nearest
from ..parallel.config import Layout

#: Tokens with a number: how many ranks share it; ``dp`` and ``acc``, micro-batches of a rank in a step, are no fields.
_COUNTS = {"tp": "parallel.tensor", "pp": "parallel.pipeline", "cp": "parallel.context", "dp": "data", "acc": "accumulate"}

#: Tokens without one, and the field that each sets.
_FLAGS = {
    "sp": ("parallel.sequence", "true"),
    "ulysses": ("parallel.context_method", "all_to_all"),
    **{f"zero{stage}": ("parallel.zero_stage", str(stage)) for stage in range(4)},
    "offload": ("parallel.offload_optimizer", "true"),
    "recompute": ("parallel.recompute", "full"),
    "selective": ("parallel.recompute", "selective"),
    "fp32": ("train.precision", "fp32"),
    "bf16": ("train.precision", "bf16"),
    "fp16": ("train.precision", "fp16"),
    "tied": ("model.tie_embeddings", "true"),
    "untied": ("model.tie_embeddings", "false"),
    "qknone": ("model.qk_norm", "none"),
    "qkhead": ("model.qk_norm", "per_head"),
    "qkfull": ("model.qk_norm", "full"),
    "dropout": ("dropout", "true"),
    "docs": ("documents", "true"),
}

#: Stands for everything that the config itself says of its layout and precision.
OWN = "own"

#: What ``ibnorm verify`` runs unless told otherwise: every kind of parallelism by itself, and their products.
DEFAULT_LAYOUTS = (
    "tp2-zero0",
    "tp2-sp",
    "tp2-qkhead-selective",
    "tp2-sp-qkfull",
    "tp2-sp-recompute-acc2",
    "tp2-sp-bf16-acc2",
    "tp2-sp-recompute-dropout",
    "dp2-zero0-acc4",
    "dp2-zero2-acc2-offload",
    "dp2-zero3-acc2",
    "dp2-zero2-fp16-acc2",
    "cp2",
    "cp2-ulysses-zero2",
    "pp2",
    "pp2-tied-zero2",
    "tp2-sp-dp2-zero1-acc2",
    "tp2-sp-dp2-zero3-acc2",
    "tp2-sp-cp2",
    "tp2-cp2-ulysses-untied",
    "tp2-sp-pp2-tied",
    "tp2-sp-pp2-zero2-bf16-recompute",
    "pp2-dp2-zero2-untied",
    "pp2-cp2-dropout",
    "tp2-sp-docs-selective",
    "cp2-docs",
    "pp2-cp2-ulysses-docs-recompute",
    "tp4-sp-zero2",
)


@dataclass(frozen=True)
class Case:
    """One layout to verify.

    Attributes:
        name: as asked for.
        overrides: of the config, without those that depend on the batch.
        layout: as far as the sizes go.
        data: data-parallel ranks.
        accumulate: micro-batches of a rank in a step.
        variant: overrides of the model, which then needs a reference of its own.
        dropout: whether activations are dropped, so that nothing can equal the reference.
        documents: whether sequences hold several, which attention keeps to; the reference has to as well.
    """

    name: str
    overrides: tuple[str, ...]
    layout: Layout
    data: int
    accumulate: int
    variant: tuple[str, ...] = ()
    dropout: bool = False
    documents: bool = False

    @property
    def processes(self) -> int:
        """How many ranks it needs."""
        return self.layout.model_parallel * self.data

    def for_batch(self, sequences: int) -> list[str]:
        """Its overrides where a step has so many sequences."""
        return [*self.overrides, f"train.micro_batch_size={sequences // (self.data * self.accumulate)}"]


@dataclass
class _Fields:
    """What the tokens of a name have set so far: values by field, with the token that set each."""

    name: str
    values: dict[str, str] = field(default_factory=dict)
    setters: dict[str, str] = field(default_factory=dict)

    def set(self, token: str, key: str, value: str) -> Iterator[Problem]:
        if key in self.setters:
            why = f"{self.setters[key]} and {token} both set {key}"
            yield Problem("the layout", repr(self.name), why, "leave one of them out")
        self.values[key], self.setters[key] = value, token


def parse_layout(name: str, config: Config) -> tuple[Case, list[Problem]]:
    """The case that a name stands for, and what is wrong with the name.

    Args:
        name: tokens joined by ``-``.
        config: the user's, for :data:`OWN`.
    """
    fields, problems = _Fields(name), []
    for token in name.split("-"):
        problems += _read(token, fields, config)
    values = fields.values
    sizes = {key: int(values.get(f"parallel.{key}", "1")) for key in ("tensor", "pipeline", "context")}
    layout = Layout(
        **sizes,
        sequence=values.get("parallel.sequence") == "true",
        context_method="all_to_all" if values.get("parallel.context_method") == "all_to_all" else "all_gather",
    )
    if layout.sequence and layout.tensor == 1 and fields.setters["parallel.sequence"] == "sp":
        why = "without tensor ranks sp has no tokens to shard"
        problems.append(Problem("the layout", repr(name), why, "add tp2, or leave sp out"))
    # 1F1B is itself only with more micro-batches than stages.
    accumulate = int(values.get("accumulate", 2 * layout.pipeline if layout.pipeline > 1 else 1))
    settings = [f"{key}={value}" for key, value in values.items() if "." in key]
    variant = tuple(setting for setting in settings if setting.startswith("model."))
    rest = tuple(setting for setting in settings if setting not in variant)
    dropout = "dropout" in values
    if dropout:
        rest += (f"model.dropout={config.model.dropout or 0.1}",)
    return Case(name, rest, layout, int(values.get("data", "1")), accumulate, variant, dropout, "documents" in values), problems


def _read(token: str, fields: _Fields, config: Config) -> Iterator[Problem]:
    if token in _FLAGS:
        yield from fields.set(token, *_FLAGS[token])
    elif token == OWN:
        for key, value in config.parallel.model_dump(mode="json").items():
            yield from fields.set(token, f"parallel.{key}", json.dumps(value) if not isinstance(value, str) else value)
        yield from fields.set(token, "train.precision", config.train.precision)
    elif (found := re.fullmatch(r"([a-z]+)(\d{1,4})", token)) and found[1] in _COUNTS and int(found[2]) > 0:
        yield from fields.set(token, _COUNTS[found[1]], str(int(found[2])))
    else:
        known = [*(f"{count}2" for count in _COUNTS), *_FLAGS, OWN]
        yield Problem("the layout", repr(fields.name), f"{token!r} is no token of a layout's name", nearest(token, known))
