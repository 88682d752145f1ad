"""Which norm stands at which site: ``model.norm``, one norm or a map by site and layer.

    model:
      norm:
        default: rmsnorm
        final: layernorm
        layers.0-3.attn_in: {kind: ibnorm_tanh, lambda: 2, scale: relative}

A pattern is a site (``attn_in``, in every layer), layers (``layers.5``, ``layers.0-3``: every site there) or both. Which
sites there are is the placement's to say; a pattern that names a site adds it, and the norm ``none`` takes it away.
Nothing here imports torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, RootModel, SerializeAsAny, model_serializer, model_validator

from ..errors import Problem
from ..norms.config import NormConfig, parse_norm
from ..norms.site import LAYER_SITES, MODEL_SITES, Site

AnyNorm = Annotated[SerializeAsAny[NormConfig], BeforeValidator(parse_norm)]

#: Where norms stand by default. pre: before each sub-layer (Xiong et al., arXiv 2002.04745). post: after each residual
#: addition (Vaswani et al., arXiv 1706.03762). peri: before and behind each sub-layer (Kim et al., arXiv 2502.02732).
#: sub: before each sub-layer and before its last matrix (Wang et al., Sub-LN, arXiv 2210.06423). output: behind each
#: sub-layer, before the addition (OLMo 2, arXiv 2501.00656).
Placement = Literal["pre", "post", "peri", "sub", "output"]
_PLACED: dict[Placement, tuple[str, ...]] = {
    "pre": ("attn_in", "mlp_in", "final"),
    "post": ("attn_out", "mlp_out"),
    "peri": ("attn_in", "attn_out", "mlp_in", "mlp_out", "final"),
    "sub": ("attn_in", "attn_sub", "mlp_in", "mlp_sub", "final"),
    "output": ("attn_out", "mlp_out", "final"),
}


def _per_head_if_true(value: object) -> object:
    return ("per_head" if value else "none") if isinstance(value, bool) else value


#: A config may also say true, for per_head, or false.
QKNorm = Annotated[Literal["none", "per_head", "full"], BeforeValidator(_per_head_if_true)]

_SITE = "|".join(LAYER_SITES + MODEL_SITES)
_PATTERN = re.compile(rf"(?:layers\.(?P<first>\d+)(?:-(?P<last>\d+))?)?(?:(?:^|(?<=\d)\.)(?P<site>{_SITE}))?")


@dataclass(frozen=True)
class _Pattern:
    """A pattern read: layers first to last, or None for all of the model; a site's name, or None for all."""

    text: str
    layers: tuple[int, int] | None
    site: str | None

    @staticmethod
    def of(text: str) -> _Pattern:
        found = _PATTERN.fullmatch(text)
        if not found or not text or (found["first"] and found["site"] in MODEL_SITES):
            raise ValueError(f"{text!r} is no site: write default, a site ({', '.join(LAYER_SITES + MODEL_SITES)}), "
                             "layers.0-3 or layers.0-3.attn_in")  # fmt: skip
        first = found["first"]
        return _Pattern(text, (int(first), int(found["last"] or first)) if first else None, found["site"])

    def matches(self, site: Site) -> bool:
        named = self.site is None or self.site == site.name
        return named and (self.layers is None or (site.layer is not None and self.layers[0] <= site.layer <= self.layers[1]))


class NormMap(RootModel[dict[str, AnyNorm]]):
    """Norms by pattern, and the ``default`` for every site that no pattern names."""

    model_config = ConfigDict(frozen=True)

    @model_validator(mode="after")
    def _check(self) -> NormMap:
        for text in self._others():
            _Pattern.of(text)
        return self

    @model_serializer
    def _write(self) -> dict[str, Any]:
        norms = {text: norm.model_dump(mode="json", by_alias=True) for text, norm in self.root.items()}
        return norms if self._others() else norms["default"]

    @property
    def default(self) -> NormConfig:
        """The norm at every site that no pattern names."""
        return self.root["default"]

    def _others(self) -> dict[str, NormConfig]:
        return {text: norm for text, norm in self.root.items() if text != "default"}

    def label(self) -> str:
        """The default's label, and the others' behind it."""
        return " ".join([self.default.label(), *(f"{text}={norm.label()}" for text, norm in self._others().items())])

    def sites(self, placement: Placement, qk_norm: QKNorm, num_layers: int) -> dict[Site, NormConfig]:
        """The norm at every site of a model, in the order data meets them."""
        patterns = [_Pattern.of(text) for text in self._others()]
        placed = {*_PLACED[placement], *(("q", "k") if qk_norm != "none" else ())}
        found: dict[Site, NormConfig] = {}
        for site in _all_sites(num_layers):
            pattern = next((p for p in patterns if p.matches(site) and (p.site or site.name in placed)), None)
            norm = self.root[pattern.text] if pattern else self.default if site.name in placed else None
            if pattern is None and site.name == "embedding":
                norm = self.default.at_embedding()
            if norm is not None and norm.kind != "none":
                found[site] = norm
        return found

    def problems(self, placement: Placement, qk_norm: QKNorm, num_layers: int) -> Iterator[Problem]:
        """Patterns that match nothing, or a site that another one matches too."""
        patterns = [_Pattern.of(text) for text in self._others()]
        placed = {*_PLACED[placement], *(("q", "k") if qk_norm != "none" else ())}
        sites = _all_sites(num_layers)
        hits = {p.text: {site for site in sites if p.matches(site) and (p.site or site.name in placed)} for p in patterns}
        for number, pattern in enumerate(patterns):
            where = f"model.norm.{pattern.text}"
            label = self.root[pattern.text].label()
            if pattern.layers and not 0 <= pattern.layers[0] <= pattern.layers[1] < num_layers:
                why = f"the model has layers 0 to {num_layers - 1}"
                yield Problem(where, label, why, "name layers among them, the lower one first")
            elif pattern.site in ("q", "k") and qk_norm == "none":
                why = "model.qk_norm is none, so there is no norm on queries and keys"
                yield Problem(where, label, why, "set model.qk_norm to per_head or full")
            elif self.root[pattern.text].kind == "none" and pattern.site and pattern.site not in placed | {"embedding"}:
                why = f"model.norm_placement {placement} has no norm there that could be taken away"
                yield Problem(where, label, why, "leave it out")
            for other in patterns[:number]:
                if both := hits[pattern.text] & hits[other.text]:
                    why = f"model.norm.{other.text} names {min(map(str, both))} too"
                    yield Problem(where, label, why, "let every site match one pattern at most")


def parse_norm_map(value: Any) -> NormMap:
    """A single norm (a name, a mapping with a kind) as a map of nothing but a default; or a map with a ``default``.

    Raises:
        ValueError: an unknown norm, option or site.
    """
    if isinstance(value, NormMap):
        return value
    if isinstance(value, Mapping) and "default" in value:
        return NormMap.model_validate(dict(value))
    if isinstance(value, Mapping) and "kind" not in value:
        raise ValueError(
            "it has neither kind nor default: write the kind of one norm, or the default of a map by site and layer"
        )
    return NormMap({"default": parse_norm(value)})


#: As a field of a config: ``norm: AnyNormMap``.
AnyNormMap = Annotated[NormMap, BeforeValidator(parse_norm_map)]


def _all_sites(num_layers: int) -> list[Site]:
    layers = [Site(name, layer) for layer in range(num_layers) for name in LAYER_SITES]
    return [Site("embedding"), *layers, Site("final")]
