from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize, minimize_scalar
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from histotune.heads import calibrate as calibrate_module
from histotune.heads.calibrate import CrossFitted, calibrate, fit_temperatures, fit_vector, jackknife_interval
from histotune.heads.head import calibrated_logits, softmax


def make_crossfitted(
    n_classes: int = 2, sharpness: float = 3.0, n: int = 300, n_groups: int = 20, seed: int = 0
) -> CrossFitted:
    """Logits that are ``sharpness`` times too large."""
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((n, n_classes)) * 1.5
    z[:, 0] = 0.0
    y = (softmax(z).cumsum(axis=1) < rng.random((n, 1))).sum(axis=1)
    group = np.r_[np.arange(n_groups), rng.integers(0, n_groups, n - n_groups)]
    return CrossFitted(sharpness * z, y, group, n_groups, group % 5)


@pytest.mark.parametrize("n_classes", [2, 4])
def test_temperatures_are_those_of_scipy_for_every_row_of_weights(n_classes: int) -> None:
    found, rng = make_crossfitted(n_classes), np.random.default_rng(1)
    weights = rng.random((6, 300)) * (rng.random((6, 300)) < 0.8)
    ours = fit_temperatures(found.logit_nK, found.y_n, weights)
    for weight, temperature in zip(weights, ours, strict=True):
        loss = lambda t, w=weight: log_loss(  # noqa: E731
            found.y_n, softmax(found.logit_nK / np.exp(t)), sample_weight=w, labels=range(n_classes)
        )
        best = minimize_scalar(loss, bounds=(-2, 3), method="bounded", options={"xatol": 1e-9})
        assert temperature == pytest.approx(np.exp(best.x), rel=1e-5)


@pytest.mark.parametrize(("sharpness", "expected"), [(3.0, 3.0), (0.4, 0.4)])
def test_overconfident_and_timid_logits_are_found(sharpness: float, expected: float) -> None:
    found = make_crossfitted(sharpness=sharpness, n=3000, n_groups=40)
    calibration = calibrate(found, "temperature")
    assert calibration.temperature == pytest.approx(expected, rel=0.15)
    assert calibration.nll_before is not None
    assert calibration.nll_after is not None
    assert calibration.nll_after < calibration.nll_before
    assert calibration.interval is not None
    assert calibration.interval.low < expected < calibration.interval.high


def test_a_temperature_that_helps_no_held_out_fold_is_left_at_one() -> None:
    kept = [
        calibrate(make_crossfitted(sharpness=1.0, n=60, n_groups=10, seed=seed), "temperature") for seed in range(8)
    ]
    ones = [calibration for calibration in kept if calibration.temperature == 1.0]
    assert ones
    for calibration in kept:
        assert calibration.nll_before is not None
        assert calibration.nll_after is not None
        assert (calibration.temperature == 1.0) == (calibration.nll_after >= calibration.nll_before)
    assert ones[0].reason.startswith("T = 1: ")
    assert calibrate(make_crossfitted(), "none").temperature == 1.0


def test_the_held_out_loss_and_the_interval_are_those_of_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    found = make_crossfitted()
    weight = found.tile_weights()
    held = np.empty_like(found.logit_nK)
    for fold in range(5):
        out = found.fold_n == fold
        t = fit_temperatures(found.logit_nK[~out], found.y_n[~out], weight[None, ~out])[0]
        held[out] = found.logit_nK[out] / t
    left_out = np.array([
        fit_temperatures(found.logit_nK[found.group_n != g], found.y_n[found.group_n != g],
                         weight[None, found.group_n != g])[0]
        for g in range(20)
    ])  # fmt: skip
    for chunk in (4_000_000, 1500):
        monkeypatch.setattr(calibrate_module, "CHUNK_VALUES", chunk)
        ours = calibrate(found, "temperature")
        assert ours.nll_after == pytest.approx(found.log_loss(held), rel=1e-9)
        ends = np.exp(jackknife_interval(np.log(ours.temperature), np.log(left_out)))
        assert ours.interval is not None
        np.testing.assert_allclose([ours.interval.low, ours.interval.high], ends, rtol=1e-6)


def test_temperature_keeps_the_ranking_and_separable_logits_stay_bounded() -> None:
    found = make_crossfitted(3)
    calibration = calibrate(found, "temperature")
    cold = softmax(calibrated_logits(calibration, found.logit_nK))
    np.testing.assert_array_equal(cold.argmax(axis=1), found.logit_nK.argmax(axis=1))
    p1 = softmax(make_crossfitted().logit_nK)[:, 1]
    np.testing.assert_array_equal(np.argsort(p1), np.argsort(softmax(make_crossfitted().logit_nK / 2.5)[:, 1]))
    sure = np.array([[0.0, 5.0], [0.0, -5.0]])
    assert fit_temperatures(sure, np.array([1, 0]), np.ones((1, 2)))[0] == pytest.approx(0.05)
    assert fit_temperatures(sure, np.array([0, 1]), np.ones((1, 2)))[0] == pytest.approx(20.0)


def test_vector_scaling_is_platt_scaling_in_binary_tasks_and_scipys_optimum_otherwise() -> None:
    found = make_crossfitted()
    ours = fit_vector(found.logit_nK, found.y_n, np.ones(300))
    platt = LogisticRegression(C=1e10, tol=1e-10).fit(found.logit_nK[:, 1:], found.y_n)
    np.testing.assert_allclose([ours.scale_K[1], ours.shift_K[1]], [platt.coef_[0, 0], platt.intercept_[0]], atol=1e-4)
    found = make_crossfitted(3)
    ours = fit_vector(found.logit_nK, found.y_n, np.ones(300))
    loss = lambda v: log_loss(found.y_n, softmax(found.logit_nK * v[:3] + np.r_[0, v[3:]]))  # noqa: E731
    free = minimize(loss, np.r_[np.ones(3), np.zeros(2)], method="BFGS")
    assert loss(np.r_[ours.scale_K, ours.shift_K[1:]]) <= free.fun + 1e-8


def test_vector_scaling_needs_50_groups_and_must_beat_the_temperature() -> None:
    few = calibrate(make_crossfitted(), "vector")
    assert not few.scale_K
    assert "vector scaling needs 50 groups and has 20" in few.reason
    found = make_crossfitted(n=2000, n_groups=60)
    shifted = CrossFitted(found.logit_nK + np.array([0.0, 2.0]), found.y_n, found.group_n, 60, found.fold_n)
    moved = calibrate(shifted, "vector")
    assert moved.scale_K[0] == 1.0
    assert moved.scale_K[1] * 2.0 == pytest.approx(-moved.shift_K[1], rel=0.2)
    plain = calibrate(found, "vector")
    assert plain.temperature == pytest.approx(3.0, rel=0.2) or plain.scale_K
