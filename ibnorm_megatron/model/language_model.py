"""The model that is trained: Megatron-core's GPTModel from our spec, and its loss."""

from __future__ import annotations

from collections.abc import Callable

import torch
from megatron.core.enums import ModelType
from megatron.core.models.gpt import GPTModel
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor, nn

from ..norms.base import Norm
from ..norms.site import Site
from ..parallel.config import Precision
from ..parallel.groups import Groups
from ..parallel.sharding import Sharding
from .compiled import compile_layers
from .config import ModelConfig
from .cross_entropy import compiled_cross_entropy
from .documents import document_ends
from .init import initialize
from .norm_slots import norm_output, norms_of, seed_norms
from .spec import block_spec, check_norms, norm_slots, stage_layers, transformer_config
from .width import parametrize

#: The parts of a model: word and learned position embeddings, the matrices of attention, those of the MLP, every norm, and the
#: output head.
PARTS = ("embedding", "attention", "mlp", "norms", "head")


class LanguageModel(nn.Module):
    """A decoder-only language model on this rank, initialized from ``seed``.

    Args:
        model: its shape and norms.
        groups: this rank's place in the layout.
        precision: of weights and activations.
        seed: of the initial weights.
    """

    def __init__(self, model: ModelConfig, groups: Groups, precision: Precision, seed: int) -> None:
        super().__init__()
        config = transformer_config(model, groups.layout, precision)
        learned = model.position_embedding == "learned"
        self.gpt = _MaskedVocabGPT(
            config,
            block_spec(model, groups, config),
            vocab_size=model.padded_vocab_size(groups.layout.tensor),
            max_sequence_length=model.max_sequence_length,
            position_embedding_type="learned_absolute" if learned else "rope",
            rotary_base=model.rope_base,
            share_embeddings_and_output_weights=model.tie_embeddings,
            pre_process=groups.first_stage,
            post_process=groups.last_stage,
        )
        self.gpt.mask_vocab_from(model.vocab_size)
        slots = norm_slots(model, groups)
        if slot := slots.get(Site("embedding")):
            norm_output(self.gpt.embedding, slot.build(config))
        check_norms(self.gpt, slots)
        seed_norms(self.gpt)
        for parameter in self.gpt.parameters():  # torch.nn.Embedding, which holds learned positions, ignores params_dtype
            if parameter.dtype != config.params_dtype:
                parameter.data = parameter.data.to(config.params_dtype)
        parametrize(self.gpt, model.width_ratio)
        self._first_layer = stage_layers(model, groups).start
        self.tied_over_stages = self._mark_tied(model, groups)
        initialize(self.gpt, self.logical_parameters(), model, seed, groups.tensor)
        if model.compile == "layers":
            compile_layers(self.gpt.decoder.layers)
            self.gpt.compile_loss()

    def forward(
        self, tokens: Tensor, labels: Tensor, loss_mask: Tensor, position_ids: Tensor, documents: Tensor | None = None
    ) -> Tensor:
        """Sum of the cross-entropy, in nats, over the labels that ``loss_mask`` keeps.

        tokens, labels and position_ids are integers ``[b, s]``, loss_mask is float ``[b, s]``, with this rank's tokens s.
        documents is None, or of every token the number of its document within its row, from 0: ``[b, s]`` with the tokens of
        all context ranks, best on the host. Attention then keeps to a document; learned positions are still ``position_ids``.
        Returns a float32 scalar; dividing by the number of tokens is the caller's, who alone knows how many there are in the
        whole step. A stage before the last returns its hidden states ``[s, b, hidden]`` instead.
        """
        ends = None
        if documents is not None:
            whole = (tokens.size(0), tokens.size(1) * self.config.context_parallel_size)
            assert documents.shape == whole, f"documents are {tuple(documents.shape)}, and the sequences {whole}"
            ends = document_ends(documents).to(tokens.device, non_blocking=True)
        # Megatron-core hands its attention_mask to every layer's core attention, and does nothing else with it.
        output = self.gpt(tokens, position_ids, ends, labels=labels)
        return (output.float() * loss_mask).sum() if self.gpt.post_process else output

    def logical_parameters(self) -> dict[str, nn.Parameter]:
        """Every parameter by the name that it has in the whole model, whatever stage this is.

        The output head of tied embeddings is the embedding, on a last stage as well.
        """
        embedding = "embedding.word_embeddings.weight"
        return {
            embedding if parameter is self.tied_over_stages else self._logical(name): parameter
            for name, parameter in self.gpt.named_parameters()
        }

    def logical_buffers(self) -> dict[str, tuple[Tensor, Sharding]]:
        """The buffers of this stage's norms, which a step changes, named as parameters are; of a row's columns, or of none."""
        found = {}
        for module_name, norm in self.gpt.named_modules():
            if isinstance(norm, Norm):
                for name, buffer in norm.named_buffers(recurse=False):
                    shape = list(buffer.shape)
                    sharded = norm.process_group is not None and bool(shape) and shape[-1] == norm.local_size
                    if sharded:
                        shape[-1] = norm.hidden_size
                    sharding = Sharding(tuple(shape), len(shape) - 1 if sharded else None, 1, 0)
                    found[self._logical(f"{module_name}.{name}")] = (buffer, sharding)
        return found

    def logical_modules(self) -> dict[str, nn.Module]:
        """Every module of this rank by the name that it has in the whole model; a norm by its site, the model as ``loss``."""
        sites = {id(norm): f"norm {site}" for site, norm in norms_of(self.gpt).items()}
        named = {sites.get(id(module), self._logical(name)): module for name, module in self.gpt.named_modules() if name}
        return {**named, "loss": self}

    def parts(self) -> dict[str, dict[str, nn.Parameter]]:
        """This rank's parameters by part of the model (:data:`PARTS`), each by its logical name.

        Tied embeddings are the embedding, and the output head is then without parameters.
        """
        tied = self.gpt.share_embeddings_and_output_weights
        holders: list[tuple[str, nn.Module]] = []  # a later one takes over from those before
        holders += [("embedding", self.gpt.embedding)] if self.gpt.pre_process else []
        holders += [("embedding" if tied else "head", self.gpt.output_layer)] if self.gpt.post_process else []
        for layer in self.gpt.decoder.layers:
            holders += [("attention", layer.self_attention), ("mlp", layer.mlp)]
        holders += [("norms", norm) for norm in norms_of(self.gpt).values()]
        part_of = {id(parameter): part for part, module in holders for parameter in module.parameters()}
        found: dict[str, dict[str, nn.Parameter]] = {part: {} for part in PARTS}
        for name, parameter in self.logical_parameters().items():
            found[part_of[id(parameter)]][name] = parameter
        return found

    def _logical(self, name: str) -> str:
        """A name within this stage as it is in the whole model."""
        layer = "decoder.layers."
        if not name.startswith(layer):
            return name
        number, *rest = name.removeprefix(layer).split(".")
        return ".".join([f"{layer}{self._first_layer + int(number)}", *rest])

    def set_input_tensor(self, hidden: list[Tensor]) -> None:
        """The hidden states that the stage before sent; the pipeline's schedule calls this."""
        self.gpt.set_input_tensor(hidden)

    @property
    def config(self) -> TransformerConfig:
        """Megatron-core's config, which its pipeline schedule asks for."""
        return self.gpt.config

    @property
    def model_type(self) -> ModelType:
        """What its pipeline schedule takes this for."""
        return self.gpt.model_type

    def _mark_tied(self, model: ModelConfig, groups: Groups) -> nn.Parameter | None:
        """The weight that the first and the last stage both hold, if this is one of two; their gradients have to be summed."""
        if not model.tie_embeddings or groups.embedding is None or groups.first_stage == groups.last_stage:
            return None
        weight: nn.Parameter = self.gpt.shared_embedding_or_output_weight()
        weight.ds_pipe_replicated = groups.last_stage  # type: ignore[attr-defined]  # DeepSpeed's norm counts it once
        return weight


class _MaskedVocabGPT(GPTModel):
    """GPTModel whose padded vocabulary rows are never predicted, so that the loss is the same at every padding."""

    def mask_vocab_from(self, vocab_size: int) -> None:
        """Give ids from ``vocab_size`` on probability 0."""
        rows = self.vocab_size // self.tp_group.size()
        self._vocab_size: int = vocab_size
        self._cross_entropy: Callable[[Tensor, Tensor, int], Tensor] | None = None
        self._first_masked_column = max(0, min(rows, vocab_size - self.tp_group.rank() * rows))
        self._columns = rows

    def compile_loss(self) -> None:
        """Take the compiled cross-entropy where this rank holds the whole vocabulary."""
        if self.tp_group.size() == 1:
            self._cross_entropy = compiled_cross_entropy()

    def compute_language_model_loss(self, labels: Tensor, logits: Tensor) -> Tensor:
        if self._cross_entropy is not None:
            return self._cross_entropy(logits, labels, self._vocab_size).t()
        if self._first_masked_column < self._columns:
            masked = torch.arange(self._columns, device=logits.device) >= self._first_masked_column
            logits = logits.masked_fill(masked, torch.finfo(logits.dtype).min)
        return super().compute_language_model_loss(labels, logits)
