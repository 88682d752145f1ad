"""What one rank holds of a model, module by module: sizes only, without torch, so that any layout can be reckoned anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..norms.config import NormConfig
from ..norms.site import Site
from ..parallel.config import Layout
from .config import ModelConfig


@dataclass(frozen=True)
class HeldParameter:
    """A parameter as one rank holds it.

    Attributes:
        elements: on this rank.
        matrix: whether it has more than one dimension.
        partial: whether its gradient covers only the rank's tokens, heads or columns, and is summed over the tensor ranks.
        handed_on: whether its layer returns it rather than using it: a bias that the residual addition adds.
    """

    elements: int
    matrix: bool = True
    partial: bool = False
    handed_on: bool = False


@dataclass(frozen=True)
class HeldModule:
    """A module with parameters of its own.

    Attributes:
        name: says what it is, and is unique within a layer.
        layer: counts from 0 over the whole model; None outside the layers.
        parameters: its own.
    """

    name: str
    layer: int | None
    parameters: tuple[HeldParameter, ...]


def layers_of_stage(model: ModelConfig, layout: Layout, stage: int) -> range:
    """The layers that a stage holds, counted from 0 over the whole model."""
    size = model.num_layers // layout.pipeline
    return range(stage * size, (stage + 1) * size)


def held_modules(model: ModelConfig, layout: Layout, stage: int) -> list[HeldModule]:
    """The modules that a rank of a stage holds, in the order that a forward pass uses them."""
    norms, layers = model.norm_sites(), layers_of_stage(model, layout, stage)

    def norm(name: str, layer: int | None = None) -> Iterator[HeldModule]:
        if (site := Site(name, layer)) in norms:
            yield HeldModule(name, layer, tuple(_norm_parameters(model, layout, site, norms[site])))

    table = HeldParameter(model.padded_vocab_size(layout.tensor) // layout.tensor * model.hidden_size)
    found: list[HeldModule] = []
    if stage == 0:
        found.append(HeldModule("token embedding", None, (table,)))
        if model.position_embedding == "learned":
            positions = HeldParameter(model.max_sequence_length * model.hidden_size)
            found.append(HeldModule("position embedding", None, (positions,)))
        found += norm("embedding")
    for layer in layers:
        for name, matrices in _layer(model, layout).items():
            found += norm(name, layer) if matrices is None else [HeldModule(name, layer, matrices)]
    if stage == layout.pipeline - 1:
        found += norm("final")
        if not model.tie_embeddings or layout.pipeline > 1:  # the head of tied embeddings is the embedding, or a copy of it
            found.append(HeldModule("output head", None, (table,)))
    return found


def held_elements(modules: list[HeldModule]) -> int:
    """Elements of all their parameters."""
    return sum(parameter.elements for module in modules for parameter in module.parameters)


def _layer(model: ModelConfig, layout: Layout) -> dict[str, tuple[HeldParameter, ...] | None]:
    """The matrices of a layer with their biases, and None for a norm's site, in their order."""
    hidden, ffn, tensor = model.hidden_size, model.ffn_hidden_size, layout.tensor
    qkv_rows = hidden + 2 * model.num_key_value_heads * model.head_dim
    fc1_rows = ffn * (2 if model.activation == "swiglu" else 1)

    def matrix(elements: int, bias: int, *, partial: bool = False, handed_on: bool = False) -> tuple[HeldParameter, ...]:
        vector = HeldParameter(bias, matrix=False, partial=partial, handed_on=handed_on)
        return (HeldParameter(elements), *((vector,) if model.linear_bias else ()))

    split_tokens = layout.sequence_parallel  # the bias of a row-parallel matrix is added to this rank's tokens
    return {
        "attn_in": None,
        "qkv": matrix(qkv_rows * hidden // tensor, qkv_rows // tensor),
        "q": None,
        "k": None,
        "attn_sub": None,
        "proj": matrix(hidden * hidden // tensor, hidden, partial=split_tokens, handed_on=True),
        "attn_out": None,
        "mlp_in": None,
        "fc1": matrix(fc1_rows * hidden // tensor, fc1_rows // tensor, handed_on=True),
        "mlp_sub": None,
        "fc2": matrix(ffn * hidden // tensor, hidden, partial=split_tokens, handed_on=True),
        "mlp_out": None,
    }


def _norm_parameters(model: ModelConfig, layout: Layout, site: Site, norm: NormConfig) -> Iterator[HeldParameter]:
    """Vectors of one number a column, and scalars: a norm has nothing else, so two widths tell how many of each."""
    vectors = norm.num_params(2) - norm.num_params(1)
    scalars = norm.num_params(1) - vectors
    sharded = layout.tensor > 1 and model.has_sharded_columns(site)
    own_heads = layout.tensor > 1 and site.name in ("q", "k") and not sharded
    width = model.norm_width(site) // (layout.tensor if sharded else 1)
    shares_tokens = layout.sequence_parallel and not sharded
    for _ in range(vectors):
        yield HeldParameter(width, matrix=False, partial=own_heads or shares_tokens)
    for _ in range(scalars):
        yield HeldParameter(1, matrix=False, partial=own_heads or shares_tokens or sharded)
