"""What a norm or a compression promises, checked by running it: :func:`check_norm`, the work of ``ibnorm check-norm``."""

from .finding import Finding
from .norm import check_norm

__all__ = ["Finding", "check_norm"]
