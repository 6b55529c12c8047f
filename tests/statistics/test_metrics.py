from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics as sk
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.classification import binary_calibration_error, multiclass_calibration_error

from histotune.statistics import metrics


def sample(seed: int, n: int = 80, n_classes: int = 2, decimals: int = 1):  # noqa: ANN201
    rng = np.random.default_rng(seed)
    y = np.r_[np.arange(n_classes), rng.integers(0, n_classes, n - n_classes)]
    logit = np.round(rng.standard_normal((n, n_classes)), decimals)
    logit[np.arange(n), y] += 0.5
    e = np.exp(logit)
    return y, e / e.sum(axis=1, keepdims=True), rng


def value(sums: metrics.TileSums) -> float:
    return float(sums.value()[0])


def auprc(positive: np.ndarray, score: np.ndarray) -> float:
    return float(metrics.walk_down(positive, score, np.ones((1, len(score))))[0])


def sensitivity_at(positive: np.ndarray, score: np.ndarray, specificity: float = metrics.FIXED_RATE) -> float:
    return float(metrics.walk_down(positive, score, np.ones((1, len(score))), specificity)[0])


@pytest.mark.parametrize("n_classes", [2, 3, 5])
@pytest.mark.parametrize("seed", range(3))
def test_decision_metrics_equal_sklearns(n_classes: int, seed: int) -> None:
    y, p, _ = sample(seed, n_classes=n_classes)
    predicted = p.argmax(axis=1)
    assert value(metrics.accuracy_sums(y, predicted)) == pytest.approx(sk.accuracy_score(y, predicted), abs=1e-12)
    expected = sk.balanced_accuracy_score(y, predicted)
    assert metrics.balanced_accuracy(y, predicted, n_classes) == pytest.approx(expected, abs=1e-12)
    expected = sk.f1_score(y, predicted, average="macro")
    assert metrics.macro_f1(y, predicted, n_classes) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("n_classes", [2, 3, 5])
@pytest.mark.parametrize("seed", range(3))
def test_probability_metrics_equal_sklearns_and_torchmetrics(n_classes: int, seed: int) -> None:
    y, p, _ = sample(seed, n_classes=n_classes, decimals=3)
    assert value(metrics.log_loss_sums(y, p)) == pytest.approx(sk.log_loss(y, p), abs=1e-12)
    per_class = [sk.brier_score_loss(y == place, p[:, place]) for place in range(n_classes)]
    brier = per_class[1] if n_classes == 2 else sum(per_class)  # as sklearn has it from 1.7 on
    assert value(metrics.brier_sums(y, p)) == pytest.approx(brier, abs=1e-12)
    if n_classes == 2:
        ece = binary_calibration_error(torch.from_numpy(p[:, 1].copy()), torch.from_numpy(y), n_bins=15)
    else:
        ece = multiclass_calibration_error(torch.from_numpy(p), torch.from_numpy(y), n_classes, n_bins=15)
    assert value(metrics.ece_sums(y, p)) == pytest.approx(float(ece), abs=1e-6)  # torchmetrics bins in float32


def test_log_loss_of_a_certain_mistake_is_finite_as_in_sklearn() -> None:
    y, p = np.array([0, 1]), np.array([[0.0, 1.0], [0.3, 0.7]])
    assert value(metrics.log_loss_sums(y, p)) == pytest.approx(sk.log_loss(y, p), rel=1e-12)


@pytest.mark.parametrize("decimals", [0, 1, 6], ids=["many ties", "ties", "no ties"])
@pytest.mark.parametrize("seed", range(4))
def test_ranking_metrics_equal_sklearns(seed: int, decimals: int) -> None:
    y, p, rng = sample(seed, decimals=decimals)
    assert metrics.auroc(y, p) == pytest.approx(sk.roc_auc_score(y, p[:, 1] - p[:, 0]), abs=1e-12)
    assert auprc(y == 1, p[:, 1]) == pytest.approx(sk.average_precision_score(y, p[:, 1]), abs=1e-12)
    weights = np.stack([rng.integers(0, 4, len(y)), rng.uniform(0, 2, len(y))]).astype(float)
    areas = metrics.weighted_auroc(y, p, weights)
    precisions = metrics.walk_down(y == 1, p[:, 1], weights)
    for weight, area, precision in zip(weights, areas, precisions, strict=True):
        assert area == pytest.approx(sk.roc_auc_score(y, p[:, 1] - p[:, 0], sample_weight=weight), abs=1e-12)
        expected = sk.average_precision_score(y, p[:, 1], sample_weight=weight)
        assert precision == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("n_classes", [3, 5])
def test_multiclass_auroc_is_the_mean_over_classes_of_one_against_the_rest(n_classes: int) -> None:
    y, p, _ = sample(1, n_classes=n_classes)
    assert metrics.auroc(y, p) == pytest.approx(sk.roc_auc_score(y, p, multi_class="ovr", average="macro"), abs=1e-12)


@pytest.mark.parametrize("name", ["accuracy", "balanced_accuracy", "macro_f1", "log_loss"])
def test_weighted_sums_equal_sklearns_with_sample_weights(name: str) -> None:
    y, p, rng = sample(2, n_classes=3)
    predicted = p.argmax(axis=1)
    found, reference = {
        "accuracy": (metrics.accuracy_sums(y, predicted), lambda w: sk.accuracy_score(y, predicted, sample_weight=w)),
        "balanced_accuracy": (
            metrics.balanced_accuracy_sums(y, predicted, 3),
            lambda w: sk.balanced_accuracy_score(y, predicted, sample_weight=w),
        ),
        "macro_f1": (
            metrics.macro_f1_sums(y, predicted, 3),
            lambda w: sk.f1_score(y, predicted, average="macro", sample_weight=w),
        ),
        "log_loss": (metrics.log_loss_sums(y, p), lambda w: sk.log_loss(y, p, sample_weight=w)),
    }[name]
    weights = rng.integers(0, 4, (5, len(y))).astype(float)
    np.testing.assert_allclose(found.value(weights), [reference(weight) for weight in weights], atol=1e-12)


def test_fold_wise_auroc_pools_the_pairs_of_every_fold() -> None:
    y, p, rng = sample(3, n=200)
    fold = rng.integers(0, 4, len(y))
    wins = pairs = 0.0
    for k in range(4):
        rows = fold == k
        n_pairs = (y[rows] == 1).sum() * (y[rows] == 0).sum()
        wins += n_pairs * sk.roc_auc_score(y[rows], p[rows, 1])
        pairs += n_pairs
    scores = np.stack([np.zeros(len(y)), p[:, 1]], axis=1)
    assert metrics.auroc(y, scores, fold) == pytest.approx(wins / pairs, abs=1e-12)


def test_heads_with_different_scales_do_not_spoil_fold_wise_auroc() -> None:
    y = np.tile([0, 0, 1, 1], 2)
    score = np.array([0.0, 1, 2, 3, 100, 101, 102, 103])
    scores, fold = np.stack([np.zeros(8), score], axis=1), np.repeat([0, 1], 4)
    assert metrics.auroc(y, scores, fold) == 1.0
    assert metrics.auroc(y, scores) == 0.75


def test_patient_recognition_rate_by_hand() -> None:
    y, predicted = np.array([0, 0, 0, 1, 1, 1]), np.array([0, 0, 1, 1, 0, 1])
    patient = np.array([0, 0, 0, 1, 1, 2])
    found = metrics.patient_recognition_sums(y, predicted, patient)
    assert found.value()[0] == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)


def test_undefined_is_nan_and_never_zero() -> None:
    one_class = np.zeros(4, np.int64)
    p = np.full((4, 2), 0.5)
    assert np.isnan(metrics.auroc(one_class, p))
    assert np.isnan(auprc(one_class == 1, p[:, 1]))
    assert np.isnan(metrics.balanced_accuracy(one_class, one_class, 2))
    assert np.isnan(metrics.macro_f1(one_class, one_class, 2))
    assert np.isnan(metrics.weighted_auroc(np.array([0, 1]), p[:2], np.array([[1.0, 0.0]]))[0])


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(-3, 3)), min_size=2, max_size=40), st.randoms())
def test_ranking_metrics_are_bounded_symmetric_and_blind_to_order(pairs: list[tuple[int, int]], random) -> None:  # noqa: ANN001
    y, score = np.array([a for a, _ in pairs]), np.array([float(b) for _, b in pairs])
    scores = np.stack([np.zeros(len(y)), score], axis=1)
    area = metrics.auroc(y, scores)
    if len(set(y.tolist())) == 1:
        assert np.isnan(area)
        return
    assert 0.0 <= area <= 1.0
    assert metrics.auroc(y, -scores) == pytest.approx(1 - area)
    assert metrics.auroc(y, np.exp(scores)) == pytest.approx(area)
    assert 0.0 < auprc(y == 1, score) <= 1.0
    order = list(range(len(y)))
    random.shuffle(order)
    assert metrics.auroc(y[order], scores[order]) == pytest.approx(area, abs=1e-12)
    assert auprc(y[order] == 1, score[order]) == pytest.approx(auprc(y == 1, score), abs=1e-12)


@pytest.mark.parametrize("n_classes", [2, 3, 5])
@pytest.mark.parametrize("seed", range(3))
def test_mcc_equals_sklearns(n_classes: int, seed: int) -> None:
    y, p, rng = sample(seed, n_classes=n_classes)
    predicted = p.argmax(axis=1)
    assert value(metrics.mcc_sums(y, predicted, n_classes)) == pytest.approx(
        sk.matthews_corrcoef(y, predicted), abs=1e-12
    )
    weights = rng.integers(0, 4, (5, len(y))).astype(float)
    expected = [sk.matthews_corrcoef(y, predicted, sample_weight=weight) for weight in weights]
    np.testing.assert_allclose(metrics.mcc_sums(y, predicted, n_classes).value(weights), expected, atol=1e-12)
    assert np.isnan(value(metrics.mcc_sums(y, np.zeros_like(y), n_classes)))


@pytest.mark.parametrize("decimals", [0, 1, 6], ids=["many ties", "ties", "no ties"])
@pytest.mark.parametrize("rate", [0.5, 0.9, 0.95])
def test_operating_points_equal_sklearns_roc_curve(decimals: int, rate: float) -> None:
    y, p, rng = sample(7, n=120, decimals=decimals)
    score = p[:, 1]
    for weight in (np.ones(len(y)), rng.integers(0, 4, len(y)).astype(float)):
        fpr, tpr, _ = sk.roc_curve(y, score, sample_weight=weight, drop_intermediate=False)
        expected = tpr[fpr <= 1 - rate + 1e-9].max()
        assert metrics.walk_down(y == 1, score, weight[None], rate)[0] == pytest.approx(expected, abs=1e-12)
        reverse = 1 - fpr[tpr >= rate - 1e-9].min()
        found = metrics.walk_down(y == 0, -score, weight[None], rate)[0]
        assert found == pytest.approx(reverse, abs=1e-12)


def test_operating_points_at_the_ends() -> None:
    assert sensitivity_at(np.array([True, False]), np.array([0.0, 1.0])) == 0.0
    assert sensitivity_at(np.array([True, False]), np.array([1.0, 0.0])) == 1.0
    assert np.isnan(sensitivity_at(np.array([True, True]), np.array([1.0, 0.0])))


def test_debiased_ece_subtracts_the_mean_of_drawn_noise() -> None:
    rng = np.random.default_rng(0)
    p = np.round(rng.uniform(size=400), 3)
    y = (rng.random(400) < np.clip(1.6 * p - 0.3, 0, 1)).astype(np.int64)
    probability = np.stack([1 - p, p], axis=1)
    index = np.minimum((p * 15).astype(int), 14)
    plain = noisy = 0.0
    for b in np.unique(index):
        inside = index == b
        gap, share, n = p[inside].mean() - y[inside].mean(), y[inside].mean(), inside.sum()
        plain += n / 400 * abs(gap)
        drawn = gap + rng.standard_normal(400_000) * np.sqrt(share * (1 - share) / n)
        noisy += n / 400 * np.abs(drawn).mean()
    assert value(metrics.ece_sums(y, probability)) == pytest.approx(plain, abs=1e-12)
    assert value(metrics.ece_debiased_sums(y, probability)) == pytest.approx(plain - (noisy - plain), abs=2e-4)


def test_debiased_ece_of_a_calibrated_head_is_nearer_to_nothing() -> None:
    rng = np.random.default_rng(1)
    p = rng.uniform(size=(200, 300))
    y = (rng.random((200, 300)) < p).astype(np.int64)
    pairs = [
        (
            value(metrics.ece_sums(a, np.stack([1 - b, b], 1))),
            value(metrics.ece_debiased_sums(a, np.stack([1 - b, b], 1))),
        )
        for a, b in zip(y, p, strict=True)
    ]
    plain, debiased = np.mean(pairs, axis=0)
    assert debiased < 0.65 * plain


@pytest.mark.parametrize("n_classes", [3, 4])
def test_multiclass_auprc_is_the_mean_over_classes_of_one_against_the_rest(n_classes: int) -> None:
    y, p, _ = sample(2, n_classes=n_classes)
    expected = sk.average_precision_score(np.eye(n_classes)[y], p, average="macro")
    found = np.mean([auprc(y == k, p[:, k]) for k in range(n_classes)])
    assert found == pytest.approx(expected, abs=1e-12)
