"""Is a layout's model the one-process model? Loss, gradients and weights of every parameter, compared and bounded."""

from .layouts import DEFAULT_LAYOUTS
from .report import Report, Row
from .run import Options, verify

__all__ = ["DEFAULT_LAYOUTS", "Options", "Report", "Row", "verify"]
