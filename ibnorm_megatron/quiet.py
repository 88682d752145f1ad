"""Keep other libraries' start-up chatter off the terminal, so that what is printed is what the user asked for."""

from __future__ import annotations

import logging
import os
import warnings


def quiet() -> None:
    """Silence known warnings that say nothing about the run: missing optional extensions, renamed torch functions."""
    warnings.filterwarnings("ignore", module=r"megatron\.")
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # PyTorch's C++ part tells of every connection that a peer closes, with a trace of addresses. What matters is raised too.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
    # Its profiler tells when it starts and stops, at a level above errors.
    os.environ.setdefault("KINETO_LOG_LEVEL", "9")
    # torchrun sets this one too; without it every CPU process takes all cores and they fight over them.
    for threads in ("OMP_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ.setdefault(threads, "1")
    for name in ("megatron", "torch.distributed", "DeepSpeed"):
        logging.getLogger(name).setLevel(logging.ERROR)
