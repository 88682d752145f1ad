"""A plugin: RMSNorm that takes its time in a job's first starts, so that there is time to interrupt them."""

from __future__ import annotations

import os
import time

from torch import Tensor

from ibnorm_megatron.norms import Norm, register_norm
from ibnorm_megatron.norms.config import RMSNormConfig
from ibnorm_megatron.norms.modules import RMSNorm

#: Of how many starts, by Slurm's count, each pass takes how many seconds.
_STARTS, _SECONDS = int(os.environ.get("SLOW_STARTS", "0")), 0.2
_SLOW = int(os.environ.get("SLURM_RESTART_COUNT", "0")) < _STARTS


class SlowNorm(RMSNorm):
    """The same numbers, later."""

    def forward(self, x: Tensor) -> Tensor:
        if _SLOW and self.training:
            time.sleep(_SECONDS)
        return super().forward(x)


@register_norm("slow")
class SlowConfig(RMSNormConfig):
    """No options of its own."""

    def module_class(self) -> type[Norm]:
        return SlowNorm
