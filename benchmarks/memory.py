"""Bytes that a norm keeps for backward, and the most it holds at once."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from .contenders import Contender, Inputs


def saved_bytes(contender: Contender, inputs: Inputs) -> int:
    """Bytes that autograd keeps for backward, x among them; parameters, which live anyway, do not count."""
    saved: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        saved[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y = contender.forward(inputs)
    del y
    parameters = {tensor.data_ptr() for tensor in (inputs.weight, inputs.bias, inputs.lam)}
    return sum(size for address, size in saved.items() if address not in parameters)


def peak_bytes(contender: Contender, inputs: Inputs) -> int:
    """The most that forward and backward together hold beyond what was there before, their results included."""
    if inputs.x.is_cuda:
        return _peak_on_gpu(contender, inputs)
    with silent_stderr():
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            contender.gradients(contender.forward(inputs), inputs)
    return most_held(profile)


def most_held(profile: torch.profiler.profile) -> int:
    """The most that PyTorch's allocator had given out at once on a CPU, by a profiler that was told of every block."""
    changes = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = most = 0
    for change in sorted(changes, key=lambda event: event.start_ns()):
        held += change.nbytes()
        most = max(most, held)
    return most


def _peak_on_gpu(contender: Contender, inputs: Inputs) -> int:
    device = inputs.x.device
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    contender.gradients(contender.forward(inputs), inputs)
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


@contextmanager
def silent_stderr() -> Iterator[None]:
    """The profiler's library writes lines there that no setting turns off."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
