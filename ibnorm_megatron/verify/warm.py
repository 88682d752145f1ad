"""Imports what every rank needs. The server that ranks are forked from imports this once, instead of every rank for itself."""

from ..parallel import cpu_compat

cpu_compat.install()  # before DeepSpeed looks for an accelerator

import deepspeed  # noqa: E402, F401

from ..model import language_model  # noqa: E402, F401
from ..norms import modules  # noqa: E402, F401
from ..train import optimizer  # noqa: E402, F401
from . import worker  # noqa: E402, F401
