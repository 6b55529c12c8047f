"""Nearest neighbours against scikit-learn and against a plain loop."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsClassifier

from histotune.heads import neighbours
from histotune.heads.neighbours import ExclusionCodes, nearest_neighbours, vote

GRID = (1, 3, 5, 10, 20)


def cohort(n: int, seed: int, dim: int = 24, n_classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping classes far from the origin."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, n_classes, n)
    y[:n_classes] = np.arange(n_classes)
    centres = np.random.default_rng(99).normal(5.0, 0.7, (n_classes, dim))
    return (centres[y] + rng.standard_normal((n, dim))).astype(np.float32), y


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_equals_scikit_learn_for_every_k(metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "QUERY_BLOCK", 37)
    monkeypatch.setattr(neighbours, "TRAIN_BLOCK", 83)
    (train, y), (query, _) = cohort(300, 0), cohort(90, 1)
    found = nearest_neighbours(query, train, max(GRID), metric=metric)
    shares = vote(found, y, 3, GRID)
    for k, share in zip(GRID, shares, strict=True):
        peer = KNeighborsClassifier(k, metric=metric, algorithm="brute").fit(train.astype(np.float64), y)
        np.testing.assert_allclose(share, peer.predict_proba(query.astype(np.float64)), atol=1e-12)
        assert (share.argmax(axis=1) == peer.predict(query.astype(np.float64))).all()
    distance, _ = peer.kneighbors(query.astype(np.float64))
    similarity = 1.0 - distance if metric == "cosine" else -(distance**2)
    np.testing.assert_allclose(found.similarity_QJ, similarity, rtol=2e-5, atol=2e-6)


def test_a_large_common_offset_changes_no_distance() -> None:
    (train, y), (query, _) = cohort(200, 2), cohort(60, 3)
    shifted = nearest_neighbours(query + 2000.0, train + 2000.0, 5, metric="euclidean")
    rounded = KNeighborsClassifier(5, algorithm="brute").fit((train + 2000.0).astype(np.float64), y)
    _, index = rounded.kneighbors((query + 2000.0).astype(np.float64))
    assert (shifted.index_QJ == index).mean() > 0.99  # the rest are near-ties of a float32 grid of 1e-4


def test_own_group_is_never_a_neighbour() -> None:
    x, y = cohort(120, 4)
    group = np.arange(120) % 11
    found = nearest_neighbours(x, x, 120, exclude=ExclusionCodes(group, group))
    assert (group[found.index_QJ] != group[:, None])[found.index_QJ >= 0].all()
    assert (found.index_QJ >= 0).sum(axis=1).tolist() == [int((group != g).sum()) for g in group]
    shares = vote(found, y, 3, (3,))[0]
    for row in (0, 17, 119):
        others = group != group[row]
        peer = KNeighborsClassifier(3, metric="cosine").fit(x[others], y[others])
        np.testing.assert_allclose(shares[row], peer.predict_proba(x[row : row + 1])[0], atol=1e-12)


def test_folds_as_codes_give_out_of_fold_votes() -> None:
    x, y = cohort(100, 5)
    fold = np.arange(100) % 4
    shares = vote(nearest_neighbours(x, x, 5, exclude=ExclusionCodes(fold, fold)), y, 3, (5,))[0]
    for held_out in range(4):
        peer = KNeighborsClassifier(5, metric="cosine").fit(x[fold != held_out], y[fold != held_out])
        np.testing.assert_allclose(shares[fold == held_out], peer.predict_proba(x[fold == held_out]), atol=1e-12)


def test_softmax_vote_equals_a_plain_loop() -> None:
    (train, y), (query, _) = cohort(80, 6), cohort(20, 7)
    found = nearest_neighbours(query, train, 10)
    share = vote(found, y, 3, (4, 10), "softmax")[0]
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)  # noqa: E731
    cosine = unit(query.astype(np.float64)) @ unit(train.astype(np.float64)).T
    for row in range(20):
        nearest = np.argsort(-cosine[row])[:4]
        weight = np.exp(cosine[row, nearest] / 0.07)
        expected = np.bincount(y[nearest], weights=weight, minlength=3) / weight.sum()
        np.testing.assert_allclose(share[row], expected, atol=1e-5)


def test_a_query_without_neighbours_is_undefined_and_more_k_than_kept_is_refused() -> None:
    x, y = cohort(12, 8)
    code = np.zeros(12, np.int64)
    assert np.isnan(vote(nearest_neighbours(x, x, 3, exclude=ExclusionCodes(code, code)), y, 3, (3,))).all()
    with pytest.raises(ValueError, match=r"1\.\.3"):
        vote(nearest_neighbours(x, x, 3), y, 3, (1, 5))
    everything = vote(nearest_neighbours(x, x, 50), y, 3, (50,))[0]  # k beyond the training set means all of it
    np.testing.assert_allclose(everything, np.tile(np.bincount(y, minlength=3) / 12, (12, 1)))


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.sampled_from(["cosine", "euclidean"]))
def test_permuting_training_rows_changes_nothing(seed: int, metric: str) -> None:
    rng = np.random.default_rng(seed)
    train, y = cohort(60, seed)
    query, _ = cohort(15, seed + 1)
    order = rng.permutation(60)
    one, other = (
        nearest_neighbours(query, train, 9, metric=metric),
        nearest_neighbours(query, train[order], 9, metric=metric),
    )
    np.testing.assert_allclose(one.similarity_QJ, other.similarity_QJ, atol=2e-5)
    assert (vote(one, y, 3, (1, 9)) == vote(other, y[order], 3, (1, 9))).all()
