"""Which options a config has."""

from __future__ import annotations

import argparse

from ibnorm_megatron.cli import estimate
from ibnorm_megatron.config import Config

OPTIONS = {
    "model": "num_layers hidden_size num_attention_heads num_key_value_heads ffn_hidden_size vocab_size max_sequence_length "
    "position_embedding rope_base activation linear_bias tie_embeddings norm norm_placement compile qk_norm dropout "
    "init_std scale_residual_init mup_base_width",
    "parallel": "tensor sequence pipeline virtual_pipeline context context_method recompute zero_stage offload_optimizer "
    "deepspeed",
    "data": "path weights document_mask loss_on_end_of_document index_cache",
    "train": "steps sequence_length global_batch_size micro_batch_size seed precision lr min_lr_ratio schedule warmup_fraction "
    "decay_fraction weight_decay beta1 beta2 adam_eps grad_clip average_decay replica_audit",
    "guard": "stop_after spikes spike_window spike_threshold",
    "evaluate": "interval batches",
    "checkpoint": "interval keep_last keep_every at background",
    "log": "interval console tensorboard wandb wandb_project wandb_tags wandb_artifacts telemetry norm_cost",
    "run": "dir resume allow branch_from device dead_after stall_after stop_within",
}


def test_the_public_options_are_these() -> None:
    """Adding one is a decision: change this list with it."""
    rooms = {name: field for name, field in Config.model_fields.items() if name != "plugins"}
    fields = {name: " ".join(field.annotation.model_fields) for name, field in rooms.items()}
    assert fields == OPTIONS


#: What ``ibnorm estimate`` takes beside the config.
ESTIMATE = "gpus gpu memory gpus_per_node efficiency network reserve top device json"


def test_the_options_of_an_estimate_are_these() -> None:
    parser = argparse.ArgumentParser()
    estimate.configure(parser)
    assert " ".join(vars(parser.parse_args(["CONFIG"]))) == f"config overrides {ESTIMATE}"
