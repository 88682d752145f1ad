"""DeepSpeed under our layout: its config built from ours, its engine started once, and the few calls a loop needs."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from pydantic import ValidationError
from torch import Tensor, nn

from ..errors import Problem, UserError
from . import cpu_compat
from .config import Layout, Precision
from .gradients import sum_partial_gradients
from .groups import Groups, ModelParallelUnit
from .optimizer_state import OptimizerState, answers_for
from .pipeline import Inputs, run_pipeline
from .reduction import reduction
from .skipping import Gate, Judge, leave_overflow_to_the_norm


def deepspeed_config(
    layout: Layout, precision: Precision, *, micro_batch_size: int, micro_batches: int, grad_clip: float
) -> dict[str, Any]:
    """The DeepSpeed config of a run; ``layout.deepspeed`` overrides any key of it, block by block.

    Args:
        layout: gives the ZeRO stage and the offloading.
        precision: of weights and activations; bf16 and fp16 keep float32 masters, and accumulate and reduce gradients in
            float32, as Megatron does: how a batch is spread over ranks then changes gradients by 1e-9, not by 4e-3.
        micro_batch_size: sequences a rank takes at once.
        micro_batches: those of a rank in one optimizer step. DeepSpeed counts them; not those of a pipeline, whose schedule
            runs them all and hands over their sum.
        grad_clip: largest gradient norm, 0 for none. Stage 0 clips in :class:`Engine`, which needs the norm anyway.
    """
    zero: dict[str, Any] = {"stage": layout.zero_stage, **reduction(layout.zero_stage, on_gpu=cpu_compat.on_gpu())}
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": micro_batch_size,
        "gradient_accumulation_steps": 1 if layout.pipeline > 1 else micro_batches,
        "gradient_clipping": grad_clip if layout.zero_stage > 0 else 0.0,
        "zero_optimization": zero,
        "steps_per_print": 10**9,  # our callbacks print
    }
    if layout.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu"}
        config["zero_force_ds_cpu_optimizer"] = False  # torch's AdamW steps on the CPU too, without a build
    if precision != "fp32":
        config[precision] = {"enabled": True}
        config["communication_data_type"] = "fp32"
        if micro_batches > 1:
            config["data_types"] = {"grad_accum_dtype": "fp32"}
    return _merged(config, layout.deepspeed)


def _merged(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in overrides.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def check_overrides(layout: Layout, config: dict[str, Any]) -> None:
    """Let DeepSpeed read the config built by :func:`deepspeed_config`, before any process group is there.

    Raises:
        UserError: DeepSpeed refuses what ``layout.deepspeed`` says.
    """
    cpu_compat.install()
    from deepspeed.runtime.config import DeepSpeedConfig

    try:
        DeepSpeedConfig(config)
    except Exception as error:  # it raises whatever its parts raise
        if not layout.deepspeed:
            raise
        details = error.errors(include_url=False) if isinstance(error, ValidationError) else []
        said = [f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}" for detail in details] or str(error).split("\n")[:1]
        why = f"DeepSpeed refuses it ({', '.join(said)})"
        raise UserError(Problem("parallel.deepspeed", repr(layout.deepspeed), why, "change or remove that key")) from error


#: What DeepSpeed counts of steps, for its own records.
_COUNTED = ("global_steps", "global_samples", "skipped_steps")


@dataclass(frozen=True)
class StepResult:
    """What one optimizer step did.

    Attributes:
        grad_norm: of the whole gradient before clipping; inf where it is not finite. A tensor where it is still on the
            device: reading it waits for the step.
        skipped: whether weights and optimizer state are as they were before.
        searching: whether fp16 skipped it to find a loss scale that fits; the gradient may be as good as any.
    """

    grad_norm: Tensor | float
    skipped: bool
    searching: bool = False


class Engine:
    """A module and its optimizer under DeepSpeed. Call :meth:`forward_backward`, then :meth:`step`.

    Args:
        module: its ``forward`` returns a scalar loss; under pipeline parallelism, that of a stage before the last returns
            hidden states, and the module has what Megatron-core's schedule asks of a model.
        optimizer: a torch optimizer over the module's parameters.
        groups: this rank's place in the layout.
        config: from :func:`deepspeed_config`.
        grad_clip: largest gradient norm, 0 for none.
    """

    def __init__(
        self, module: nn.Module, optimizer: torch.optim.Optimizer, groups: Groups, config: dict[str, Any], grad_clip: float
    ) -> None:
        import deepspeed
        from deepspeed.utils import logger

        logger.setLevel(logging.WARNING)
        self.groups, self.module = groups, module
        self._clip = grad_clip if grad_clip > 0 else float("inf")
        sum_partial_gradients(module, groups.tensor)
        deepspeed.init_distributed(dist_init_required=False)
        with contextlib.redirect_stdout(io.StringIO()):  # its bf16 optimizer prints memory tables, unasked
            self.deepspeed, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=config, mpu=ModelParallelUnit())
        if self.deepspeed.bfloat16_enabled():
            leave_overflow_to_the_norm(self.deepspeed.optimizer)
        self._gate = Gate(self.deepspeed.optimizer) if self.deepspeed.zero_optimization_stage() > 0 else None

    def forward_backward(self, batches: Sequence[Inputs], weight: Tensor | float) -> Tensor:
        """Compute the gradient of ``weight`` times the sum of the losses of all micro-batches on all ranks.

        Args:
            batches: this rank's micro-batches: keywords of the module's forward. Every rank has as many.
            weight: the same on all ranks; a tensor of one element is not waited for.

        Returns:
            The sum of this rank's losses, float64, detached; 0 on stages before the last.
        """
        # DeepSpeed averages over micro-batches and replicas; undoing that leaves a sum, so that neither their number nor an
        # uneven mask weighs one token more than another.
        scale = weight * (self.groups.num_replicas * self.deepspeed.gradient_accumulation_steps())
        total = torch.zeros((), dtype=torch.float64, device=cpu_compat.device())
        if self.groups.layout.pipeline > 1:
            with self.deepspeed.coalesce_grad_reduction():
                for loss in run_pipeline(self.module, batches, self.groups, scale, self._loss_scaling()):
                    total += loss
                self._sum_tied_gradients()
            return total
        for batch in batches:
            loss = self.deepspeed(**batch)
            self.deepspeed.backward(loss * scale)
            if not self.deepspeed.is_gradient_accumulation_boundary():
                self.deepspeed.step()  # only counts the micro-batch
            total += loss.detach()
        return total

    @torch.no_grad()
    def evaluate(self, batches: Sequence[Inputs]) -> Tensor:
        """The sum of this rank's losses without dropout, float64; 0 on stages before the last."""
        self.deepspeed.eval()
        if self.groups.layout.pipeline > 1:
            losses = run_pipeline(self.module, batches, self.groups, 1.0, forward_only=True)
        else:
            losses = [self.deepspeed(**batch) for batch in batches]
        self.deepspeed.train()
        return sum(losses, start=torch.zeros((), dtype=torch.float64, device=cpu_compat.device()))

    def step(self, judge: Judge | None = None) -> StepResult:
        """Clip and apply the accumulated gradients, unless they are not finite or ``judge`` refuses them."""
        if self._gate is None:
            return self._step_unsharded(judge)
        skipped = self.deepspeed.skipped_steps
        with self._gate.watched(judge):
            self.deepspeed.step()
        norm = self._gate.norm if self._gate.refused else self.deepspeed.get_global_grad_norm()
        if judge is not None and self._gate.norm is None:  # fp16 found an overflow before there was a norm to be judged
            judge(torch.tensor(torch.inf, device=cpu_compat.device()))
        return StepResult(norm, self.deepspeed.skipped_steps > skipped, self._gate.searching)

    def discard(self) -> None:
        """Forget the gradients of :meth:`forward_backward`, as if it had never been called: no step is taken, none counted."""
        counted = {name: getattr(self.deepspeed, name) for name in _COUNTED}
        if self._gate is None:
            self._step_unsharded(lambda norm: True)
        else:
            with self._gate.keeping_scale(), self._gate.watched(lambda norm: True):
                self.deepspeed.step()
        for name, value in counted.items():
            setattr(self.deepspeed, name, value)

    def weight(self, parameter: nn.Parameter) -> Tensor:
        """This tensor rank's part of a weight, in float32, whichever replicas hold it. Collective over replicas."""
        from deepspeed.utils import safe_get_full_fp32_param

        whole = parameter.detach() if self.deepspeed.zero_optimization_stage() == 0 else safe_get_full_fp32_param(parameter)
        return whole.clone()

    def gradient(self, parameter: nn.Parameter) -> Tensor:
        """As :meth:`weight`, of the gradient between :meth:`forward_backward` and :meth:`step`, before clipping."""
        from deepspeed.utils import safe_get_full_grad

        if self.deepspeed.zero_optimization_stage() == 0:
            return parameter.grad.float()  # type: ignore[union-attr]
        # Only fp16 scales losses, and DeepSpeed's optimizer for bf16 at stage 1 has no scale to ask for.
        scale = self.deepspeed.optimizer.loss_scale if self.deepspeed.fp16_enabled() else 1.0
        return safe_get_full_grad(parameter).float() / scale

    def gradient_norms(self, parts: Mapping[str, Mapping[str, nn.Parameter]]) -> dict[str, float | None]:
        """Norms of the whole gradient's parts between :meth:`forward_backward` and :meth:`step`, before clipping.

        Every parameter of the model counts once, whichever ranks hold it or copies of it. Collective, in one message.

        Args:
            parts: this rank's parameters by part, and by their name in the whole model; every rank names the same parts.

        Returns:
            Of each part its norm; None where no rank has a parameter of it.
        """
        sums = torch.zeros(len(parts), 2, dtype=torch.float64, device=cpu_compat.device())  # squares, and how many
        for number, parameters in enumerate(parts.values()):
            answered = {name: p for name, p in parameters.items() if answers_for(p, self.groups.tensor_rank)}
            for gradient in self.optimizer_state.own_gradients(answered).values():
                sums[number, 0] += torch.linalg.vector_norm(gradient, dtype=torch.float64).square()
                sums[number, 1] += gradient.numel()
        dist.all_reduce(sums)
        scale = self.optimizer_state.gradient_scale()
        found = zip(parts, sums.tolist(), strict=True)
        return {name: square**0.5 / scale if elements else None for name, (square, elements) in found}

    def set_learning_rate(self, lr: float) -> None:
        """Set the learning rate of every parameter group: its own ``lr_factor``, where it has one, times this."""
        for group in self.deepspeed.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_factor", 1.0)

    @property
    def optimizer_state(self) -> OptimizerState:
        """Float32 weights and moments, wherever DeepSpeed has them."""
        return OptimizerState(self.deepspeed, self.groups.replicas)

    def close(self) -> None:
        """Give back what the engine holds: hooks, buffers."""
        self.deepspeed.destroy()

    def _step_unsharded(self, judge: Judge | None) -> StepResult:
        """Stage 0 has no ZeRO optimizer to compute the norm, and torch's takes any step; one without gradients it does not."""
        from deepspeed.runtime.utils import clip_grad_norm_

        # DeepSpeed's own function knows of tensor parallelism.
        norm: Tensor = clip_grad_norm_(self.module.parameters(), self._clip, mpu=self.deepspeed.mpu)
        norm = torch.where(torch.isfinite(norm), norm, torch.inf)
        refused = judge is not None and judge(norm)
        skipped = refused or not torch.isfinite(norm)
        if skipped:
            for parameter in self.module.parameters():
                parameter.grad = None
        self.deepspeed.step()
        return StepResult(norm, skipped)

    def _loss_scaling(self) -> Callable[[Tensor], Tensor] | None:
        """fp16's, for a backward pass that DeepSpeed does not start itself."""
        return self.deepspeed.scale if self.deepspeed.fp16_enabled() else None

    def _sum_tied_gradients(self) -> None:
        """The embedding on the first stage and the output head on the last are one weight: each gets both gradients.

        After the last micro-batch: in between, each of the two stages would wait for the other.
        """
        weight = getattr(self.module, "tied_over_stages", None)
        if weight is not None:
            gradient = self.deepspeed.optimizer.get_gradient_for_reduction(weight)
            total = gradient.float()
            dist.all_reduce(total, group=self.groups.embedding)
            gradient.copy_(total)
