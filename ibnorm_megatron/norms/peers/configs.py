"""Configs of the peers, registered by name. Like every config they import torch only when a norm is built."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from ..config import NormConfig, RowSums, StandardizingConfig, register_norm
from ..cost import Operations, Passes, standardizing, standardizing_statistics

if TYPE_CHECKING:
    from ..base import Norm


class AffineConfig(NormConfig):
    """A norm that ends with a gain and perhaps a bias, one number a column each."""

    bias: bool = Field(True, description="whether there is a beta")

    def num_params(self, width: int) -> int:
        return width * (2 if self.bias else 1)


@register_norm("scale")
class ScaleConfig(NormConfig):
    """One learnable scalar, sqrt(d) at the start: what DyT needs behind the embedding (arXiv 2503.10622)."""

    def module_class(self) -> type[Norm]:
        from .pointwise import Scale

        return Scale

    def num_params(self, width: int) -> int:
        return 1

    def operations(self) -> Passes | None:
        return Operations(1), Operations(3)

    def statistics(self, bytes_an_element: int) -> int | None:
        return 0


@register_norm("dyt")
class DyTConfig(AffineConfig):
    """DyT, arXiv 2503.10622. As the model's default it brings its embedding scale with it."""

    alpha: float | None = Field(None, gt=0, description="slope at the start; null is the paper's, by model width and site")

    def module_class(self) -> type[Norm]:
        from .pointwise import DyT

        return DyT

    def num_params(self, width: int) -> int:
        return super().num_params(width) + 1

    def operations(self) -> Passes | None:
        return Operations(3 + self.bias), Operations(11 + self.bias)

    def statistics(self, bytes_an_element: int) -> int | None:
        return 0

    def at_embedding(self) -> NormConfig | None:
        return ScaleConfig(kind="scale")


@register_norm("derf")
class DerfConfig(DyTConfig):
    """Derf, arXiv 2512.10938: DyT with erf and a shift."""

    def module_class(self) -> type[Norm]:
        from .pointwise import Derf

        return Derf

    def num_params(self, width: int) -> int:
        return super().num_params(width) + 1

    def operations(self) -> Passes | None:
        return Operations(4 + self.bias), Operations(15 + self.bias)


@register_norm("normalnorm")
class NormalNormConfig(AffineConfig):
    """Normality normalization, arXiv 2505.00685."""

    eps: float = Field(1e-5, gt=0, description="added to the variance inside the root")
    noise: float = Field(0.4, ge=0, description="noise in training, in mean absolute deviations of the row; 0 is none")

    @property
    def draws(self) -> bool:
        return self.noise > 0

    def module_class(self) -> type[Norm]:
        from .normal_norm import NormalNorm

        return NormalNorm

    def row_sums(self) -> RowSums:
        """Mean, variance and the likelihood's slopes, with gradients; mean and deviation for noise, without."""
        return RowSums(forward=(1, 1, 5, *((1, 1) if self.noise else ())), backward=(5, 1, 1), bytes_each=4)


@register_norm("layernorm_scaling")
class LayerNormScalingConfig(StandardizingConfig):
    """LayerNorm Scaling, arXiv 2502.05795; ``bias: false, center: false`` scales RMSNorm."""

    scales_with_depth: ClassVar[bool] = True

    def module_class(self) -> type[Norm]:
        from .scaled import LayerNormScaling

        return LayerNormScaling


@register_norm("l2norm")
class L2NormConfig(AffineConfig):
    """Division by the row's length, after ScaleNorm (arXiv 1910.05895)."""

    bias: bool = False
    eps: float = Field(1e-5, gt=0, description="added to the row's sum of squares inside the root")

    def module_class(self) -> type[Norm]:
        from .scaled import L2Norm

        return L2Norm

    def operations(self) -> Passes | None:
        return standardizing(center=False, bias=self.bias)

    def statistics(self, bytes_an_element: int) -> int | None:
        return standardizing_statistics(center=False, bytes_an_element=bytes_an_element)

    def row_sums(self) -> RowSums:
        """RMSNorm's."""
        return RowSums(forward=(4, 4), backward=(3,))


@register_norm("batchnorm")
class BatchNormConfig(AffineConfig):
    """Batch normalization by statistics of earlier steps, so that no token sees a later one (after arXiv 1502.03167)."""

    eps: float = Field(1e-5, gt=0, description="added to the variance inside the root")
    momentum: float = Field(0.1, gt=0, le=1, description="weight of the newest step in the running statistics")

    def module_class(self) -> type[Norm]:
        from .batch_norm import BatchNorm

        return BatchNorm

    def operations(self) -> Passes | None:
        return Operations(6 + self.bias), Operations(6 + self.bias)

    def statistics(self, bytes_an_element: int) -> int | None:
        return 0

    def step_sums(self, width: int) -> int:
        """Two moments a column, and how many rows there were."""
        return 2 * width + 1
