"""Alignment and distances against scipy and their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import sqrtm
from sklearn.covariance import ledoit_wolf

from histotune.transfer.corrections import Moments, coral, moments
from histotune.transfer.differences import frechet_distance


def spread(seed: int, n: int = 400, dim: int = 5) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, dim)) @ rng.normal(size=(dim, dim)) + 3.0 * rng.normal(size=dim)


def test_aligned_embeddings_have_the_sources_mean_and_covariance() -> None:
    source, target = spread(0), spread(1)
    plain = [Moments.of(x.mean(axis=0), np.cov(x, rowvar=False)) for x in (source, target)]
    aligned = coral(target, plain[1], plain[0])
    np.testing.assert_allclose(aligned.mean(axis=0), plain[0].mean_D, atol=1e-9)
    np.testing.assert_allclose(np.cov(aligned, rowvar=False), np.cov(source, rowvar=False), atol=1e-8)


def test_more_columns_than_tiles_stay_finite() -> None:
    source, target = moments(spread(2, 20, 60)), moments(spread(3, 10, 60))
    assert np.isfinite(coral(spread(4, 7, 60), target, source)).all()


@pytest.mark.parametrize(("n_source", "n_target"), [(20, 10), (80, 10), (20, 90), (80, 90)])
def test_few_tiles_align_as_the_whole_matrices_do(n_source: int, n_target: int) -> None:
    """Against Ledoit and Wolf's whole matrix by scikit-learn and scipy's matrix roots."""
    source, target, new = spread(2, n_source, 60), spread(3, n_target, 60), spread(4, 7, 60)
    roots = [sqrtm(ledoit_wolf(x)[0]).real for x in (source, target)]
    peer = (new - target.mean(axis=0)) @ np.linalg.inv(roots[1]) @ roots[0] + source.mean(axis=0)
    np.testing.assert_allclose(coral(new, moments(target), moments(source)), peer, rtol=1e-7, atol=1e-7)


def test_frechet_distance_equals_scipys_matrix_root() -> None:
    a, b = spread(5), spread(6)
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    gap = a.mean(axis=0) - b.mean(axis=0)
    peer = gap @ gap + np.trace(cov_a + cov_b - 2.0 * sqrtm(cov_a @ cov_b).real)
    assert frechet_distance(a, b) == pytest.approx(float(peer), rel=1e-8)
    assert frechet_distance(a, a) == pytest.approx(0.0, abs=1e-6)
