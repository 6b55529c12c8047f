"""Heads of three classes: each cause is named, every part against scikit-learn, and two classes as they were."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from scipy.optimize import differential_evolution
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from histotune.statistics.predictions import Interval, IntervalConfig
from histotune.tools.errors import UserError
from histotune.transfer.case import TransferCase, TransferConfig
from histotune.transfer.corrections import make_workbench
from histotune.transfer.diagnose import cross_neighbours, diagnose, verdict_only
from histotune.transfer.limits import _draw_groups, few_shot_curve, fit_masks
from histotune.transfer.remedies import threshold_arm
from tests.transfer.conftest import SIGNAL, THREE, make_transfer

Transfers = Callable[..., TransferCase]
CONFIG, INTERVAL = TransferConfig(draws=3), IntervalConfig()
MOSTLY_FIRST = [0] * 40 + [1] * 8 + [2] * 8
CENTRE = np.array([1.3, (2.4**2 - 1.3**2) / 4.8, 0.0, 0.0, 0.0, 0.0])
"""As far from every class mean: there the three are equally likely."""


def blurred(x_ND: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    noise_ND = np.zeros_like(x_ND)
    noise_ND[:, :2] = rng.normal(size=(len(x_ND), 2)) * [2.5, 2.0]
    return x_ND + noise_ND


def moved(x_ND: np.ndarray, _rng: np.random.Generator) -> np.ndarray:
    return x_ND + np.array([1.5, -1.0, 0.0, 0.0, 0.0, 0.0])


def spread(x_ND: np.ndarray, _rng: np.random.Generator) -> np.ndarray:
    return CENTRE + 4.0 * (x_ND - CENTRE)


@pytest.mark.parametrize(
    ("changes", "first"),
    [
        ({}, "none"),
        ({"change": blurred, "undone": ("scale",)}, "scale"),
        ({"change": blurred, "undone": ("stain",)}, "stain"),
        ({"change": blurred, "undone": ("scale", "stain")}, "can't be told"),
        ({"change": blurred}, "other"),
        ({"change": moved}, "threshold"),
        ({"change": spread}, "calibration"),
        ({"target_labels": MOSTLY_FIRST}, "prevalence"),
        ({"target_labels": [0, 1, 2] * 3}, "can't be told"),
    ],
)
def test_first_cause(transfer: Transfers, changes: dict[str, Any], first: str) -> None:
    assert verdict_only(transfer(n_classes=3, **changes), CONFIG, INTERVAL).first == first


@pytest.mark.slow
def test_neither_shifts_nor_the_mix_of_classes_look_like_a_lost_ranking(transfer: Transfers) -> None:
    for changes in ({"change": moved}, {"target_labels": MOSTLY_FIRST}):
        for seed in range(5):
            found = diagnose(transfer(n_classes=3, seed=seed, **changes), CONFIG, INTERVAL)
            assert abs(found.gaps[0].value) < 0.02
            for name in ("prevalence from labels", "threshold from labels", "mean"):
                row = next(row for row in found.remedies if row.name == name)
                assert row.recovery("auroc").alone.reason.startswith("unchanged")


def test_scores_equal_scikit_learns(transfer: Transfers) -> None:
    case = transfer(change=blurred, n_classes=3)
    found = diagnose(case, CONFIG, INTERVAL)
    margin_NK, y_N = case.head.margin(case.target.x_ND), case.target.y_N
    assert found.target_scores[0].value == pytest.approx(pairwise_auroc(y_N, margin_NK))
    assert found.target_scores[1].value == pytest.approx(balanced_accuracy_score(y_N, margin_NK.argmax(axis=1)))
    assert found.prevalence == ((1 / 3,) * 3, (1 / 3,) * 3)
    whole = next(row for row in found.remedies if row.name == "recalibration").recovery("log_loss").alone.value
    assert sum(part.loss.value for part in found.parts) == pytest.approx(whole)
    assert "pairs of the 3 classes" in found.paragraph
    assert "caused" not in found.paragraph
    assert json.loads(json.dumps(found.as_dict()))["class_names"] == list(THREE)


def test_a_shift_per_class_comes_close_to_the_best_and_moves_decisions_alone(transfer: Transfers) -> None:
    case = transfer(change=moved, target_labels=MOSTLY_FIRST, n_classes=3)
    bench = make_workbench(case, 4, 0)
    margin_NK = bench.margins(case.target.x_ND)
    plain, shifted = bench.arm(margin_NK).predictions, threshold_arm(bench, margin_NK).predictions
    np.testing.assert_array_equal(shifted.probability_NK, plain.probability_NK)
    y_N = case.target.y_N

    def lost(shift_M: np.ndarray) -> float:
        return -balanced_accuracy_score(y_N, (margin_NK + np.r_[0.0, shift_M]).argmax(axis=1))

    best = -differential_evolution(lost, [(-6.0, 6.0)] * 2, seed=0, maxiter=60).fun
    before, after = (balanced_accuracy_score(y_N, arm.predicted_N) for arm in (plain, shifted))
    assert after > before + 0.15
    assert after > best - 0.03  # learned on other groups, and not by counting


def test_where_no_tuning_group_holds_a_class_the_decisions_stay_as_they_are(transfer: Transfers) -> None:
    case = transfer(change=moved, target_labels=[0] * 10 + [1] * 10 + [2], n_classes=3)
    bench = make_workbench(case, 4, 0)
    margin_NK = bench.margins(case.target.x_ND)
    plain_N, shifted_N = margin_NK.argmax(axis=1), threshold_arm(bench, margin_NK).predictions.predicted_N
    lacking_N = bench.fold_N == bench.fold_N[case.target.y_N == 2][0]
    np.testing.assert_array_equal(shifted_N[lacking_N], plain_N[lacking_N])
    assert (shifted_N[~lacking_N] != plain_N[~lacking_N]).any()


def test_few_shot_points_are_means_over_heads_fitted_one_at_a_time(transfer: Transfers) -> None:
    case, config = transfer(n_classes=3), TransferConfig(few_shot=(2, 4), draws=3)
    target = case.target
    codes = np.unique(np.array(target.groups), return_inverse=True)[1]
    points = few_shot_curve(make_workbench(case, 4, 0), config, INTERVAL)
    for point, (size, mask_FN) in zip(points, _draw_groups(codes, target.y_N, 3, config).items(), strict=True):
        values = []
        for mask_N in mask_FN:
            assert [len(np.unique(codes[mask_N & (target.y_N == label)])) for label in range(3)] == [size] * 3
            values.append(pairwise_auroc(target.y_N[~mask_N], one_at_a_time(case, mask_N)[~mask_N]))
        assert point.groups_per_class == size
        assert point.auroc.value == pytest.approx(np.mean(values), abs=5e-4)
        assert point.auroc.n_groups == 60 - 3 * size
        assert isinstance(point.auroc.interval, Interval)


def test_a_slide_of_several_classes_counts_for_the_most_frequent() -> None:
    codes, y_N = np.repeat(np.arange(12), 4), np.tile([0, 0, 1, 2, 1, 1, 0, 2, 2, 2, 2, 0], 4)
    ((size, mask_FN),) = _draw_groups(codes, y_N, 3, TransferConfig(few_shot=(1,), draws=4)).items()
    assert size == 1
    for mask_N in mask_FN:
        assert sorted(np.unique(codes[mask_N]) % 3) == [0, 1, 2]


def test_margins_of_own_heads_do_not_depend_on_the_batch(transfer: Transfers) -> None:
    case = transfer(n_classes=3)
    mask_FN = np.random.default_rng(0).random((3, len(case.target))) < 0.5
    together = fit_masks(case, mask_FN)
    assert (together[..., 0] == 0).all()
    for mask_N, margin_NK in zip(mask_FN, together, strict=True):
        np.testing.assert_allclose(fit_masks(case, mask_N[None])[0], margin_NK, atol=1e-3)


def test_neighbours_name_what_the_head_takes_a_tile_for(transfer: Transfers) -> None:
    case = transfer(change=blurred, n_classes=3)
    margin_NK = case.head.margin(case.target.x_ND)
    p_NK = np.exp(margin_NK) / np.exp(margin_NK).sum(axis=1, keepdims=True)
    for row in cross_neighbours(case):
        at = case.target.tile_ids.index(row.tile.tile_id)
        assert row.predicted == THREE[p_NK[at].argmax()]
        assert row.probability == pytest.approx(p_NK[at].max())
        assert row.why == "picked blindly" or row.tile.label != row.predicted


def test_a_missing_class_is_refused_by_name(transfer: Transfers) -> None:
    case = transfer(n_classes=3)
    lacking = replace(case.target, y_N=np.minimum(case.target.y_N, 1))
    with pytest.raises(UserError, match="target holds no tile of one class") as problem:
        diagnose(replace(case, target=lacking), CONFIG, INTERVAL)
    assert "tumour" in str(problem.value)


def test_few_groups_of_one_class_refuse_intervals_with_its_name(transfer: Transfers) -> None:
    found = diagnose(transfer(target_labels=[0, 1] * 10 + [2] * 4, n_classes=3), CONFIG, INTERVAL)
    assert found.verdict.first == "can't be told"
    assert "class 'tumour' has 4 groups" in found.paragraph
    assert not np.isnan(found.target_scores[0].value)


def test_the_order_of_a_heads_classes_changes_no_score(transfer: Transfers) -> None:
    case = transfer(change=moved, n_classes=3)
    order = np.array([2, 0, 1])
    label_K = np.argsort(order)

    def margin(x_ND: np.ndarray) -> np.ndarray:
        other_NK = case.head.margin(x_ND)[:, order]
        return other_NK - other_NK[:, :1]

    one, other = make_workbench(case, 4, 0), make_workbench(reordered(case, margin, label_K), 4, 0)
    other = replace(other, fold_N=one.fold_N)  # the deal of groups starts with the first class
    for how in (lambda b, z: b.prior_corrected(z, labels=False), lambda b, z: b.recalibrated(z, scale=True),
                lambda b, z: threshold_arm(b, z).predictions.predicted_N[:, None] * np.ones(3)):  # fmt: skip
        a, b = (how(bench, bench.margins(case.target.x_ND)) for bench in (one, other))
        if (a == a[:, :1]).all():
            np.testing.assert_array_equal(order[b.astype(int)], a)
        else:
            np.testing.assert_allclose(b - b[:, [label_K[0]]], a[:, order] - a[:, [0]], atol=1e-6)


def reordered(case: TransferCase, margin: Callable[[np.ndarray], np.ndarray], label_K: np.ndarray) -> TransferCase:
    names = tuple(np.array(THREE)[np.argsort(label_K)])
    sides = {name: replace(side, y_N=label_K[side.y_N]) for name, side in
             (("source", case.source), ("target", case.target))}  # fmt: skip
    return replace(case, head=replace(case.head, margin=margin, class_names=names), **sides)


def test_two_classes_keep_the_numbers_they_had_before_there_were_several() -> None:
    def along(x_ND: np.ndarray, _rng: np.random.Generator) -> np.ndarray:
        return x_ND + 1.2 * SIGNAL / np.linalg.norm(SIGNAL)

    found = diagnose(make_transfer(along, [1] * 10 + [0] * 60), CONFIG, INTERVAL)
    assert [score.value for score in found.target_scores] == pytest.approx([0.92871667, 0.73333333, 1.08357393])
    assert [part.loss.value for part in found.parts] == pytest.approx([0.60410057, 0.25912821, -0.00028188], rel=1e-4)
    assert found.threshold_loss.value == pytest.approx(0.10916667)
    assert [point.auroc.value for point in found.few_shot] == pytest.approx([0.82923415, 0.90142241, 0.91266865])
    assert found.oracles[2].scores[2].value == pytest.approx(0.27749220)
    by_em = next(row for row in found.remedies if row.name == "prior correction (EM)")
    assert by_em.recovery("log_loss").alone.value == pytest.approx(-0.42836821)
    assert found.prevalence[1][1] == pytest.approx(1 / 7)


def pairwise_auroc(y_N: np.ndarray, margin_NK: np.ndarray) -> float:
    values = []
    for low, high in combinations(range(margin_NK.shape[1]), 2):
        rows = np.isin(y_N, (low, high))
        values.append(roc_auc_score(y_N[rows] == high, (margin_NK[:, high] - margin_NK[:, low])[rows]))
    return float(np.mean(values))


def one_at_a_time(case: TransferCase, mask_N: np.ndarray) -> np.ndarray:
    """Fit with scikit-learn what the batch fits: standardised, mean loss with an L2 penalty."""
    x_nD = case.target.x_ND[mask_N]
    centre_D, spread_D = x_nD.mean(axis=0), x_nD.std(axis=0)
    model = LogisticRegression(C=1.0 / (case.head.penalty * mask_N.sum()), tol=1e-8, max_iter=1000)
    model.fit((x_nD - centre_D) / spread_D, case.target.y_N[mask_N])
    return np.asarray(model.decision_function((case.target.x_ND - centre_D) / spread_D))
