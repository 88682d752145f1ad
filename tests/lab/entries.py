"""Entries for tests of what reads a ledger."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

from ibnorm_megatron.lab.matching import facts
from ibnorm_megatron.lab.trials import Entry, Trial

TRIAL = Trial("main", "layernorm", "s", 1, 1e-3, None, 20.0, (5.0,), None)

CONFIG: dict[str, Any] = {
    "plugins": [],
    "model": {"num_layers": 2, "hidden_size": 64, "norm": {"kind": "layernorm", "bias": True}, "norm_placement": "pre"},
    "train": {
        "steps": 100,
        "sequence_length": 64,
        "global_batch_size": 8,
        "seed": 1,
        "lr": 1e-3,
        "schedule": "wsd",
        "warmup_fraction": 0.1,
    },
    "data": {"path": "data/here", "document_mask": False, "index_cache": ""},
    "evaluate": {"interval": 0, "batches": 8},
    "run": {"dir": "runs/a"},
}
CARD: dict[str, Any] = {
    "ibnorm_megatron": "0.1.0",
    "git": {"commit": "abc", "changed": False},
    "python": "3.11",
    "libraries": {"torch": "2.6"},
    "hardware": {"gpu": None, "threads": 1},
    "plugins": {},
    "layout": {"world_size": 1, "precision": "fp32"},
    "data": {"hash": "d0", "tokenizer": "t0", "train_tokens": 1000},
    "digests": {"initial_weights": "w0", "samples": [[0, "s0"], [1, "s1"], [2, "s2"]]},
}
FLOPS = 1e9


def entry(trial: Trial = TRIAL, key: str = "0123456789abcdef", status: Any = "complete", **values: Any) -> Entry:
    """An entry of a run that did as its trial says; ``values`` replace fields of it."""
    config = copy.deepcopy(CONFIG)
    config["train"] |= {"seed": trial.seed, "lr": trial.learning_rate}
    given = Entry(
        trial=trial,
        key=key,
        folder=f"runs/{key}",
        status=status,
        reason="" if status == "complete" else "it had one",
        parameters=1000,
        tokens=20_000,
        flops=FLOPS,
        loss=3.0 if status == "complete" else None,
        seconds=10.0,
        found={"tokens_per_second": 1e3},
        matching=facts(config, CARD, FLOPS),
        started="2026-01-01T00:00:00+00:00",
        ended="2026-01-01T00:01:00+00:00",
    )
    return replace(given, **values)
