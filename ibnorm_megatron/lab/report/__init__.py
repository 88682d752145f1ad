"""The report of a study: one page that needs nothing but a browser, its pictures, and the numbers for other programs."""

from __future__ import annotations

from .page import write

__all__ = ["write"]
