"""The fused kernels in Triton's interpreter: against float64, on ugly shapes, in every type."""

from __future__ import annotations

import itertools

import pytest

from ..distributed import command

RESULTS = ("y", "dx", "dgamma", "dbeta")
BOUNDS = {"float32": 2e-6, "bfloat16": 1.2, "float16": 1.2}  # bf16 and fp16 count in errors of mere rounding


@pytest.mark.parametrize(
    ("types", "parts", "least"),
    [
        # Five kinds, two scales, centred or not, five widths, and then strengths, residual streams, column tiles and edges.
        (["float32", "bfloat16"], "shapes,strengths,residuals,tiles,edges", 100),
        (["float16"], "strengths,residuals,edges", 20),
    ],
    ids=["float32 and bfloat16", "float16"],
)
def test_equal_float64_in_the_interpreter(types: list[str], parts: str, least: int) -> None:
    """The worker compares case by case and stops at the first that is off; here, that it compared all it should."""
    done = command("python", "-m", "tests.workers.interpreted_kernels", ",".join(types), parts)
    assert done.returncode == 0, done.stderr[-4000:]
    lines = [line.split() for line in done.stdout.splitlines()]
    assert {(name, dtype) for name, dtype, *_ in lines} == set(itertools.product(RESULTS, types))
    for name, dtype, worst, compared in lines:
        assert float(worst) <= BOUNDS[dtype], name
        assert int(compared) >= least, name
