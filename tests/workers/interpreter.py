"""Triton's interpreter, which runs kernels on the CPU. Import this before anything of Triton's, in a process of its own."""

from __future__ import annotations

import os
from collections.abc import Callable

os.environ["TRITON_INTERPRET"] = "1"

import numpy as np
import torch
import triton.language as tl
import triton.runtime.interpreter as interpreter


def _rounding_to_nearest(convert: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """The interpreter cuts float32 off to bf16, where a GPU rounds to nearest: twice the error. Round here as well."""

    def converted(values: np.ndarray, source: tl.dtype, target: tl.dtype, mode: object) -> np.ndarray:
        if (source, target) != (tl.float32, tl.bfloat16):
            return convert(values, source, target, mode)
        return torch.from_numpy(np.ascontiguousarray(values)).bfloat16().view(torch.int16).numpy().view(np.uint16)

    return converted


interpreter._convert_float = _rounding_to_nearest(interpreter._convert_float)
np.seterr(all="ignore")  # both branches of a tl.where are computed
torch.set_num_threads(1)
