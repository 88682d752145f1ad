"""Layouts: ranks, stages, what they share, and what DeepSpeed may be told."""

from __future__ import annotations

from .rows import Row

LAYOUT: tuple[Row, ...] = (
    Row(
        "too few processes",
        "ibnorm train tiny.yaml parallel.tensor=2 --nproc-per-node 1",
        (
            "the world size is 1: the layout needs a multiple of tensor 2 x pipeline 1 x context 1 = 2 processes; launch 2 or a multiple, or set parallel.tensor.",
        ),
    ),
    Row(
        "no process",
        "ibnorm train tiny.yaml --nproc-per-node 0",
        ("the world size is 0: a run needs at least one process; launch 1 or more.",),
    ),
    Row(
        "heads over tensor ranks",
        "ibnorm train tiny.yaml parallel.tensor=3",
        (
            "model.num_attention_heads is 4: it is not divisible by parallel.tensor 3; set parallel.tensor to a divisor of it.",
            "model.num_key_value_heads is 2: it is not divisible by parallel.tensor 3; set parallel.tensor to a divisor of it.",
            "model.ffn_hidden_size is 176: it is not divisible by parallel.tensor 3; set parallel.tensor to a divisor of it.",
        ),
    ),
    Row(
        "a batch over ranks",
        "ibnorm train tiny.yaml --nproc-per-node 3",
        ("train.global_batch_size is 8: 3 data-parallel ranks cannot share it equally; use a multiple of 3.",),
    ),
    Row(
        "layers over stages",
        "ibnorm train tiny.yaml parallel.pipeline=2 model.num_layers=3",
        ("model.num_layers is 3: it is not divisible by parallel.pipeline 2; set parallel.pipeline to a divisor of it.",),
    ),
    Row(
        "a sequence over tensor ranks",
        "ibnorm train tiny.yaml parallel.tensor=2 parallel.sequence=true train.sequence_length=33",
        ("train.sequence_length is 33: sequence parallelism over parallel.tensor 2 shards it; use a multiple of 2.",),
    ),
    Row(
        "a sequence over context ranks",
        "ibnorm train tiny.yaml parallel.context=2 train.sequence_length=62",
        ("train.sequence_length is 62: parallel.context 2, two runs of tokens each, shards it; use a multiple of 4.",),
    ),
    Row(
        "heads over context ranks",
        "ibnorm train tiny.yaml parallel.context=4 parallel.context_method=all_to_all",
        (
            "model.num_key_value_heads is 2: parallel.context_method all_to_all shares them among tensor x context = 4 ranks; use a multiple of 4, or set parallel.context_method=all_gather.",
        ),
    ),
    Row(
        "nothing to exchange",
        "ibnorm train tiny.yaml parallel.context_method=all_to_all",
        (
            "parallel.context_method is all_to_all: parallel.context is 1, so there is nothing to exchange; leave it out, or set parallel.context.",
        ),
    ),
    Row(
        "an unknown stage",
        "ibnorm train tiny.yaml parallel.zero_stage=4",
        ("parallel.zero_stage is 4: input should be less than or equal to 3; give it such a value.",),
    ),
    Row(
        "low precision at stage 0",
        "ibnorm train tiny.yaml parallel.zero_stage=0 train.precision=bf16",
        (
            "parallel.zero_stage is 0: bf16 at stage 0 takes a wrong first optimizer step in DeepSpeed; set parallel.zero_stage=1 or train.precision=fp32.",
        ),
    ),
    Row(
        "stages whose weights are sharded",
        "ibnorm train tiny.yaml parallel.pipeline=2 parallel.zero_stage=3",
        (
            "parallel.zero_stage is 3: under parallel.pipeline 2 the stages would wait for each other's weights for ever; set parallel.zero_stage to 1 or 2, or parallel.pipeline=1.",
        ),
    ),
    Row(
        "stages without ZeRO",
        "ibnorm train tiny.yaml parallel.pipeline=2 parallel.zero_stage=0",
        (
            "parallel.zero_stage is 0: DeepSpeed cannot add up the micro-batches of parallel.pipeline 2 without a ZeRO optimizer; set parallel.zero_stage to 1 or 2, or parallel.pipeline=1.",
        ),
    ),
    Row(
        "stages in low precision",
        "ibnorm train tiny.yaml parallel.pipeline=2 train.precision=bf16",
        (
            "parallel.zero_stage is 1: under parallel.pipeline 2 DeepSpeed would add up micro-batches in bf16; set parallel.zero_stage=2 or train.precision=fp32.",
        ),
    ),
    Row(
        "interleaved stages",
        "ibnorm train tiny.yaml parallel.pipeline=2 parallel.virtual_pipeline=2",
        (
            "parallel.virtual_pipeline is 2: interleaved 1F1B is not offered: between two stages Megatron-core's batched messages give wrong gradients without a word; set parallel.virtual_pipeline=1.",
        ),
    ),
    Row(
        "offloading without ZeRO",
        "ibnorm train tiny.yaml parallel.zero_stage=0 parallel.offload_optimizer=true",
        (
            "parallel.offload_optimizer is true: offloading needs an optimizer that ZeRO shards; set parallel.zero_stage to 1, 2 or 3.",
        ),
    ),
    Row(
        "compiled layers whose weights are sharded",
        "ibnorm train tiny.yaml model.compile=layers parallel.zero_stage=3",
        (
            "model.compile is layers: ZeRO stage 3 takes weights away between forward and backward, under the compiled code; set model.compile=none, or parallel.zero_stage to 2 or less.",
        ),
    ),
    Row(
        "a way to compute again that is none",
        "ibnorm train tiny.yaml parallel.recompute=some",
        ("parallel.recompute is 'some': input should be 'none', 'selective' or 'full'; give it such a value.",),
    ),
    Row(
        "no key of DeepSpeed",
        "ibnorm train tiny.yaml parallel.deepspeed.zero_optimisation.stage=2",
        ("parallel.deepspeed.zero_optimisation is {'stage': 2}: DeepSpeed has no such key; did you mean 'zero_optimization'?",),
    ),
    Row(
        "a key that a field decides",
        "ibnorm train tiny.yaml parallel.deepspeed.train_batch_size=8",
        ("parallel.deepspeed.train_batch_size is 8: another part of the config decides it; set train.global_batch_size.",),
    ),
    Row(
        "a key below that a field decides",
        "ibnorm train tiny.yaml parallel.deepspeed.zero_optimization.stage=2",
        ("parallel.deepspeed.zero_optimization.stage is 2: another part of the config decides it; set parallel.zero_stage.",),
    ),
    Row(
        "an optimizer that would be built",
        "ibnorm train tiny.yaml parallel.offload_optimizer=true parallel.deepspeed.zero_force_ds_cpu_optimizer=true",
        (
            "parallel.deepspeed.zero_force_ds_cpu_optimizer is True: another part of the config decides it; leave it out: the optimizer is torch's, offloaded or not.",
        ),
    ),
    Row(
        "no mapping for DeepSpeed",
        "ibnorm train tiny.yaml parallel.deepspeed.bf16=true",
        ("parallel.deepspeed.bf16 is True: DeepSpeed wants a mapping there; write its keys below it.",),
    ),
    Row(
        "a value that DeepSpeed refuses",
        "python -m ibnorm_megatron.train tiny.yaml parallel.deepspeed.zero_optimization.reduce_bucket_size=x",
        (
            "parallel.deepspeed is {'zero_optimization': {'reduce_bucket_size': 'x'}}: DeepSpeed refuses it (reduce_bucket_size: Input should be a valid integer, unable to parse string as an integer); change or remove that key.",
        ),
        alone=True,
    ),
    Row(
        "a layout under torchrun",
        "torchrun --standalone --nproc-per-node 2 -m ibnorm_megatron.train tiny.yaml parallel.tensor=4",
        (
            "the world size is 2: the layout needs a multiple of tensor 4 x pipeline 1 x context 1 = 4 processes; launch 4 or a multiple, or set parallel.tensor.",
            "model.num_key_value_heads is 2: it is not divisible by parallel.tensor 4; set parallel.tensor to a divisor of it.",
        ),
        alone=True,
    ),
)
