"""What a process held is its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_ASKS = "from ibnorm_megatron.train.memory import peak_memory; held = bytearray({own}); print(peak_memory())"
_STARTS = "import subprocess, sys; held = bytearray({own}); subprocess.run([sys.executable, '-c', sys.argv[1]], check=True)"


def _peak(own: int, parents: int) -> int:
    words = [sys.executable, "-c", _STARTS.format(own=parents), _ASKS.format(own=own)]
    return int(subprocess.run(words, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[2]).stdout)


def test_memory_of_whoever_started_it_does_not_count() -> None:
    small, large = _peak(1, 2**31), _peak(2**29, 1)
    assert small < 2**30
    assert 2**29 <= large < small + 2**29 + 2**27
