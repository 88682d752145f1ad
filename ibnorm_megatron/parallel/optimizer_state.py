"""Where DeepSpeed keeps a model's float32 weights and Adam's moments, at every ZeRO stage, seen alike.

At stage 0 every replica holds all of a parameter; at stages 1 and 2 a run of its elements, cut where flat partitions of
many parameters end; at stage 3 an equal share. All of these are a :class:`Fragment`: what to write of them, and where to
read it back to, is then one code. The layouts of DeepSpeed's optimizers are its own affair (version 0.19): what is relied
on here is asserted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

#: What is kept of a parameter: the float32 weight, and Adam's moving means of the gradient and of its square.
KINDS = ("weight", "exp_avg", "exp_avg_sq")
_MOMENTS = KINDS[1:]


@dataclass(frozen=True)
class Fragment:
    """A run of a parameter's elements, as this rank holds it.

    Attributes:
        start: its first element, counted in this tensor rank's shard, flattened.
        length: elements.
        values: by kind, ``[length]`` in float32: views of the optimizer's own memory. No moments before the first step.
    """

    start: int
    length: int
    values: Mapping[str, Tensor]

    def part(self, start: int, end: int) -> Fragment:
        """The elements from ``start`` to before ``end`` of this fragment, counted within it."""
        values = {kind: value[start:end] for kind, value in self.values.items()}
        return Fragment(self.start + start, end - start, values)


class OptimizerState:
    """The float32 weights and AdamW's state of a DeepSpeed engine, by parameter.

    Args:
        engine: DeepSpeed's, just after a step or before the first.
        replicas: the ranks that hold the same weights.
    """

    def __init__(self, engine: Any, replicas: dist.ProcessGroup) -> None:
        self._engine, self._replicas = engine, replicas
        self._stage: int = engine.zero_optimization_stage()
        self._zero = engine.optimizer if self._stage else None
        self._adam: torch.optim.Optimizer = engine.optimizer.optimizer if self._stage else engine.optimizer
        assert isinstance(self._adam, torch.optim.AdamW), f"the optimizer is {type(self._adam)}"

    @property
    def steps(self) -> int:
        """Steps that AdamW has taken: those of the run without skipped ones."""
        counts = {float(state["step"]) for state in self._adam.state.values() if "step" in state}
        assert len(counts) <= 1, f"parts of the optimizer have taken {sorted(counts)} steps"
        return int(counts.pop()) if counts else 0

    def loss_scale(self) -> dict[str, float]:
        """fp16's loss scale and what it goes by; empty in other precisions."""
        return {name: getattr(self._zero.loss_scaler, name) for name in _SCALER} if self._scales() else {}

    def fragments(self, parameters: Mapping[str, nn.Parameter]) -> dict[str, Fragment]:
        """All that this rank holds of each parameter; one of which it holds nothing is left out."""
        found = {}
        for name, parameter in parameters.items():
            if (fragment := self._fragment(parameter)) is not None:
                found[name] = fragment
        return found

    def own_fragments(self, parameters: Mapping[str, nn.Parameter]) -> dict[str, Fragment]:
        """Of what this rank holds, the part that it alone of its replicas answers for: together they have everything once."""
        held = self.fragments(parameters)
        if self._stage:
            return held
        rank, ranks = dist.get_rank(self._replicas), dist.get_world_size(self._replicas)
        own = {}
        for name, fragment in held.items():
            start, end = rank * fragment.length // ranks, (rank + 1) * fragment.length // ranks
            if end > start:
                own[name] = fragment.part(start, end)
        return own

    def own_gradients(self, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
        """Between the backward pass and the step, this rank's part of each gradient, flat: together replicas have it once.

        As DeepSpeed holds it, in whatever type and times fp16's loss scale; nothing is sent.
        """
        found = {}
        for name, parameter in parameters.items():
            if (part := self._own_gradient(parameter)) is not None:
                found[name] = part
        return found

    def gradient_scale(self) -> float:
        """By what gradients are multiplied: fp16's loss scale."""
        return float(self._zero.loss_scale) if self._stage and self._engine.fp16_enabled() else 1.0

    def begin_load(self, steps: int) -> None:
        """Make room for the moments of an optimizer that has taken so many steps; fragments then take the values."""
        for holder in self._holders():
            self._adam.state.pop(holder, None)
            if steps:
                # As torch's fused AdamW begins its state: the count beside the parameter, in float32.
                step = torch.tensor(float(steps), dtype=torch.float32, device=holder.device)
                moments = {kind: torch.zeros_like(holder, memory_format=torch.preserve_format) for kind in _MOMENTS}
                self._adam.state[holder] = {"step": step, **moments}
        if self._stage in (1, 2):
            self._zero._hp_optimizer_states_linked = False  # it has a map to the moments of before

    def end_load(self, loss_scale: Mapping[str, float]) -> None:
        """Give the model the weights that were written into fragments. Collective."""
        if self._scales():
            scaler = self._zero.loss_scaler
            for name, value in loss_scale.items():
                setattr(scaler, name, type(getattr(scaler, name))(value))  # counts stay whole numbers
        if self._stage in (1, 2):
            self._zero.update_lp_params()
        elif self._stage == 3:
            self._zero.checkpoint_event_prologue()  # takes persistent weights apart
            for number in range(len(self._zero.fp32_partitioned_groups_flat)):
                self._zero._reassign_or_swap_out_partitioned_parameters(number)
            self._zero.checkpoint_event_epilogue()  # and puts them together again

    def _scales(self) -> bool:
        return bool(self._engine.fp16_enabled()) and hasattr(self._zero.loss_scaler, _SCALER[1])

    def _holders(self) -> list[Tensor]:
        """The tensors that AdamW steps on."""
        if self._stage == 0:
            return [parameter for group in self._adam.param_groups for parameter in group["params"]]
        for name in ("single_partition_of_fp32_groups", "fp32_groups_flat_partition", "fp32_partitioned_groups_flat"):
            if hasattr(self._zero, name):
                return list(getattr(self._zero, name))
        raise AssertionError(f"DeepSpeed's {type(self._zero)} keeps its float32 weights elsewhere")

    def _fragment(self, parameter: nn.Parameter) -> Fragment | None:
        if self._stage == 0:
            assert parameter.dtype == torch.float32
            return Fragment(0, parameter.numel(), self._values(parameter, 0, parameter.numel()))
        return self._equal_share(parameter) if self._stage == 3 else self._run(parameter)

    def _run(self, parameter: nn.Parameter) -> Fragment | None:
        """Stages 1 and 2: DeepSpeed's own map from a parameter to its run in the flat partition."""
        mapping = parameter._hp_mapping  # type: ignore[attr-defined]
        if mapping is None:
            return None
        # Its map to the moments is not used: DeepSpeed makes it when the first of its groups has stepped, and others have none.
        holder = self._holders()[mapping.param_group_index]
        there, here = mapping.hp_fragment_address, mapping.lp_fragment_address
        values = self._values(holder, there.start, there.numel)
        assert values["weight"].data_ptr() == mapping.get_hp_fragment().data_ptr()
        return Fragment(here.start, here.numel, values)

    def _values(self, holder: Tensor, start: int, length: int) -> dict[str, Tensor]:
        """A run of a flat tensor that AdamW steps on, and of its moments."""
        state = self._adam.state.get(holder, {})
        values = {"weight": holder, **{kind: state[kind] for kind in _MOMENTS if kind in state}}
        return {kind: value.detach().view(-1).narrow(0, start, length) for kind, value in values.items()}

    def _own_gradient(self, parameter: nn.Parameter) -> Tensor | None:
        if self._stage == 0:
            rank, ranks = dist.get_rank(self._replicas), dist.get_world_size(self._replicas)
            assert parameter.grad is not None
            return parameter.grad.reshape(-1)[rank * parameter.numel() // ranks : (rank + 1) * parameter.numel() // ranks]
        if self._stage == 3:
            from deepspeed.utils import safe_get_local_grad

            length = parameter.ds_tensor.ds_numel  # type: ignore[attr-defined]
            real = min(length, max(0, parameter.ds_numel - length * dist.get_rank(self._replicas)))  # type: ignore[attr-defined]
            return safe_get_local_grad(parameter).view(-1)[:real]
        mapping = parameter._hp_mapping  # type: ignore[attr-defined]
        if mapping is None:
            return None
        gradient: Tensor = mapping.get_lp_grad_fragment(parameter._index_in_param_group)  # type: ignore[attr-defined]
        run = mapping.lp_fragment_address
        # The optimizer for bf16 with float32 accumulation keeps all of the gradient, of which it steps on the same run.
        whole = gradient.numel() == parameter.numel()
        return gradient.view(-1)[run.start : run.start + run.numel] if whole else gradient.view(-1)

    def _equal_share(self, parameter: nn.Parameter) -> Fragment | None:
        """Stage 3: ranks have equal shares, the last ones with padding behind the last element."""
        zero, elements = self._zero, parameter.ds_numel  # type: ignore[attr-defined]
        number, offset, length = zero.grad_position[zero.get_param_id(parameter)]
        start = length * dist.get_rank(self._replicas)
        real = min(length, elements - start)
        if real <= 0:
            return None
        return Fragment(start, real, self._values(zero.fp32_partitioned_groups_flat[number], offset, real))


#: Fields of DeepSpeed's DynamicLossScaler that change as a run goes on.
_SCALER = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")


def answers_for(parameter: nn.Parameter, tensor_rank: int) -> bool:
    """Whether this tensor rank and stage writes a parameter: of copies, the first has to."""
    copied = tensor_rank > 0 and not getattr(parameter, "tensor_model_parallel", False)
    return not copied and not getattr(parameter, "ds_pipe_replicated", False)
