"""Splits, resamples and leave-outs by document."""

from __future__ import annotations

import math

import torch

from ibnorm_megatron.information.documents import LEAST_DOCUMENTS, bootstrap, from_pseudo_values, groups, split

CLUSTERS = torch.arange(100).repeat_interleave(7)


def test_a_split_cuts_no_document_and_loses_no_row() -> None:
    parts = split(CLUSTERS, 3)
    rows = torch.cat([parts.train, parts.choose, parts.test])
    assert rows.sort().values.equal(torch.arange(700))
    documents = [set(CLUSTERS[part].tolist()) for part in (parts.train, parts.choose, parts.test)]
    assert [len(one) for one in documents] == [60, 15, 25]
    assert not documents[0] & documents[1] | documents[0] & documents[2] | documents[1] & documents[2]
    assert split(CLUSTERS, 3).test.equal(parts.test)
    assert not split(CLUSTERS, 4).test.equal(parts.test)


def test_the_interval_is_that_of_documents_and_not_of_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    of_document = torch.randn(100, generator=generator)
    values = of_document[CLUSTERS] + 0.1 * torch.randn(700, generator=generator)
    low, high = bootstrap(values, CLUSTERS, 0)
    # Documents of one size: the deviation of a mean of 100 documents, up to the 2,000 resamples' error.
    error = float(torch.stack([values[one == CLUSTERS].mean() for one in range(100)]).std(correction=0)) / 10
    assert math.isclose(high - low, 2 * 1.96 * error, rel_tol=0.08)
    assert math.isclose((low + high) / 2, float(values.mean()), abs_tol=0.15 * error)
    naive_low, naive_high = bootstrap(values, torch.arange(700), 0)
    assert high - low > 2 * (naive_high - naive_low)


def test_documents_of_unequal_size_are_weighted_by_their_rows() -> None:
    clusters = torch.cat([torch.zeros(500, dtype=torch.long), torch.arange(1, 40)])
    low, high = bootstrap((clusters == 0).float(), clusters, 0)
    assert low == 0 and high > 0.95  # a resample without the long document, and one with it several times


def test_too_few_documents_have_no_interval() -> None:
    values = torch.arange(float(LEAST_DOCUMENTS))
    assert all(map(math.isnan, bootstrap(values[:-1], torch.arange(LEAST_DOCUMENTS - 1), 0)))
    assert not any(map(math.isnan, bootstrap(values, torch.arange(LEAST_DOCUMENTS), 0)))


def test_groups_are_of_whole_documents_and_nearly_equal() -> None:
    of_row = groups(CLUSTERS, 8, 0)
    for document in range(100):
        assert len(of_row[document == CLUSTERS].unique()) == 1
    sizes = torch.bincount(of_row)
    assert len(sizes) == 8 and int(sizes.max() - sizes.min()) <= 7


def test_pseudo_values_give_students_interval() -> None:
    mean, low, high = from_pseudo_values([1.0, 2.0, 3.0, 4.0])
    assert mean == 2.5
    assert math.isclose(high - mean, 3.182446305284263 * math.sqrt(5 / 3) / 2, rel_tol=1e-12)
    assert math.isclose(mean - low, high - mean, rel_tol=1e-12)
