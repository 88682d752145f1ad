"""What one micro-batch leaves on a rank between its forward and its backward pass, tensor by tensor.

Korthikanti et al. (arXiv 2205.05198) count ``s b h (34 + 5 a s / h)`` bytes a layer for one model in 16 bits, with dropout,
GELU and unfused attention. Here every tensor that autograd keeps in *this* stack is counted by itself, so that norms,
placements, SwiGLU, grouped keys, the attention that runs, and precision all show.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from ..model.shards import layers_of_stage
from ..norms.config import NormConfig
from ..norms.site import Site
from .rank import OfRank

#: Longest sequence whose attention probabilities a CPU keeps, and queries of a block: those of ``model.cpu_attention``.
_CPU_ATTENTION, _CPU_BLOCK = 512, 128

#: float32 numbers of a row that are counted where a norm does not say what it keeps.
_UNSAID = 4


@dataclass(frozen=True)
class Layer:
    """Bytes of one layer.

    Attributes:
        attention, mlp: kept by the sub-layer's matrices and functions, its norms left out.
        norms: kept by norms of the layer, by site.
        scores: of ``attention``, what selective recomputation makes again.
        working: most bytes beside what is kept, while the layer's gradient is computed.
        working_attention: the same of the attention alone, whose MLP is done by then.
    """

    attention: int
    mlp: int
    norms: Mapping[str, int]
    scores: int
    working: int
    working_attention: int

    @property
    def kept(self) -> int:
        """All of it, without recomputation."""
        return self.attention + self.mlp + sum(self.norms.values())


@dataclass(frozen=True)
class Activations(OfRank):
    """Of a config on one rank of a stage; sizes are bytes of one micro-batch unless said otherwise."""

    @cached_property
    def sequences(self) -> int:
        """Of a micro-batch."""
        return self.config.train.micro_batch(self.config.parallel.data(self.world_size))

    @property
    def length(self) -> int:
        """Tokens of a sequence on this context rank."""
        return self.config.train.sequence_length // self.config.parallel.context

    @property
    def tokens(self) -> int:
        """Of a micro-batch on this context rank, all tensor ranks together."""
        return self.sequences * self.length

    @property
    def stream_tokens(self) -> int:
        """Those whose residual stream this rank holds."""
        layout = self.config.parallel
        return self.tokens // layout.tensor if layout.sequence_parallel else self.tokens

    @property
    def stream(self) -> int:
        """The residual stream once."""
        return self.stream_tokens * self.config.model.hidden_size * self.element

    @property
    def gathered(self) -> int:
        """The residual stream of all tokens, as a column-parallel matrix takes it."""
        return self.tokens * self.config.model.hidden_size * self.element

    def _columns(self, columns: int) -> int:
        """A tensor of all tokens and of so many columns, shared among the tensor ranks."""
        return self.tokens * columns // self.config.parallel.tensor * self.element

    def norm(self, site: Site, norm: NormConfig) -> int:
        """Kept by the norm at a site: its rows and statistics, as :meth:`NormConfig.saved_bytes` has them."""
        model, layout = self.config.model, self.config.parallel
        sharded = model.has_sharded_columns(site) and layout.tensor > 1
        width = model.norm_width(site) // (layout.tensor if sharded else 1)
        heads = model.norm_rows(site) // (layout.tensor if site.inner and not sharded else 1)
        rows = (self.tokens if site.inner else self.stream_tokens) * heads
        saved = norm.saved_bytes(width, self.element)
        if saved is None:
            saved = width * self.element + 4 * _UNSAID
        if site.name in ("q", "k") and model.qk_norm == "per_head" and (site.name == "k" or not self._grouped):
            saved -= width * self.element  # its rows are a view of the first matrix's output, which is counted there
        if self.device == "cpu" and norm.kind == "layernorm" and not sharded and self.element < 4:
            saved += width * (4 - self.element)  # PyTorch's LayerNorm gets a float32 copy there (norms.functional)
        return rows * saved

    @property
    def _grouped(self) -> bool:
        """Whether several query heads share a key head; queries are then a copy of the first matrix's output, and no view."""
        return self.config.model.num_key_value_heads < self.config.model.num_attention_heads

    def unsaid(self) -> list[str]:
        """Norms that do not say what they keep."""
        norms = {norm.label(): norm for norm in self.config.model.norm_sites().values() if norm.kind != "none"}
        return [label for label, norm in norms.items() if norm.saved_bytes(1, self.element) is None]

    @cached_property
    def layers(self) -> list[Layer]:
        """Of this stage, in their order."""
        of_layers: dict[int, dict[str, NormConfig]] = {}
        for site, norm in self.config.model.norm_sites().items():
            if site.layer is not None:
                of_layers.setdefault(site.layer, {})[site.name] = norm
        found: dict[tuple[tuple[str, NormConfig], ...], Layer] = {}
        layers = []
        for number in layers_of_stage(self.config.model, self.config.parallel, self.stage):
            norms = of_layers.get(number, {})
            key = tuple(norms.items())
            if key not in found:
                found[key] = self._layer({name: self.norm(Site(name, number), norm) for name, norm in key})
            layers.append(found[key])
        return layers

    def _layer(self, norms: dict[str, int]) -> Layer:
        model = self.config.model
        attention, scores, attention_work = self._attention(norms)
        fc1 = self._columns(model.ffn_hidden_size * (2 if model.activation == "swiglu" else 1))
        ffn = self._columns(model.ffn_hidden_size)
        mlp = self.stream  # what the first matrix reads: the norm's output, or the stream where there is no norm
        # The first matrix's output, of which SiLU or GELU keeps its input; SwiGLU keeps both factors of its product too, the
        # second of them as a copy (megatron-core adds an offset of 0); and the product, for the second matrix.
        mlp += fc1 + (3 if model.activation == "swiglu" else 1) * ffn
        dropout = self.stream_tokens * model.hidden_size if model.dropout else 0  # a mask of bytes for each of two additions
        # Gradients of the stream and of the product, and with SwiGLU of its two factors.
        mlp_work = self.gathered + (2 if model.activation == "swiglu" else 1) * ffn
        working = max(mlp_work, attention_work - mlp)
        return Layer(attention + dropout, mlp + dropout, norms, scores, working, attention_work)

    def _attention(self, norms: dict[str, int]) -> tuple[int, int, int]:
        """Kept; of that what selective recomputation need not keep; and most beside it while its gradient is computed."""
        model, layout = self.config.model, self.config.parallel
        width, keys = model.hidden_size, model.num_key_value_heads * model.head_dim
        query, key, mixed = self._columns(width), self._columns(keys), self._columns(width + 2 * keys)
        rope = model.position_embedding == "rope"
        exchanged = layout.context > 1
        kept = self.stream  # what the first matrix reads
        rotated = rope or "q" in norms or "k" in norms
        kept += 4 * self.length * model.head_dim * self.element if rope else 0  # cosines and sines, for queries and for keys
        blocks = self._keeps_probabilities()
        # Values are a view of the first matrix's output; so are queries and keys that nothing rotates.
        seen = (query + key if rotated else query if self._grouped else 0) + mixed
        if blocks and self._grouped:  # keys and values are repeated for their queries' heads
            seen = 3 * query + (mixed if "k" in norms and model.qk_norm == "per_head" else 0)
        if exchanged:
            seen = (
                mixed + query + 2 * key * layout.context if layout.context_method == "all_gather" else mixed + 2 * query + key
            )
        output = query
        if blocks:
            probabilities = self._heads() * self._pairs() * self.element
            scores = probabilities
        else:  # the output as the kernel wrote it, and a float32 number of every row
            copied = self.device == "gpu" and self.sequences > 1  # from [b, s] to [s, b]
            scores = (output if copied else 0) + 4 * self._heads() * self.length
        kept += seen + scores + output  # and what the second matrix reads
        # Gradients of the stream, of the output, and of queries, keys and values.
        work = self.gathered + output + 3 * query
        if blocks:
            work += 2 * self._heads() * _CPU_BLOCK * self.length * self.element
        if layout.recompute == "selective":
            work += scores + (3 * query if blocks else 0)
        return kept, scores, work

    def _heads(self) -> int:
        """Heads of all sequences on this rank."""
        layout, model = self.config.parallel, self.config.model
        return self.sequences * model.num_attention_heads // layout.tensor

    def _keeps_probabilities(self) -> bool:
        """Whether a CPU's short attention runs, which keeps them: as :func:`..model.cpu_attention.can_take` decides."""
        whole = self.config.parallel.context == 1 or self.config.parallel.context_method == "all_to_all"
        short = self.config.train.sequence_length <= _CPU_ATTENTION and self.config.train.precision != "fp16"
        return self.device == "cpu" and whole and short and not self.config.model.dropout

    def _pairs(self) -> int:
        """Queries with the keys of their blocks, of one head."""
        length = self.config.train.sequence_length
        return sum((min(start + _CPU_BLOCK, length) - start) * min(start + _CPU_BLOCK, length)
                   for start in range(0, length, _CPU_BLOCK))  # fmt: skip

    @cached_property
    def in_flight(self) -> int:
        """Micro-batches whose activations a rank of this stage holds at once, under 1F1B."""
        return min(self.micro_batches, self.config.parallel.pipeline - self.stage)

    def kept_of(self, layer: Layer) -> int:
        """Of one layer, under the layout's recomputation."""
        recompute = self.config.parallel.recompute
        if recompute == "full":
            return self.stream
        return layer.kept - (layer.scores if recompute == "selective" else 0)

    @cached_property
    def kept(self) -> int:
        """Of all layers of the stage."""
        return sum(self.kept_of(layer) for layer in self.layers)

    @cached_property
    def kept_by_norms(self) -> int:
        """Of all layers and both ends, by norms alone, under the layout's recomputation."""
        layers = 0 if self.config.parallel.recompute == "full" else sum(sum(each.norms.values()) for each in self.layers)
        return layers + self._norm_at("embedding") + self._norm_at("final")

    @cached_property
    def ends(self) -> int:
        """Kept before the first and behind the last layer, without the logits."""
        found = 0
        if self.stage == 0:
            found += self._norm_at("embedding") + 16 * self.tokens  # and token ids and positions
        if self.last:
            found += self._norm_at("final") + self.stream  # what the head reads
        return found

    def _norm_at(self, name: str) -> int:
        here = self.stage == 0 if name == "embedding" else self.last
        norm = self.config.model.norm_sites().get(Site(name))
        return self.norm(Site(name), norm) if norm is not None and here else 0

    @property
    def last(self) -> bool:
        """Whether this stage computes the loss."""
        return self.stage == self.config.parallel.pipeline - 1

    @property
    def logits(self) -> int:
        """This rank's logits in the model's own type; 0 before the last stage."""
        model, layout = self.config.model, self.config.parallel
        rows = model.padded_vocab_size(layout.tensor) // layout.tensor
        return self.tokens * rows * self.element if self.last else 0

    @property
    def loss(self) -> int:
        """Most bytes that the loss holds at once: logits, those with padding masked, and the softmax in float32."""
        padded = self.config.model.padded_vocab_size(self.config.parallel.tensor) > self.config.model.vocab_size
        softmax = self.logits * 4 // self.element if self.element < 4 else 0  # float32 logits become it in place
        return self.logits * (2 if padded else 1) + softmax

    @property
    def logits_backward(self) -> int:
        """Most bytes while the logits' gradient is made: the softmax, which becomes it, and its cast or its masked copy."""
        padded = self.config.model.padded_vocab_size(self.config.parallel.tensor) > self.config.model.vocab_size
        wide = self.logits * 4 // self.element
        return wide + (self.logits if self.element < 4 or padded else 0)
