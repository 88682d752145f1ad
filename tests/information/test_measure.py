"""What every estimator says alike: numbers with their conditions, or NaN with the reason."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from ibnorm_megatron.information.estimator import measure, measure_all, table
from ibnorm_megatron.information.measure import Measure, Null, Region
from ibnorm_megatron.information.observations import Observations, Rows
from ibnorm_megatron.information.registry import ESTIMATORS

REGION = Region(((4, 100), (16, 400)), "a test", most_rows=1000, rows_per_label=10)


@dataclass(frozen=True)
class Fixed:
    """Says 1.5 wherever it is asked."""

    region: Region = REGION
    needs: tuple[str, ...] = ("labels",)
    name: str = "fixed"
    quantity: str = "I"
    relative_to: str = "nothing"

    def estimate(self, data: Observations, seed: int) -> tuple[Measure, ...]:
        return (Measure(self.quantity, self.name, 1.5, data.n, data.d, self.relative_to, 1.0, 2.0),)


def _data(n: int, d: int, labels: int = 2) -> Observations:
    return Observations(torch.zeros(n, d), labels=torch.arange(n) % labels)


@pytest.mark.parametrize(
    ("n", "d", "labels", "said"),
    [
        (100, 4, 2, ""),
        (99, 4, 2, "99 rows of width 4 are fewer than the 100"),
        (399, 5, 2, "399 rows of width 5 are fewer than the 400"),
        (400, 16, 40, ""),
        (400, 16, 41, "9.8 rows for each of 41 labels are fewer than the 10"),
        (400, 17, 2, "width 17 is above 16"),
        (1001, 4, 2, "1001 rows are more than 1000"),
    ],
)
def test_outside_of_its_region_an_estimator_gives_nan_and_says_why(n: int, d: int, labels: int, said: str) -> None:
    (found,) = measure(Fixed(), _data(n, d, labels))
    assert math.isnan(found.value) == bool(said) and said in found.reason
    assert measure(Fixed(), _data(n, d, labels), anywhere=True)[0].value == 1.5
    assert (found.n, found.d, found.unit) == (n, d, "nats")


def test_without_a_passing_case_there_is_no_region() -> None:
    (found,) = measure(Fixed(Region((), "a test")), _data(100, 4))
    assert math.isnan(found.value) and "no width" in found.reason


def test_what_is_not_there_or_not_finite_is_named() -> None:
    (found,) = measure(Fixed(), Observations(torch.zeros(100, 4)))
    assert math.isnan(found.value) and found.reason == "needs labels"
    rows = torch.zeros(100, 4)
    rows[3, 2] = math.inf
    (found,) = measure(Fixed(), Observations(rows, labels=torch.arange(100) % 2))
    assert math.isnan(found.value) and found.reason == "t holds NaN or infinity"
    (found,) = measure(Fixed(needs=("x",)), Observations(torch.zeros(100, 4), x=rows))
    assert found.reason == "x holds NaN or infinity"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"t": torch.zeros(4)}, "rows and columns"),
        ({"t": torch.zeros(4, 2), "x": torch.zeros(3, 2)}, "x has 3 rows and t 4"),
        ({"t": torch.zeros(4, 2), "labels": torch.zeros(4)}, "labels are not integers"),
        ({"t": torch.zeros(4, 2), "documents": np.zeros(4)}, "documents are not integers"),
    ],
)
def test_observations_that_do_not_fit_are_refused(arguments: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Observations(**arguments)  # type: ignore[arg-type]


def test_labels_and_documents_may_be_any_integers() -> None:
    data = Observations(torch.zeros(4, 2), labels=np.array([50256, -1, 7, 7]), documents=torch.tensor([9, 9, 3, 9]))
    assert data.classes.tolist() == [2, 0, 1, 1] and data.clusters.tolist() == [1, 1, 0, 1]
    assert Observations(torch.zeros(3, 2)).clusters.tolist() == [0, 1, 2]


def test_a_mapped_file_gives_the_same_rows_as_a_tensor(tmp_path) -> None:  # type: ignore[no-untyped-def]
    rows = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)).half()
    mapped = np.memmap(tmp_path / "rows", dtype=np.float16, mode="w+", shape=(50, 6))
    mapped[:] = rows.numpy()
    index = torch.tensor([7, 3, 3, 49, 0])
    assert Rows(mapped).take(index).equal(rows[index].float())
    assert Rows(rows).take(index).equal(rows[index].float())
    assert torch.cat([part for _, part in Rows(mapped).chunks()]).equal(rows.float())


def test_a_table_has_the_same_columns_for_all() -> None:
    null = Null(1.0, 0.9, 1.1, 3)
    found = [*measure_all([Fixed(), Fixed(needs=("x",))], _data(100, 4)), Measure("I", "other", 1.25, 9, 2, "it", null=null)]
    heads, lines = table(found)
    assert {"value", "low", "high", "null", "excess", "unit", "n", "d", "relative_to", "reason"} <= set(heads)
    shown = [dict(zip(heads, line, strict=True)) for line in lines]
    assert [line["value"] for line in shown] == ["1.5", "", "1.25"]
    assert shown[1]["reason"] == "needs x" and shown[2]["excess"] == "0.25"


def test_every_estimator_is_registered_under_its_name_and_declares_itself() -> None:
    assert len(ESTIMATORS) >= 9
    for name, one in ESTIMATORS.items():
        assert one.name == name and one.quantity and one.relative_to
        assert one.region.what and set(one.needs) <= {"x", "labels", "documents"}
