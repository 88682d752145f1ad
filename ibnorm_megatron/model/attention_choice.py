"""Whether attention runs through flash-attn. Imports neither torch nor Megatron-core: a machine is asked this as well."""

from __future__ import annotations

from importlib.util import find_spec


def flash_obstacle(on_gpu: bool, element_size: int) -> str | None:
    """Why attention of such tensors would not run through flash-attn, as a sentence; None where it would.

    Args:
        on_gpu: where they are.
        element_size: bytes of one number.
    """
    if not on_gpu:
        return "on a CPU attention is blocks of matrix products up to 512 tokens, and PyTorch's beyond"
    if element_size != 2:
        return "flash-attn takes bf16 and fp16 only: attention is PyTorch's in fp32"
    if find_spec("flash_attn") is None:
        return "flash-attn is not installed: attention is PyTorch's, slower with documents kept apart"
    return None
