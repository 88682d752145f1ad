"""Imports what every rank needs. The server that ranks are forked from imports this once, instead of every rank for itself."""

from ..parallel import cpu_compat

cpu_compat.install()  # before DeepSpeed looks for an accelerator

from . import worker  # noqa: E402, F401
