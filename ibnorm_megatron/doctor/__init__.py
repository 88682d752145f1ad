"""What a maintainer would ask of a machine on which something does not work, and what to do about what is found."""

from .finding import Finding
from .report import Report, examine

__all__ = ["Finding", "Report", "examine"]
