"""Corrections of log-odds against scikit-learn, and prevalence against the truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from histotune.evaluation.transfer.recalibrate import estimate_prevalence, fit_affine, log_odds, sigmoid


def test_scale_and_shift_equal_scikit_learn_up_to_the_pull_of_one_tile() -> None:
    rng = np.random.default_rng(0)
    margin = rng.normal(0.0, 2.0, 20_000)
    y = (rng.random(20_000) < sigmoid(0.4 * margin - 1.2)).astype(np.int64)
    peer = LogisticRegression(C=1e9, tol=1e-10).fit(margin[:, None], y)
    found = fit_affine(margin, y, scale=True)
    assert found.scale == pytest.approx(float(peer.coef_[0, 0]), abs=1e-3)
    assert found.shift == pytest.approx(float(peer.intercept_[0]), abs=1e-3)


def test_a_shift_alone_makes_the_mean_probability_the_prevalence() -> None:
    rng = np.random.default_rng(1)
    margin, y = rng.normal(1.0, 2.0, 5000), (rng.random(5000) < 0.2).astype(np.int64)
    found = fit_affine(margin, y, scale=False)
    assert found.scale == 1.0
    assert sigmoid(found(margin)).mean() == pytest.approx(y.mean(), abs=1e-3)


def test_classes_that_separate_give_a_finite_correction() -> None:
    found = fit_affine(np.array([-3.0, -2.0, 2.0, 3.0]), np.array([0, 0, 1, 1]), scale=True)
    assert 1.0 < found.scale < 10.0


@settings(max_examples=20, deadline=None)
@given(share=st.floats(0.05, 0.95), seed=st.integers(0, 1000))
def test_prevalence_is_found_without_labels_where_only_it_differs(share: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    y = rng.random(20_000) < share
    margin = np.where(y, 1.0, -1.0) * 2.0 + 2.0 * rng.normal(size=20_000)  # log-odds of N(+-2, 4) at prevalence 1/2
    assert estimate_prevalence(margin, 0.5) == pytest.approx(share, abs=0.03)


def test_prevalence_does_not_depend_on_the_order_of_tiles() -> None:
    margin = np.random.default_rng(2).normal(1.0, 2.0, 500)
    assert estimate_prevalence(margin, 0.4) == pytest.approx(estimate_prevalence(margin[::-1], 0.4), abs=1e-9)


def test_log_odds_stay_finite() -> None:
    assert np.isfinite([log_odds(0.0), log_odds(1.0)]).all()
    assert log_odds(0.5) == 0.0
