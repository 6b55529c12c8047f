"""Corrections of log-odds against scikit-learn and scipy, and prevalence against the truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import expit, log_softmax, softmax
from sklearn.linear_model import LogisticRegression

from histotune.transfer.corrections import Affine, estimate_prevalence, fit_affine, log_priors, two_class_margins

ORDER = [2, 0, 3, 1]


def test_scale_and_shift_equal_scikit_learn_up_to_the_pull_of_one_tile() -> None:
    rng = np.random.default_rng(0)
    margin = rng.normal(0.0, 2.0, 20_000)
    y = (rng.random(20_000) < expit(0.4 * margin - 1.2)).astype(np.int64)
    peer = LogisticRegression(C=1e9, tol=1e-10).fit(margin[:, None], y)
    found = fit_affine(two_class_margins(margin), y, scale=True)
    assert found.scale == pytest.approx(float(peer.coef_[0, 0]), abs=1e-3)
    assert found.shift_K == pytest.approx([0.0, float(peer.intercept_[0])], abs=1e-3)


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_shifts_and_scale_of_several_classes_equal_scipys(scale: bool, weighted: bool) -> None:
    margin_nK, y_n = several_classes(300)
    weight_n = np.random.default_rng(3).uniform(0.2, 2.0, 300) if weighted else None
    found = fit_affine(margin_nK, y_n, scale=scale, weight_n=weight_n)

    def loss(theta_L: np.ndarray) -> float:
        """Scale and all four shifts, the pull on the shifts as squared differences between classes."""
        size, shift_K = (theta_L[0] if scale else 1.0), theta_L[1:]
        fit_n = log_softmax(size * margin_nK + shift_K, axis=1)[np.arange(300), y_n]
        apart_KK = shift_K[:, None] - shift_K
        pull = 0.5 * (size - 1.0) ** 2 + 0.5 * (apart_KK**2).sum() / 4
        return float(-(fit_n * (1.0 if weight_n is None else weight_n)).sum() + pull)

    peer = minimize(loss, np.r_[1.0, np.zeros(4)], method="BFGS", options={"gtol": 1e-8}).x
    assert found.scale == pytest.approx(peer[0] if scale else 1.0, abs=1e-4)
    assert found.shift_K == pytest.approx(peer[1:] - peer[1], abs=1e-4)


def test_shifts_alone_equal_scikit_learns_intercepts() -> None:
    margin_nK, y_n = several_classes(20_000)
    found = fit_affine(np.zeros_like(margin_nK), y_n, scale=False)
    peer = LogisticRegression(C=1e-9, tol=1e-10).fit(margin_nK, y_n)  # a penalty so large that intercepts alone count
    assert found.shift_K == pytest.approx(peer.intercept_ - peer.intercept_[0], abs=2e-3)


def test_the_order_of_classes_and_tiles_changes_no_correction() -> None:
    margin_nK, y_n = several_classes(200)
    rows = np.random.default_rng(4).permutation(200)
    other_nK = margin_nK[:, ORDER] - margin_nK[:, ORDER[:1]]
    label_K = np.argsort(ORDER)
    one, other = fit_affine(margin_nK, y_n, scale=True), fit_affine(other_nK[rows], label_K[y_n[rows]], scale=True)
    assert other.scale == pytest.approx(one.scale, abs=1e-8)
    assert other.shift_K == pytest.approx(one.shift_K[ORDER] - one.shift_K[ORDER[0]], abs=1e-8)
    source_K = np.array([0.4, 0.3, 0.2, 0.1])
    share_K = estimate_prevalence(margin_nK, source_K)
    assert estimate_prevalence(other_nK[rows], source_K[ORDER]) == pytest.approx(share_K[ORDER], abs=1e-6)


def test_a_shift_alone_makes_the_mean_probability_the_prevalence() -> None:
    rng = np.random.default_rng(1)
    margin, y = rng.normal(1.0, 2.0, 5000), (rng.random(5000) < 0.2).astype(np.int64)
    found = fit_affine(two_class_margins(margin), y, scale=False)
    assert found.scale == 1.0
    assert expit(found(two_class_margins(margin))[:, 1]).mean() == pytest.approx(y.mean(), abs=1e-3)
    margin_nK, y_n = several_classes(5000)
    said_nK = softmax(fit_affine(margin_nK, y_n, scale=False)(margin_nK), axis=1)
    assert said_nK.mean(axis=0) == pytest.approx(np.bincount(y_n) / 5000, abs=1e-3)


def test_classes_that_separate_give_a_finite_correction() -> None:
    margin_n2 = two_class_margins(np.array([-3.0, -2.0, 2.0, 3.0]))
    found = fit_affine(margin_n2, np.array([0, 0, 1, 1]), scale=True)
    assert 1.0 < found.scale < 10.0
    several = fit_affine(np.repeat(6.0 * np.eye(3), 4, axis=0), np.repeat([0, 1, 2], 4), scale=True)
    assert 0.5 < several.scale < 10.0
    absent = fit_affine(np.zeros((50, 3)), np.repeat([0, 1], 25), scale=True)
    assert -20.0 < absent.shift_K[2] < -2.0


@settings(max_examples=20)
@given(share=st.floats(0.05, 0.95), seed=st.integers(0, 1000))
def test_prevalence_is_found_without_labels_where_only_it_differs(share: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    y = rng.random(20_000) < share
    margin = np.where(y, 1.0, -1.0) * 2.0 + 2.0 * rng.normal(size=20_000)  # log-odds of N(+-2, 4) at prevalence 1/2
    found_K = estimate_prevalence(two_class_margins(margin), np.array([0.5, 0.5]))
    assert found_K == pytest.approx([1.0 - share, share], abs=0.03)


def test_prevalence_of_several_classes_is_the_likeliest() -> None:
    """Against scipy: the shares of highest likelihood of the mixture, the source's counted as one more tile."""
    margin_nK, _ = several_classes(400)
    source_K = np.array([0.1, 0.2, 0.3, 0.4])
    density_nK = softmax(margin_nK, axis=1) / source_K

    def loss(free_M: np.ndarray) -> float:
        share_K = softmax(np.r_[0.0, free_M])
        return float(-np.log(density_nK @ share_K).sum() - source_K @ np.log(share_K))

    peer_K = softmax(np.r_[0.0, minimize(loss, np.zeros(3), method="BFGS", options={"gtol": 1e-8}).x])
    assert estimate_prevalence(margin_nK, source_K) == pytest.approx(peer_K, abs=1e-4)


def test_prevalence_does_not_depend_on_the_order_of_tiles() -> None:
    margin = two_class_margins(np.random.default_rng(2).normal(1.0, 2.0, 500))
    source_K = np.array([0.6, 0.4])
    assert estimate_prevalence(margin, source_K) == pytest.approx(estimate_prevalence(margin[::-1], source_K), abs=1e-9)


def test_log_priors_stay_finite() -> None:
    assert np.isfinite([log_priors(np.array([1.0, 0.0])), log_priors(np.array([0.0, 1.0]))]).all()
    assert log_priors(np.full(5, 0.2)).tolist() == [0.0] * 5
    assert log_priors(np.array([0.2, 0.8]))[1] == pytest.approx(np.log(4.0))


def several_classes(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Margins of four overlapping classes that are too sure and shifted, and labels."""
    rng = np.random.default_rng(0)
    logit_nK = rng.normal(0.0, 1.5, (n, 4))
    truth = Affine(0.6, np.array([0.0, 1.0, -0.5, 0.4]))
    gumbel_nK = rng.gumbel(size=(n, 4))
    return logit_nK - logit_nK[:, :1], (truth(logit_nK) + gumbel_nK).argmax(axis=1)
