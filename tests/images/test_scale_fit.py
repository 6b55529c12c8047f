"""From diameters to a scale: medians over groups, intervals, one factor, and magnifications that contradict."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from histotune.images.scale import APPARENT, BETWEEN_GROUPS, Fit, combined_factor, fit_scale, interval

RATIO_M = np.log(1 / np.array([40.0, 100.0, 200.0, 400.0]))


def diameters(n_groups: int = 20, spread: float = 0.1, seed: int = 0) -> NDArray[np.float64]:
    """Nuclei of 9 um at 0.25 um/px at 400X; every group has its own size."""
    rng = np.random.default_rng(seed)
    return np.log(APPARENT * 36.0) + np.log([0.1, 0.25, 0.5, 1.0]) + spread * rng.standard_normal((n_groups, 1))


def fit(log_GM: NDArray[np.float64], ratios: NDArray[np.float64] | None = RATIO_M) -> Fit:
    return fit_scale(log_GM, ratios, 9.0, 300, np.random.default_rng(0))


def test_one_factor_for_all_magnifications() -> None:
    found = fit(diameters())
    assert np.exp(found.log_unit) / 400 == pytest.approx(0.25, rel=0.08)
    assert found.used_M.all()
    assert found.unit_error == pytest.approx(0.1 * np.sqrt(np.pi / 2 / 20), rel=0.8)


def test_magnifications_that_move_together_are_no_surer_than_one_of_them() -> None:
    found = fit(diameters(spread=0.6))
    assert found.error_M[0] > 2 * BETWEEN_GROUPS / np.sqrt(20)
    assert found.unit_error == pytest.approx(found.error_M[0])


def test_medians_are_numpys_where_all_is_known() -> None:
    log_GM = np.random.default_rng(1).normal(3, 0.3, (11, 4))
    assert fit(log_GM, None).log_M == pytest.approx(np.median(log_GM, axis=0))
    assert fit(log_GM[:10], None).log_M == pytest.approx(np.median(log_GM[:10], axis=0))
    assert np.isnan(fit(log_GM, None).log_unit)


def test_a_minority_too_small_to_measure_moves_the_median_and_a_majority_ends_it() -> None:
    log_GM = diameters()
    log_GM[:6, 0] = -np.inf
    some = fit(log_GM)
    assert some.log_M[0] == pytest.approx(np.median(log_GM[:, 0]))
    log_GM[:12, 0] = -np.inf
    most = fit(log_GM)
    assert most.log_M[0] == -np.inf
    assert np.isnan(most.error_M[0])
    assert most.used_M.tolist() == [False, True, True, True]
    assert np.exp(most.log_unit) / 400 == pytest.approx(0.25, rel=0.1)


def test_a_coarse_magnification_that_contradicts_is_left_out() -> None:
    log_GM = diameters()
    log_GM[:, 0] += np.log(2.0)  # clumps that pass for nuclei
    found = fit(log_GM)
    assert found.used_M.tolist() == [False, True, True, True]
    assert found.log_unit == pytest.approx(fit(diameters()).log_unit, abs=0.03)


def test_missing_groups_and_missing_magnifications() -> None:
    log_GM = diameters()
    log_GM[::2, 1] = np.nan
    log_GM[:, 2] = np.nan
    found = fit(log_GM)
    assert np.isnan(found.log_M[2])
    assert found.used_M.tolist() == [True, True, False, True]
    nothing = fit(np.full((3, 4), np.nan))
    assert np.isnan(nothing.log_unit)
    assert not nothing.used_M.any()
    assert all(np.isnan(interval(nothing.resampled_RM[:, 0])))


@pytest.mark.parametrize("n_groups", [1, 2, 5])
def test_few_equal_groups_are_not_certainty(n_groups: int) -> None:
    found = fit(diameters(n_groups, spread=0.0))
    assert found.unit_error >= BETWEEN_GROUPS / np.sqrt(n_groups) - 1e-12


def test_factors_combine_as_independent_ranges() -> None:
    assert combined_factor(1.25) == pytest.approx(1.25)
    assert combined_factor(1.25, 1.0, 1.0) == pytest.approx(1.25)
    assert combined_factor(1.3, 1.4) == pytest.approx(np.exp(np.hypot(np.log(1.3), np.log(1.4))))


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.floats(0.2, 5.0))
def test_doubling_every_diameter_halves_the_scale(seed: int, factor: float) -> None:
    log_GM = diameters(8, 0.2, seed)
    moved = fit(log_GM + np.log(factor))
    assert moved.log_unit == pytest.approx(fit(log_GM).log_unit - np.log(factor), abs=1e-9)
    assert moved.unit_error == pytest.approx(fit(log_GM).unit_error, abs=1e-9)


@settings(max_examples=20)
@given(st.permutations(range(9)))
def test_the_order_of_groups_does_not_move_the_medians(order: list[int]) -> None:
    log_GM = diameters(9, 0.3)
    assert np.array_equal(fit(log_GM[order]).log_M, fit(log_GM).log_M)
