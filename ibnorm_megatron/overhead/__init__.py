"""What the norms of a config's model cost: by formula, and measured in steps of its training."""

from .report import Report
from .run import DEFAULT_NORMS, Options, overhead

__all__ = ["DEFAULT_NORMS", "Options", "Report", "overhead"]
