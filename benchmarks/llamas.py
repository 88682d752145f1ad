"""One LLaMA in four implementations with the same weights: by hand, Hugging Face's, litgpt's and ours.

What a training step of ours is measured against (``benchmarks.step``). Each builder returns a module and a function that
gives the mean cross-entropy of a batch; parameters are of the type asked for, and nothing is cast on the way but the logits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-5
ROPE_BASE = 10_000


@dataclass(frozen=True)
class Shape:
    """Sizes of a model and of the batch it is trained on. Heads are 64 wide where the width allows it."""

    layers: int
    width: int
    ffn: int
    vocabulary: int
    length: int
    batch: int

    @property
    def heads(self) -> int:
        """Attention heads, each with keys and values of its own."""
        return max(2, self.width // 64)

    @property
    def tokens(self) -> int:
        """Tokens of a step."""
        return self.batch * self.length

    def __str__(self) -> str:
        model = f"{self.layers} layers, d = {self.width}, vocabulary {self.vocabulary}"
        return f"{model}, {self.batch} sequences of {self.length}"


SHAPES = {
    "S": Shape(6, 256, 688, 4096, 256, 8),
    "M": Shape(12, 512, 1376, 8192, 512, 4),
    "XS": Shape(2, 64, 176, 512, 32, 2),
}


@dataclass(frozen=True)
class Layer:
    """The matrices of a layer, ``[out, in]``."""

    q: Tensor
    k: Tensor
    v: Tensor
    proj: Tensor
    gate: Tensor
    up: Tensor
    down: Tensor


@dataclass(frozen=True)
class Weights:
    """The matrices of a model; gains of norms are 1."""

    embedding: Tensor
    head: Tensor
    layers: list[Layer] = field(default_factory=list)

    @staticmethod
    def random(shape: Shape, seed: int) -> Weights:
        """Normal with standard deviation 0.02."""
        generator = torch.Generator().manual_seed(seed)
        d, ffn = shape.width, shape.ffn

        def matrix(rows: int, columns: int) -> Tensor:
            return 0.02 * torch.randn(rows, columns, generator=generator)

        sizes = [(d, d)] * 4 + [(ffn, d), (ffn, d), (d, ffn)]
        layers = [Layer(*(matrix(*size) for size in sizes)) for _ in range(shape.layers)]
        return Weights(matrix(shape.vocabulary, d), matrix(shape.vocabulary, d), layers)


#: The mean cross-entropy, in nats, of labels given tokens, both integers ``[b, s]``.
Loss = Callable[[Tensor, Tensor], Tensor]


class NotInstalledError(Exception):
    """A peer's package is missing; the message names it."""


def _mean_loss(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())


class HandWritten(nn.Module):
    """The LLaMA that one writes from the papers (arXiv 2302.13971): fused QKV and gate-up products, SDPA, RoPE on halves.

    Args:
        shape: its sizes.
        weights: its matrices.
        dtype: of parameters and activations.
    """

    def __init__(self, shape: Shape, weights: Weights, dtype: torch.dtype) -> None:
        super().__init__()
        self.embedding = nn.Parameter(weights.embedding.to(dtype, copy=True))
        self.blocks = nn.ModuleList(_Block(shape.heads, layer, dtype) for layer in weights.layers)
        self.gain = nn.Parameter(torch.ones(shape.width, dtype=dtype))
        self.head = nn.Parameter(weights.head.to(dtype, copy=True))
        head_dim = shape.width // shape.heads
        frequencies = ROPE_BASE ** (-torch.arange(0, head_dim, 2) / head_dim)
        angles = torch.arange(shape.length)[:, None] * frequencies
        self.register_buffer("cos", angles.cos().to(dtype), persistent=False)
        self.register_buffer("sin", angles.sin().to(dtype), persistent=False)

    def forward(self, tokens: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy."""
        x = F.embedding(tokens, self.embedding)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        return _mean_loss(F.linear(F.rms_norm(x, self.gain.shape, self.gain, EPS), self.head), labels)


class _Block(nn.Module):
    def __init__(self, heads: int, layer: Layer, dtype: torch.dtype) -> None:
        super().__init__()
        self.heads = heads
        width = layer.proj.shape[0]
        self.attention_gain, self.mlp_gain = (nn.Parameter(torch.ones(width, dtype=dtype)) for _ in range(2))
        self.qkv = nn.Parameter(torch.cat([layer.q, layer.k, layer.v]).to(dtype))
        self.proj = nn.Parameter(layer.proj.to(dtype, copy=True))
        self.gate_up = nn.Parameter(torch.cat([layer.gate, layer.up]).to(dtype))
        self.down = nn.Parameter(layer.down.to(dtype, copy=True))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        b, s, d = x.shape
        h = F.rms_norm(x, (d,), self.attention_gain, EPS)
        q, k, v = F.linear(h, self.qkv).view(b, s, 3, self.heads, -1).permute(2, 0, 3, 1, 4)  # each [b, heads, s, head_dim]
        y = F.scaled_dot_product_attention(_rotate(q, cos, sin), _rotate(k, cos, sin), v, is_causal=True)
        x = x + F.linear(y.transpose(1, 2).reshape(b, s, d), self.proj)
        gate, up = F.linear(F.rms_norm(x, (d,), self.mlp_gain, EPS), self.gate_up).chunk(2, -1)
        return x + F.linear(F.silu(gate) * up, self.down)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """RoPE (arXiv 2104.09864) on ``[..., s, head_dim]``: pairs are one number of each half."""
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


def hand_written(shape: Shape, weights: Weights, dtype: torch.dtype, compiled: bool) -> tuple[nn.Module, Loss]:
    """:class:`HandWritten`; compiled as a whole."""
    module = HandWritten(shape, weights, dtype)
    return module, torch.compile(module, dynamic=False) if compiled else module


def hugging_face(shape: Shape, weights: Weights, dtype: torch.dtype, compiled: bool) -> tuple[nn.Module, Loss]:
    """``transformers.LlamaForCausalLM`` with SDPA and its own loss; compiled as a whole.

    Raises:
        NotInstalledError: there is no transformers.
    """
    if find_spec("transformers") is None:
        raise NotInstalledError("transformers")
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=shape.vocabulary, hidden_size=shape.width, intermediate_size=shape.ffn, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, num_key_value_heads=shape.heads, max_position_embeddings=shape.length,
        rms_norm_eps=EPS, tie_word_embeddings=False, use_cache=False, attn_implementation="sdpa",
    )  # fmt: skip
    module = LlamaForCausalLM(config).to(dtype).train()
    places = [(module.model.embed_tokens, weights.embedding), (module.lm_head, weights.head)]
    for block, layer in zip(module.model.layers, weights.layers, strict=True):
        attention, mlp = block.self_attn, block.mlp
        places += [(attention.q_proj, layer.q), (attention.k_proj, layer.k), (attention.v_proj, layer.v)]
        places += [(attention.o_proj, layer.proj), (mlp.gate_proj, layer.gate), (mlp.up_proj, layer.up)]
        places += [(mlp.down_proj, layer.down)]
    _fill(places)
    call = torch.compile(module, dynamic=False) if compiled else module
    return module, lambda tokens, labels: call(input_ids=tokens, labels=labels, shift_labels=labels).loss


def litgpt(shape: Shape, weights: Weights, dtype: torch.dtype, compiled: bool) -> tuple[nn.Module, Loss]:
    """``litgpt.GPT`` in LLaMA's form, with the mean cross-entropy of its logits; both compiled together.

    Raises:
        NotInstalledError: there is no litgpt.
    """
    if find_spec("litgpt") is None:
        raise NotInstalledError("litgpt")
    from litgpt import GPT, Config

    config = Config(
        n_layer=shape.layers, n_head=shape.heads, n_embd=shape.width, vocab_size=shape.vocabulary,
        padded_vocab_size=shape.vocabulary, block_size=shape.length, rotary_percentage=1.0, rope_base=ROPE_BASE,
        parallel_residual=False, bias=False, norm_class_name="RMSNorm", norm_eps=EPS, mlp_class_name="LLaMAMLP",
        intermediate_size=shape.ffn,
    )  # fmt: skip
    module = GPT(config).to(dtype)
    places = [(module.transformer.wte, weights.embedding), (module.lm_head, weights.head)]
    for block, layer in zip(module.transformer.h, weights.layers, strict=True):
        places += [(block.attn.qkv, torch.cat([layer.q, layer.k, layer.v])), (block.attn.proj, layer.proj)]
        places += [(block.mlp.fc_1, layer.gate), (block.mlp.fc_2, layer.up), (block.mlp.proj, layer.down)]
    _fill(places)

    def loss(tokens: Tensor, labels: Tensor) -> Tensor:
        return _mean_loss(module(tokens), labels)

    return module, torch.compile(loss, dynamic=False) if compiled else loss


def fill_ours(module: nn.Module, shape: Shape, weights: Weights) -> None:
    """Give a ``LanguageModel`` of ours these weights. Megatron-core stores q, k and v head by head."""
    gpt = module.gpt
    places = [(gpt.embedding.word_embeddings, weights.embedding), (gpt.output_layer, weights.head)]
    for block, layer in zip(gpt.decoder.layers, weights.layers, strict=True):
        by_head = [matrix.view(shape.heads, -1, shape.width) for matrix in (layer.q, layer.k, layer.v)]
        attention, mlp = block.self_attention, block.mlp
        places += [(attention.linear_qkv, torch.cat(by_head, dim=1).flatten(0, 1)), (attention.linear_proj, layer.proj)]
        places += [(mlp.linear_fc1, torch.cat([layer.gate, layer.up])), (mlp.linear_fc2, layer.down)]
    _fill(places)


@torch.no_grad()
def _fill(places: list[tuple[nn.Module, Tensor]]) -> None:
    for module, matrix in places:
        assert module.weight.shape == matrix.shape, (module, matrix.shape)
        module.weight.copy_(matrix)
