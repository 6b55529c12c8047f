"""Far tiles are found, usual ones raise the stated share of false alarms, whatever the groups look like."""

from __future__ import annotations

import numpy as np
import pytest

from histotune.backbones.spec import ColumnBlock
from histotune.embeddings.space import Embeddings, EmbeddingSpace
from histotune.heads.conformal import group_share
from histotune.heads.distance import (
    MAX_SAMPLE_BYTES,
    MAX_SAMPLE_TILES,
    distance_rule,
    nearest_distances,
    scaled_columns,
    training_sample,
)
from histotune.heads.head import Head

SPACE = EmbeddingSpace("space", "toy", "w", "", "v", "fp32", "s", "n")


def embeddings(matrix_ND: np.ndarray) -> Embeddings:
    ids = tuple(f"t{number}" for number in range(len(matrix_ND)))
    return Embeddings(matrix_ND.astype(np.float32), (ColumnBlock("pooled", 0, matrix_ND.shape[1]),), ids, SPACE)


def head_on(matrix_ND: np.ndarray) -> Head:
    n_columns = matrix_ND.shape[1]
    return Head(
        np.zeros((2, n_columns)), np.zeros(2), ("pooled",), tuple(range(n_columns)), ("a", "b"), "toy", "space", "m",
        0.1, n_tiles=len(matrix_ND), train_mean_D=matrix_ND.mean(axis=0), train_std_D=matrix_ND.std(axis=0),
    )  # fmt: skip


def tiles_of(rng: np.random.Generator, n_groups: int, n_columns: int = 24) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return tiles whose groups differ more than their tiles, on columns of very different scales."""
    sizes = rng.integers(3, 25, n_groups)
    center_GD = rng.normal(size=(n_groups, n_columns)) + 3.0 * rng.integers(0, 2, (n_groups, 1))
    group_N = np.repeat(np.arange(n_groups), sizes)
    scale_D = 10.0 ** np.linspace(-1, 2, n_columns)
    x_ND = (center_GD[group_N] + 0.5 * rng.normal(size=(len(group_N), n_columns))) * scale_D
    return x_ND, tuple(f"g{group}" for group in group_N)


def test_distances_are_those_of_scikit_learn() -> None:
    from sklearn.neighbors import NearestNeighbors

    rng = np.random.default_rng(0)
    sample, query = (rng.normal(size=(n, 12)).astype(np.float16) for n in (200, 700))
    expected, _ = NearestNeighbors(n_neighbors=7).fit(sample.astype(float)).kneighbors(query.astype(float))
    np.testing.assert_allclose(nearest_distances(query, sample, 7), expected[:, -1] / np.sqrt(12), rtol=1e-4)


def test_tiles_of_the_own_group_do_not_count() -> None:
    sample = np.array([[0.0], [0.1], [5.0]], np.float16)
    group_n = np.array([0, 0, 1], np.int32)
    found = nearest_distances(sample, sample, 1, group_n, group_n)
    np.testing.assert_allclose(found, [5.0, 4.9, 4.9], rtol=1e-3)


def test_new_groups_raise_the_stated_share_of_false_alarms() -> None:
    rng = np.random.default_rng(1)
    found, measured = [], []
    for _ in range(30):
        x_ND, groups = tiles_of(rng, 60)
        head = head_on(x_ND)
        sample = training_sample(head, embeddings(x_ND), np.arange(len(x_ND)), groups, rng)
        assert sample is not None
        rule = distance_rule(sample)
        new_ND, new_groups = tiles_of(rng, 150)
        distance_N = nearest_distances(scaled_columns(head, new_ND), sample.scaled_nD, sample.k)
        codes = np.unique(new_groups, return_inverse=True)[1].astype(np.int32)
        found.append(group_share(distance_N > rule.limit, codes))
        measured.append(rule.measured)
    assert np.mean(found) < 0.05 + 0.01, "more false alarms than stated"
    assert np.mean(found) > 0.02, "hardly ever an alarm: the limit is too far out"
    assert np.mean(measured) == pytest.approx(0.05, abs=0.015)


@pytest.mark.parametrize("kind", ["constant", "shifted", "noise", "between"])
def test_tiles_of_another_kind_are_far(kind: str) -> None:
    rng = np.random.default_rng(2)
    x_ND, groups = tiles_of(rng, 60)
    head = head_on(x_ND)
    sample = training_sample(head, embeddings(x_ND), np.arange(len(x_ND)), groups, rng)
    assert sample is not None
    std_D = x_ND.std(axis=0)
    odd = {
        "constant": np.zeros((40, 24)) - 3 * std_D,
        "shifted": x_ND[:40] + 3 * std_D,
        "noise": x_ND.mean(axis=0) + 3 * std_D * rng.normal(size=(40, 24)),
        "between": x_ND.mean(axis=0) + 2 * std_D * np.where(np.arange(24) % 2, 1, -1) * np.ones((40, 1)),
    }[kind]
    rule = distance_rule(sample)
    distance_N = nearest_distances(scaled_columns(head, odd), sample.scaled_nD, sample.k)
    assert (distance_N > rule.limit).mean() > 0.95


def test_a_sample_is_bounded_whatever_the_data() -> None:
    rng = np.random.default_rng(3)
    for n_columns in (8, 20_000):
        n = 2_500 if n_columns == 8 else 600
        x_ND = rng.normal(size=(n, n_columns)).astype(np.float32)
        groups = tuple(f"g{number % 40}" for number in range(n))
        sample = training_sample(head_on(x_ND), embeddings(x_ND), np.arange(n), groups, rng)
        assert sample is not None
        assert len(sample.scaled_nD) == min(MAX_SAMPLE_TILES, MAX_SAMPLE_BYTES // (2 * n_columns))
        assert sample.scaled_nD.nbytes <= MAX_SAMPLE_BYTES
        assert sample.n_groups == 40
        assert np.isfinite(sample.distance_n).all()


def test_without_a_record_of_the_columns_or_other_groups_there_is_no_sample() -> None:
    x_ND = np.random.default_rng(4).normal(size=(20, 4))
    from dataclasses import replace

    head = head_on(x_ND)
    rows, groups = np.arange(20), tuple(f"g{number % 4}" for number in range(20))
    rng = np.random.default_rng(0)
    assert training_sample(replace(head, train_mean_D=None), embeddings(x_ND), rows, groups, rng) is None
    assert training_sample(head, embeddings(x_ND), rows, ("one",) * 20, rng) is None


def test_few_tiles_of_other_groups_bound_the_neighbour() -> None:
    x_ND = np.random.default_rng(5).normal(size=(6, 4))
    groups = ("a", "a", "a", "b", "b", "c")
    sample = training_sample(head_on(x_ND), embeddings(x_ND), np.arange(6), groups, np.random.default_rng(0))
    assert sample is not None and sample.k == 3
    assert np.isfinite(sample.distance_n).all()
    assert "6 tiles" in distance_rule(sample).note(2, 9, "x.png, 3.1")
    assert distance_rule(sample).note(0, 9, "") == ""
