"""Where norms may stand in a decoder-only transformer."""

from __future__ import annotations

from dataclasses import dataclass

#: Sites of a layer in the order data meets them: before attention; on queries and keys; on attention's output before its
#: projection; on what the projection gives; and the same around the MLP's down-projection.
LAYER_SITES = ("attn_in", "q", "k", "attn_sub", "attn_out", "mlp_in", "mlp_sub", "mlp_out")

#: Of these, the sites between a sub-layer's two matrices: tensor ranks share the heads or columns there.
INNER_SITES = ("q", "k", "attn_sub", "mlp_sub")

#: Sites outside the layers: behind the embedding, and before the output head.
MODEL_SITES = ("embedding", "final")


@dataclass(frozen=True)
class Site:
    """One place for one norm.

    Attributes:
        name: of :data:`LAYER_SITES` or :data:`MODEL_SITES`.
        layer: counts from 0; None outside the layers.
    """

    name: str
    layer: int | None = None

    def __post_init__(self) -> None:
        assert self.name in (MODEL_SITES if self.layer is None else LAYER_SITES), self

    @property
    def inner(self) -> bool:
        """Whether it stands between a sub-layer's two matrices."""
        return self.name in INNER_SITES

    def __str__(self) -> str:
        return self.name if self.layer is None else f"layers.{self.layer}.{self.name}"
