"""Norms: bounded compressions, the IBNorm operator, its layers, and their registry. Imports nothing else of ours.

The names below load on first use, so that naming a norm in a config does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .base import Norm
    from .channels import IBBatchNorm, IBGroupNorm
    from .compression import Compression, compression_names, get_compression, register_compression
    from .config import (
        IBNormConfig,
        LayerNormConfig,
        NormConfig,
        RMSNormConfig,
        StandardizingConfig,
        norm_names,
        parse_norm,
        register_norm,
    )
    from .convert import Converted, convert_norms
    from .functional import add_ib_norm, ib_norm, layer_norm, rms_norm
    from .modules import IBNorm, LayerNorm, RMSNorm, StandardizingNorm
    from .peers.batch_norm import BatchNorm
    from .peers.normal_norm import NormalNorm
    from .peers.pointwise import Derf, DyT, Scale
    from .peers.scaled import L2Norm, LayerNormScaling
    from .site import LAYER_SITES, MODEL_SITES, Site

_HOME = {
    "base": ["Norm"],
    "channels": ["IBBatchNorm", "IBGroupNorm"],
    "compression": ["Compression", "compression_names", "get_compression", "register_compression"],
    "config": [
        "IBNormConfig",
        "LayerNormConfig",
        "NormConfig",
        "RMSNormConfig",
        "StandardizingConfig",
        "norm_names",
        "parse_norm",
        "register_norm",
    ],
    "convert": ["Converted", "convert_norms"],
    "functional": ["add_ib_norm", "ib_norm", "layer_norm", "rms_norm"],
    "modules": ["IBNorm", "LayerNorm", "RMSNorm", "StandardizingNorm"],
    "peers.batch_norm": ["BatchNorm"],
    "peers.normal_norm": ["NormalNorm"],
    "peers.pointwise": ["Derf", "DyT", "Scale"],
    "peers.scaled": ["L2Norm", "LayerNormScaling"],
    "site": ["LAYER_SITES", "MODEL_SITES", "Site"],
}

__all__ = [
    "LAYER_SITES",
    "MODEL_SITES",
    "BatchNorm",
    "Compression",
    "Converted",
    "Derf",
    "DyT",
    "IBBatchNorm",
    "IBGroupNorm",
    "IBNorm",
    "IBNormConfig",
    "L2Norm",
    "LayerNorm",
    "LayerNormConfig",
    "LayerNormScaling",
    "Norm",
    "NormConfig",
    "NormalNorm",
    "RMSNorm",
    "RMSNormConfig",
    "Scale",
    "Site",
    "StandardizingConfig",
    "StandardizingNorm",
    "add_ib_norm",
    "compression_names",
    "convert_norms",
    "get_compression",
    "ib_norm",
    "layer_norm",
    "norm_names",
    "parse_norm",
    "register_compression",
    "register_norm",
    "rms_norm",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    for module, names in _HOME.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
