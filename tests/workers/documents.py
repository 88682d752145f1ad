"""Checks attention that keeps to documents on as many context ranks as were launched: both exchanges, all kernels for a part.

Every rank computes the whole by itself, too, and holds its share of output and gradients against that.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from ibnorm_megatron.config import load_config
from ibnorm_megatron.data.batch import Batch
from ibnorm_megatron.model import attention
from ibnorm_megatron.model.attention import CoreAttention
from ibnorm_megatron.model.documents import document_ends
from ibnorm_megatron.model.spec import transformer_config
from ibnorm_megatron.parallel.config import Layout
from ibnorm_megatron.parallel.context import own_tokens
from ibnorm_megatron.train.step import inputs, own_share
from tests.varlen import documents_of, install


def main() -> None:
    dist.init_process_group("gloo")
    ranks = dist.get_world_size()
    sizes = {"num_attention_heads": 4 * ranks, "num_key_value_heads": 2 * ranks, "hidden_size": 64 * ranks}
    model = load_config("configs/tiny_llama.yaml", [f"model.{name}={size}" for name, size in sizes.items()]).model
    generator = torch.Generator().manual_seed(0)
    shape = (10 * ranks, 5, 4 * ranks, 16)  # tokens, sequences, heads, width: runs of 5 tokens, so that documents cross them
    q, dy = (torch.randn(shape, generator=generator) for _ in range(2))
    k, v = (torch.randn(*shape[:2], 2 * ranks, 16, generator=generator) for _ in range(2))
    documents = documents_of(5, len(q))
    ends = document_ends(documents)

    tokens = torch.arange(5 * len(q)).view(5, -1)
    share = inputs(
        own_share(Batch(tokens, tokens, tokens.float(), tokens, documents), SimpleNamespace(context=dist.group.WORLD))
    )
    assert torch.equal(share["tokens"], own_tokens(tokens, dist.group.WORLD, dim=1)) and share["tokens"].shape == (5, 10)
    assert torch.equal(share["documents"], documents), "attention needs those of the whole sequence"

    def core(layout: Layout) -> CoreAttention:
        groups = SimpleNamespace(cp=dist.group.WORLD)
        method = {"all_gather": "all_gather", "all_to_all": "a2a"}[layout.context_method]
        config = transformer_config(model, layout, "fp32")
        return CoreAttention(config, 1, None, "self", cp_comm_type=method, pg_collection=groups)

    whole = _run(core(Layout()), (q, k, v), dy, ends)
    without = _run(core(Layout()), (q, k, v), dy, None)
    assert all(float((a - b).norm() / b.norm()) > 0.1 for a, b in zip(without, whole, strict=True))
    for method in ("all_gather", "all_to_all"):
        for kernel in ("chosen", "flash"):
            with pytest.MonkeyPatch.context() as patch:
                if kernel == "flash":
                    install(patch)
                    patch.setattr(attention, "_attend", attention._flash_attention)
                parts = [own_tokens(t, dist.group.WORLD, dim=0) for t in (q, k, v, dy)]
                own = _run(core(Layout(context=ranks, context_method=method)), parts[:3], parts[3], ends)
            for found, expected in zip(own, whole, strict=True):
                wanted = own_tokens(expected, dist.group.WORLD, dim=0)
                torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5, msg=lambda m: f"{method}, {kernel}: {m}")  # noqa: B023
    dist.destroy_process_group()


def _run(core: CoreAttention, inputs: list[Tensor] | tuple[Tensor, ...], dy: Tensor, ends: Tensor | None) -> list[Tensor]:
    """The output, and the gradients of queries, keys and values."""
    leaves = [t.clone().requires_grad_() for t in inputs]
    output = core(*leaves, ends)
    return [output.detach(), *torch.autograd.grad(output, leaves, dy.flatten(2))]


if __name__ == "__main__":
    main()
