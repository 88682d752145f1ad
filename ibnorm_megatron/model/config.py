"""The typed config of a decoder-only language model, and what it costs in parameters and FLOPs.

One config describes both families: LLaMA (RoPE, SwiGLU, no biases, untied) and GPT-2 (learned positions, GELU, biases,
tied). Nothing here imports torch, so a 70B model can be described anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from ..errors import Problem
from ..norms.config import NormConfig
from ..norms.site import Site
from .norm_map import AnyNormMap, Placement, QKNorm, parse_norm_map

#: Rows of the vocabulary are padded to this many per tensor-parallel rank; the loss masks the padding out.
VOCAB_ROWS_MULTIPLE = 128


class ModelConfig(BaseModel):
    """Shape of the model. Sizes are counts; ``dropout`` is a probability; ``init_std`` is in units of the weights."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    num_layers: int = Field(gt=0, le=10_000)  # counting parameters walks over them, and more can only be a slip
    hidden_size: int = Field(gt=0, description="width of the residual stream")
    num_attention_heads: int = Field(gt=0)
    num_key_value_heads: int = Field(
        0, ge=0, validate_default=True, description="grouped-query attention; 0 means one per attention head"
    )
    ffn_hidden_size: int = Field(gt=0, description="inner width of the MLP (of each half, for SwiGLU)")
    vocab_size: int = Field(gt=0, description="rows of the embedding that can be predicted, without padding")
    max_sequence_length: int = Field(gt=0, description="longest sequence; rows of a learned position embedding")
    position_embedding: Literal["rope", "learned"] = "rope"
    rope_base: int = Field(10_000, gt=0)
    activation: Literal["swiglu", "gelu"] = Field("swiglu", description="gelu is its tanh approximation, as in GPT-2's code")
    linear_bias: bool = False
    tie_embeddings: bool = False
    norm: AnyNormMap = Field(parse_norm_map("rmsnorm"), description="one norm, or a map by site and layer")
    norm_placement: Placement = Field("pre", description="where norms stand around a sub-layer")
    compile: Literal["none", "norms", "layers"] = Field(
        "none",
        description="torch.compile: every norm that lies whole on a rank; or every layer, and the loss where one rank holds "
        "the vocabulary. The first step then takes a minute or more",
    )
    qk_norm: QKNorm = Field("none", description="norm queries and keys, head by head or over all heads together")
    dropout: float = Field(0.0, ge=0, lt=1)
    init_std: float = Field(0.02, gt=0)
    scale_residual_init: bool = Field(True, description="divide the init of layers that write to the residual by sqrt(2 L)")
    mup_base_width: int = Field(
        0,
        ge=0,
        description="the hidden_size at which train.lr, weight_decay and init_std are meant; other widths follow by muP (Yang "
        "et al., arXiv 2203.03466), as long as head_dim and ffn_hidden_size / hidden_size are the same. 0: no muP",
    )

    @field_validator("num_key_value_heads")
    @classmethod
    def _one_key_value_head_each(cls, heads: int, info: ValidationInfo) -> int:
        return heads or info.data.get("num_attention_heads", 0)

    @model_validator(mode="after")
    def _check(self) -> ModelConfig:
        wrong = [
            f"{field} {getattr(self, field)} is not divisible by {divisor} {getattr(self, divisor)}"
            for field, divisor in (("hidden_size", "num_attention_heads"), ("num_attention_heads", "num_key_value_heads"))
            if getattr(self, field) % getattr(self, divisor)
        ]
        if not wrong and self.position_embedding == "rope" and self.head_dim % 2:
            wrong = [f"hidden_size / num_attention_heads = {self.head_dim} is odd, and RoPE rotates pairs"]
        if wrong:
            raise ValueError(", and ".join(wrong))
        return self

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def width_ratio(self) -> float:
        """By how much the model is wider than muP's base; 1 without muP."""
        return self.hidden_size / self.mup_base_width if self.mup_base_width else 1.0

    def padded_vocab_size(self, tensor: int) -> int:
        """Rows of the embedding as built for ``tensor`` parallel ranks."""
        multiple = VOCAB_ROWS_MULTIPLE * tensor
        return -(-self.vocab_size // multiple) * multiple

    def problems(self) -> Iterator[Problem]:
        """What of the norms' map does not fit the rest."""
        yield from self.norm.problems(self.norm_placement, self.qk_norm, self.num_layers)
        scaled = {norm.label(): None for norm in self.norm_sites().values() if norm.scales_with_depth}
        if scaled and self.scale_residual_init:
            why = (
                f"{', '.join(scaled)} shrinks what a layer adds with its depth already, and its paper found both together worse"
            )
            yield Problem("model.scale_residual_init", "true", why, "set model.scale_residual_init=false")

    def norm_sites(self) -> dict[Site, NormConfig]:
        """Every norm of the model, in the order data meets them."""
        return self.norm.sites(self.norm_placement, self.qk_norm, self.num_layers)

    def norm_width(self, site: Site) -> int:
        """Columns of the rows that the norm at a site sees, over all ranks."""
        if site.name in ("q", "k") and self.qk_norm == "per_head":
            return self.head_dim
        widths = {"mlp_sub": self.ffn_hidden_size, "k": self.num_key_value_heads * self.head_dim}
        return widths.get(site.name, self.hidden_size)

    def norm_rows(self, site: Site) -> int:
        """Rows that the norm at a site has of every token: one, or one for each head."""
        if site.name in ("q", "k") and self.qk_norm == "per_head":
            return self.num_attention_heads if site.name == "q" else self.num_key_value_heads
        return 1

    def has_sharded_columns(self, site: Site) -> bool:
        """Whether tensor parallelism spreads the columns of this site's rows over ranks."""
        return site.name in ("attn_sub", "mlp_sub") or (site.name in ("q", "k") and self.qk_norm == "full")

    def norm_label(self) -> str:
        """A short name for the norms of this model in tables and pictures."""
        parts = [self.norm.label(), "" if self.norm_placement == "pre" else self.norm_placement]
        parts.append("" if self.qk_norm == "none" else f"qk {self.qk_norm}")
        return ", ".join(part for part in parts if part)

    def num_params(self) -> dict[str, int]:
        """Trainable parameters by part, without vocabulary padding; their sum is the published size."""
        hidden, ffn, bias = self.hidden_size, self.ffn_hidden_size, int(self.linear_bias)
        qkv_out = hidden + 2 * self.num_key_value_heads * self.head_dim
        fc1_out = ffn * (2 if self.activation == "swiglu" else 1)
        table = self.vocab_size * hidden
        return {
            "token embedding": table,
            "position embedding": self.max_sequence_length * hidden if self.position_embedding == "learned" else 0,
            "attention": self.num_layers * (hidden * qkv_out + hidden * hidden + bias * (qkv_out + hidden)),
            "mlp": self.num_layers * (hidden * fc1_out + ffn * hidden + bias * (fc1_out + hidden)),
            "norms": sum(norm.num_params(self.norm_width(site)) for site, norm in self.norm_sites().items()),
            "output head": 0 if self.tie_embeddings else table,
        }

    def flops_per_token(self, sequence_length: int) -> int:
        """Model FLOPs of one token's forward and backward pass, the PaLM formula (arXiv 2204.02311, appendix B).

        6 per weight of every matrix product (the output head included, the embedding lookup not) plus
        12 L h s for the attention scores and their use, without a discount for causality.
        """
        parts = self.num_params()
        matrices = parts["attention"] + parts["mlp"] + self.vocab_size * self.hidden_size
        return 6 * matrices + 12 * self.num_layers * self.hidden_size * sequence_length
