"""The keys of a DeepSpeed config that ``parallel.deepspeed`` may set, and those that another field of ours sets.

DeepSpeed ignores a key that it does not know, and one that is set in two places would make a run other than its config says.
Nothing here imports torch or DeepSpeed; a test compares the names with the installed DeepSpeed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..errors import Problem, nearest

#: Every key that DeepSpeed 0.19 reads at the top of its config.
KNOWN = frozenset(
    {
        "activation_checkpointing",
        "aio",
        "autotuning",
        "bf16",
        "bfloat16",
        "checkpoint",
        "comet",
        "comms_logger",
        "communication_data_type",
        "compile",
        "csv_monitor",
        "data_efficiency",
        "data_types",
        "dataloader_drop_last",
        "datastates_ckpt",
        "disable_allgather",
        "disable_python_gc",
        "dump_state",
        "expert_parallel",
        "flops_profiler",
        "fp16",
        "gradient_accumulation_steps",
        "gradient_allreduce_op",
        "gradient_clipping",
        "gradient_predivide_factor",
        "hybrid_engine",
        "log_level",
        "managed_gradient_accumulation",
        "memory_breakdown",
        "optimizer",
        "pipeline",
        "prescale_gradients",
        "scheduler",
        "seq_parallel_communication_data_type",
        "steps_per_print",
        "tensor_parallel",
        "tensorboard",
        "timers",
        "torch_autocast",
        "train_batch_size",
        "train_micro_batch_size_per_gpu",
        "use_data_before_expert_parallelism",
        "vocabulary_size",
        "wall_clock_breakdown",
        "wandb",
        "weight_quantization",
        "zero_allow_untested_optimizer",
        "zero_force_ds_cpu_optimizer",
        "zero_optimization",
    }
)

_PRECISION = "set train.precision"
_LOOP = "leave it out: the training loop relies on DeepSpeed's default"

#: Keys, some of them one block down, that our own fields or the loop decide; and what to do instead.
OWNED = {
    "train_batch_size": "set train.global_batch_size",
    "train_micro_batch_size_per_gpu": "set train.micro_batch_size",
    "gradient_accumulation_steps": "set train.global_batch_size and train.micro_batch_size",
    "gradient_clipping": "set train.grad_clip",
    "optimizer": "set train.lr, train.weight_decay, train.beta1, train.beta2 and train.adam_eps",
    "scheduler": "set train.schedule",
    "zero_optimization.stage": "set parallel.zero_stage",
    "fp16.enabled": _PRECISION,
    "bf16.enabled": _PRECISION,
    "bfloat16": _PRECISION,
    "amp": _PRECISION,
    "torch_autocast": _PRECISION,
    "tensor_parallel": "set parallel.tensor",
    "pipeline": "set parallel.pipeline",
    "zero_force_ds_cpu_optimizer": "leave it out: the optimizer is torch's, offloaded or not",
    "managed_gradient_accumulation": _LOOP,
    "gradient_allreduce_op": _LOOP,
    "bf16.check_grad_overflow": _LOOP,
    "zero_optimization.compute_grad_norm": _LOOP,
}


def deepspeed_problems(block: dict[str, Any]) -> Iterator[Problem]:
    """What of ``parallel.deepspeed`` cannot be passed on."""
    where = "parallel.deepspeed"
    for key, value in block.items():
        inner = {name.partition(".")[2] for name in OWNED if name.startswith(f"{key}.")}
        if key in OWNED:
            yield Problem(f"{where}.{key}", repr(value), "another part of the config decides it", OWNED[key])
        elif key not in KNOWN:
            mend = nearest(key, sorted(KNOWN - OWNED.keys()))
            yield Problem(f"{where}.{key}", repr(value), "DeepSpeed has no such key", mend)
        elif inner and not isinstance(value, dict):
            yield Problem(f"{where}.{key}", repr(value), "DeepSpeed wants a mapping there", "write its keys below it")
        else:
            for name in sorted(inner & (value.keys() if inner else set())):
                mend = OWNED[f"{key}.{name}"]
                yield Problem(f"{where}.{key}.{name}", repr(value[name]), "another part of the config decides it", mend)
