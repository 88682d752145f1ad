"""A small model of the same kind as the config's, that every layout asked for divides. Imports no torch.

What defines the kind stays: which norm stands where, the placement, q and k norms, activation, biases, tying, positions,
grouped or single keys and values, the standard deviation of a matrix product. What only makes it large goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import lcm
from typing import Any

from ..config import Config
from ..model.config import ModelConfig
from ..model.norm_map import NormMap
from ..norms.config import NormConfig
from ..norms.site import LAYER_SITES, Site
from .layouts import Case

_HEAD_DIM, _SEQUENCE, _BATCH = 8, 32, 8

#: A prime below 384: at one rank, two and four the padded vocabulary is larger, and with four one rank has padding only.
_VOCABULARY = 331

#: Beside the steps' own: small enough that a step changes the gradient by less than its size.
_LEARNING_RATE = 1e-3


def base_values(config: Config, cases: Sequence[Case], steps: int, *, full: bool) -> tuple[dict[str, Any], list[str]]:
    """The config that every layout's overrides are laid over, as plain values, and what was changed, a line each.

    Args:
        config: the user's.
        cases: the layouts to serve.
        steps: optimizer steps to take.
        full: leave the model and its sequences as they are.
    """
    values = config.to_dict()
    model, notes = (values["model"], []) if full else _shrunk_model(config.model, cases)
    model["dropout"] = 0.0
    sequence = config.train.sequence_length if full else model["max_sequence_length"] - 8
    batch = lcm(_BATCH, *(case.data * case.accumulate for case in cases))
    train = values["train"] | {
        "steps": steps,
        "sequence_length": sequence,
        "global_batch_size": batch,
        "micro_batch_size": batch,
        "precision": "fp32",
        "lr": _LEARNING_RATE,
        "warmup_fraction": 0.0,
    }
    for name in ("sequence_length", "global_batch_size"):
        if values["train"][name] != train[name]:
            notes.append(f"{name} {values['train'][name]:,} -> {train[name]:,}")
    base = {"plugins": list(config.plugins), "model": model, "parallel": {"zero_stage": 1}, "train": train}
    return base, notes


def _shrunk_model(model: ModelConfig, cases: Sequence[Case]) -> tuple[dict[str, Any], list[str]]:
    layouts = [case.layout for case in cases]
    stages = lcm(1, *(layout.pipeline for layout in layouts))
    tensor = lcm(1, *(layout.tensor for layout in layouts))
    shares = lcm(tensor, *(layout.tensor * layout.context for layout in layouts if layout.context_method == "all_to_all"))
    runs = lcm(1, *((layout.tensor if layout.sequence else 1) * 2 * layout.context for layout in layouts))
    grouped = model.num_key_value_heads < model.num_attention_heads
    kept = _kept_layers(model, stages)
    heads = shares * (2 if grouped else 1)
    hidden = heads * _HEAD_DIM
    multiple = 4 * tensor
    sizes = {
        "num_layers": len(kept),
        "num_attention_heads": heads,
        "num_key_value_heads": shares,
        "hidden_size": hidden,
        "ffn_hidden_size": max(1, round(model.ffn_hidden_size / model.hidden_size * hidden / multiple)) * multiple,
        "vocab_size": _VOCABULARY,
        "max_sequence_length": -(-_SEQUENCE // runs) * runs + 8,  # learned positions that no sequence reaches
        "init_std": model.init_std * (model.hidden_size / hidden) ** 0.5,
        "mup_base_width": -(-model.mup_base_width * hidden // model.hidden_size),  # as much narrower, or still none
    }
    values = model.model_dump(mode="json", by_alias=True)
    notes = [f"{name} {_short(values[name])} -> {_short(size)}" for name, size in sizes.items() if values[name] != size]
    if len(kept) != model.num_layers:
        notes.append(f"its layers are layers {', '.join(map(str, kept))} of the config's, by their norms")
    norm = _norm_of(model, kept)
    return values | sizes | ({} if norm is None else {"norm": norm}), notes


def _short(size: float) -> str:
    return f"{size:,}" if isinstance(size, int) else f"{size:.3g}"


def _kept_layers(model: ModelConfig, stages: int) -> list[int]:
    """Layers of the config that stand for all: the first, the last, and one for every other choice of norms, in order."""
    norms = model.norm_sites()
    first_like: dict[tuple[tuple[str, NormConfig | None], ...], int] = {}
    for layer in range(model.num_layers):
        kind = tuple((name, norms.get(Site(name, layer))) for name in LAYER_SITES)
        first_like.setdefault(_hashable(kind), layer)
    kept = {0, model.num_layers - 1, *first_like.values()}
    others = (layer for layer in range(model.num_layers) if layer not in kept)
    while len(kept) % stages:
        if (layer := next(others, None)) is None:
            break
        kept.add(layer)
    ordered = sorted(kept)
    return ordered + [ordered[-1]] * (-len(ordered) % stages)  # a config with fewer layers than stages grows


def _hashable(kind: tuple[tuple[str, NormConfig | None], ...]) -> Any:
    return tuple((name, norm and norm.model_dump_json()) for name, norm in kind)


def _norm_of(model: ModelConfig, kept: Sequence[int]) -> dict[str, Any] | None:
    """The norms' map of the model of these layers: by site and layer where it is not the default alone."""
    default = model.norm.default
    plain = NormMap({"default": default})
    if plain == model.norm:
        return None
    wanted, found = model.norm_sites(), plain.sites(model.norm_placement, model.qk_norm, len(kept))
    none = {"kind": "none"}
    names = [(Site("embedding"), Site("embedding")), (Site("final"), Site("final"))]
    names += [(Site(name, new), Site(name, old)) for new, old in enumerate(kept) for name in LAYER_SITES]
    norm_map: dict[str, Any] = {"default": default.model_dump(mode="json", by_alias=True)}
    for new, old in names:
        norm, by_default = wanted.get(old), found.get(new)
        if norm != by_default:
            norm_map[str(new)] = none if norm is None else norm.model_dump(mode="json", by_alias=True)
    return norm_map
