"""Shares of classes and the shape of a covariance, seen without any score."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from histotune.transfer.differences import changed_shape, prevalence_differs, uneven_spread
from tests.transfer.conftest import draw_side

STRETCH = np.array([0.3, 3.0, 0.3, 3.0, 0.3, 3.0])


@pytest.mark.parametrize("positive", [8, 12, 16, 20])
def test_shares_are_compared_as_scipy_compares_means_of_groups(positive: int) -> None:
    """Groups of one class and of one size: the share is the mean of their labels, and the test is Welch's."""
    rng = np.random.default_rng(0)
    label_a, label_b = np.array([0, 1] * 20), np.repeat([1, 0], [positive, 30 - positive])
    source, target = draw_side("source", label_a.tolist(), rng), draw_side("target", label_b.tolist(), rng)
    p = float(stats.ttest_ind(label_a, label_b, equal_var=False).pvalue)
    for level in (0.5, 0.9, 0.95, 0.99, 1.0 - p - 1e-6, 1.0 - p + 1e-6):
        if 0.0 < level < 1.0:
            assert prevalence_differs(source, target, 2, level) == (p < 1.0 - level)


def test_several_classes_share_the_error_and_unknown_groups_say_nothing() -> None:
    rng = np.random.default_rng(0)
    source, target = draw_side("source", [0, 1] * 20, rng), draw_side("target", [0] * 20 + [1] * 8, rng)
    p = float(stats.ttest_ind([0, 1] * 20, [0] * 20 + [1] * 8, equal_var=False).pvalue)
    between = 1.0 - 2.0 * p  # sure for one test, not for three
    assert prevalence_differs(source, target, 2, between)
    assert not prevalence_differs(source, target, 3, between)
    assert not prevalence_differs(source, replace(target, has_groups=False), 2, 0.5)


def test_uneven_spread_ignores_size_basis_and_order() -> None:
    rng = np.random.default_rng(1)
    a, b, basis = rng.normal(size=(200, 4)), rng.normal(size=(300, 4)) * [1, 2, 3, 4], rng.normal(size=(4, 4))
    found = uneven_spread(a, b)
    assert uneven_spread(a, 7.0 * b + 3.0) == pytest.approx(found, rel=1e-6)
    assert uneven_spread(a @ basis, b @ basis) == pytest.approx(found, rel=1e-6)
    assert uneven_spread(b, a) == pytest.approx(found, rel=1e-6)
    eigen = np.linalg.eigvals(np.linalg.inv(np.cov(a.T)) @ np.cov(b.T)).real
    assert found == pytest.approx(np.log(eigen).std(), rel=1e-6)


def test_a_common_factor_is_no_change_of_shape() -> None:
    rng = np.random.default_rng(2)
    source, target = draw_side("source", [0, 1] * 20, rng), draw_side("target", [0, 1] * 20, rng)
    for change, expected in ((1.0, False), (4.0, False), (STRETCH, True)):
        moved = replace(target, x_ND=target.x_ND * change)
        assert changed_shape(source, moved, 32, np.random.default_rng(0)) is expected
    few = replace(target, x_ND=target.x_ND[:15], y_N=target.y_N[:15], groups=target.groups[:15])
    assert not changed_shape(source, few, 32, np.random.default_rng(0))  # 15 tiles can't say


def test_halves_of_one_population_rarely_differ_in_shape() -> None:
    found = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        sides = [draw_side(name, [0, 1] * 12, rng) for name in ("source", "target")]
        found += changed_shape(*sides, 32, rng)
    assert found <= 5
