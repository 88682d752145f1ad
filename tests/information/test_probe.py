"""Probes on Gaussian classes whose information is known, on independent labels, and on what no linear decoder reads."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.information_cases import classes, parity
from ibnorm_megatron.information import training
from ibnorm_megatron.information.estimator import measure
from ibnorm_megatron.information.observations import Observations
from ibnorm_megatron.information.probe import Probe
from ibnorm_megatron.information.training import Whitened

LINEAR, MLP = Probe(), Probe(hidden=64)


@pytest.mark.parametrize("probe", [LINEAR, MLP], ids=["linear", "mlp"])
def test_classes_read_what_they_hold(probe: Probe) -> None:
    case = classes(4000, 8, 3, 1.0, fall=1.0)
    (found,) = measure(probe, case.data)
    assert abs(found.value - 1.0) < 0.1
    # It is a lower bound, and the interval is that of this one probe.
    assert found.low < 1.0 and 0.05 < found.high - found.low < 0.2
    # Labels are equally likely: log 8, and what 3,000 counts are off by.
    assert math.isclose(found.details["H(Y)"], math.log(8), abs_tol=0.01)
    assert found.details["documents"] == 100 and found.unit == "nats"


@pytest.mark.parametrize("probe", [LINEAR, MLP], ids=["linear", "mlp"])
def test_independent_labels_read_nothing_with_certainty(probe: Probe) -> None:
    for seed in range(3):
        (found,) = measure(probe, classes(1000, 4, 2, 0.0, seed=seed).data, seed)
        assert found.low <= 0 and abs(found.value) < 0.04


def test_wide_activations_and_few_rows_read_nothing_either() -> None:
    (found,) = measure(LINEAR, classes(1000, 128, 3, 0.0).data, anywhere=True)
    assert found.low <= 0 and abs(found.value) < 0.03


def test_what_a_decoder_cannot_use_is_not_counted() -> None:
    case = parity(4000, 4, 1.5)
    (linear,), (mlp,) = measure(LINEAR, case.data), measure(MLP, case.data)
    assert abs(linear.value) < 0.02
    assert abs(mlp.value - case.truth) < 0.06 and mlp.low > 0.3


def test_rare_and_unseen_labels_stay_finite() -> None:
    case = classes(1000, 4, 2, 0.5)
    labels = torch.as_tensor(case.data.labels).clone()
    labels[::97] = torch.arange(1000, 1000 + len(labels[::97]))
    (found,) = measure(LINEAR, replace(case.data, labels=labels), anywhere=True)
    assert math.isfinite(found.value) and found.value > 0.2


def test_the_same_seed_gives_the_same_number_and_an_affine_map_nearly(tmp_path) -> None:  # type: ignore[no-untyped-def]
    case = classes(1000, 4, 2, 0.6)
    (found,) = measure(LINEAR, case.data, 5)
    assert measure(LINEAR, case.data, 5)[0] == found
    assert measure(LINEAR, case.data, 6)[0].value != found.value
    rows = torch.as_tensor(case.data.t) * torch.tensor([1e-3, 1.0, 30.0, 1e3]) + 7
    assert math.isclose(measure(LINEAR, replace(case.data, t=rows), 5)[0].value, found.value, abs_tol=0.01)


def test_rows_that_are_read_batch_by_batch_give_the_same(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    case = classes(1000, 4, 2, 0.6)
    mapped = np.memmap(tmp_path / "t", dtype=np.float32, mode="w+", shape=(1000, 4))
    mapped[:] = np.asarray(case.data.t)
    (found,) = measure(LINEAR, case.data)
    monkeypatch.setattr(training, "RESIDENT_BYTES", 1000)
    data = Observations(mapped, labels=case.data.labels, documents=case.data.documents)
    assert math.isclose(measure(LINEAR, data)[0].value, found.value, abs_tol=1e-4)


def test_few_documents_have_a_value_and_no_interval() -> None:
    case = classes(1000, 4, 2, 0.6)
    (found,) = measure(LINEAR, replace(case.data, documents=torch.arange(1000) // 25))
    assert math.isfinite(found.value) and math.isnan(found.low) and "10 held-out documents" in found.reason
    (found,) = measure(LINEAR, replace(case.data, documents=torch.zeros(1000, dtype=torch.long)))
    assert math.isnan(found.value) and "documents" in found.reason


def test_whitened_rows_are_white_and_constant_columns_stay_quiet() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(500, 5, generator=generator) @ torch.randn(5, 5, generator=generator) + 100
    rows[:, 2] = 3
    data = Observations(rows)
    kept = Whitened(data.t_rows, torch.arange(400)).take(torch.arange(400)).double()
    spectrum = torch.linalg.eigvalsh(torch.cov(kept.T, correction=0))
    assert torch.allclose(spectrum, torch.tensor([0.0, 1, 1, 1, 1]).double(), atol=2e-3)
    assert float(kept.mean(0).abs().max()) < 1e-3
