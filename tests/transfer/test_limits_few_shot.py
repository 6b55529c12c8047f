"""The few-shot curve against scikit-learn, one draw at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit, logit
from scipy.stats import t as student
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from histotune.statistics.predictions import IntervalConfig
from histotune.transfer.case import Side, TransferCase, TransferConfig
from histotune.transfer.corrections import make_workbench
from histotune.transfer.limits import _draw_groups, few_shot_curve, fit_masks
from tests.transfer.conftest import draw_side

Transfers = Callable[..., TransferCase]
CONFIG, INTERVAL = TransferConfig(few_shot=(2, 4), draws=3), IntervalConfig()


def test_points_are_means_over_draws_of_heads_fitted_one_at_a_time(transfer: Transfers) -> None:
    case = transfer()
    points = few_shot_curve(make_workbench(case, 4, 0), CONFIG, INTERVAL)
    groups = np.array(case.target.groups)
    for point, (size, mask_FN) in zip(points, _masks(case).items(), strict=True):
        margin_FN = _one_by_one(case, mask_FN)
        values = [_auroc(case, margin_N, ~mask_N) for margin_N, mask_N in zip(margin_FN, mask_FN, strict=True)]
        assert point.groups_per_class == size
        assert point.auroc.value == pytest.approx(np.mean(values), abs=2e-4)
        assert point.sd == pytest.approx(np.std(values, ddof=1), abs=2e-4)
        assert point.auroc.n_groups == len(set(groups)) - 2 * size
        without_G = [
            np.mean([_auroc(case, margin_N, ~mask_N & (groups != group))
                     for margin_N, mask_N in zip(margin_FN, mask_FN, strict=True)])
            for group in dict.fromkeys(groups)
        ]  # fmt: skip
        low, high = _expected_bounds(np.array(without_G), values, case)
        assert point.auroc.interval is not None
        assert point.auroc.interval.low == pytest.approx(low, abs=0.01)
        assert point.auroc.interval.high == pytest.approx(high, abs=0.01)


def test_the_order_of_tiles_changes_nothing(transfer: Transfers) -> None:
    case = transfer()
    order = np.random.default_rng(5).permutation(len(case.target))
    target = case.target
    mixed = replace(case, target=Side(
        target.domain, target.x_ND[order], target.y_N[order], tuple(target.groups[row] for row in order),
        tuple(target.tile_ids[row] for row in order),
    ))  # fmt: skip
    for one, other in zip(_curve(case), _curve(mixed), strict=True):
        assert one.auroc.value == pytest.approx(other.auroc.value, abs=1e-4)
        assert one.auroc.interval is not None
        assert other.auroc.interval is not None
        assert one.auroc.interval.low == pytest.approx(other.auroc.interval.low, abs=1e-3)


def test_few_groups_give_a_point_without_interval_and_the_reason(transfer: Transfers) -> None:
    case = transfer(target_labels=[0, 1] * 4)
    points = few_shot_curve(make_workbench(case, 4, 0), TransferConfig(few_shot=(1, 2, 4), draws=3), INTERVAL)
    assert [point.groups_per_class for point in points] == [1, 2]
    assert all(point.auroc.interval is None and "4 groups" in point.auroc.reason for point in points)


def test_a_perfect_ranking_gets_an_exact_bound_not_zero_width(transfer: Transfers) -> None:
    case = transfer(change=lambda x_ND, _: x_ND)
    apart_ND = case.target.x_ND + 50.0 * case.target.y_N[:, None]
    for point in _curve(replace(case, target=replace(case.target, x_ND=apart_ND))):
        assert point.auroc.value == 1.0
        assert point.auroc.interval is not None
        assert point.auroc.interval.low == pytest.approx(0.05 ** (1 / (20 - point.groups_per_class)))  # rule of three


@pytest.mark.slow
def test_the_interval_covers_the_mean_over_all_draws_about_as_often_as_it_says(transfer: Transfers) -> None:
    """20 groups; the truth is what heads of one group per class get on a large population, on average."""
    config = TransferConfig(few_shot=(1,), draws=10)
    case, rng = transfer(), np.random.default_rng(1)
    people = draw_side("people", [0, 1] * 500, rng)
    truths = []
    for _ in range(100):
        few = draw_side("few", [0, 1], rng)
        both = replace(people, x_ND=np.concatenate([few.x_ND, people.x_ND]), y_N=np.concatenate([few.y_N, people.y_N]))
        margin_N = fit_masks(replace(case, target=both), (np.arange(len(both)) < len(few))[None])[0, :, 1]
        truths.append(roc_auc_score(people.y_N, margin_N[len(few) :]))
    inside = 0
    for seed in range(200):
        drawn = make_workbench(transfer(target_labels=[0, 1] * 10, seed=1000 + seed), 4, 0)
        (point,) = few_shot_curve(drawn, config.model_copy(update={"seed": seed}), INTERVAL)
        assert point.auroc.interval is not None
        inside += point.auroc.interval.low <= np.mean(truths) <= point.auroc.interval.high
    assert inside >= 176  # 93 % of 200, less three standard errors


def _curve(case: TransferCase) -> tuple[object, ...]:
    return few_shot_curve(make_workbench(case, 4, 0), CONFIG, INTERVAL)


def _masks(case: TransferCase) -> dict[int, np.ndarray]:
    codes = np.unique(np.array(case.target.groups), return_inverse=True)[1]
    return _draw_groups(codes, case.target.y_N, case.n_classes, CONFIG)


def _one_by_one(case: TransferCase, mask_FN: np.ndarray) -> np.ndarray:
    """Fit with scikit-learn what the batch fits: standardised, mean loss with an L2 penalty."""
    rows = []
    for mask_N in mask_FN:
        x_nD = case.target.x_ND[mask_N]
        centre_D, spread_D = x_nD.mean(axis=0), x_nD.std(axis=0)
        strength = 1.0 / (case.head.penalty * mask_N.sum())
        model = LogisticRegression(C=strength, tol=1e-8, max_iter=1000)
        model.fit((x_nD - centre_D) / spread_D, case.target.y_N[mask_N])
        rows.append(model.decision_function((case.target.x_ND - centre_D) / spread_D))
    return np.stack(rows)


def _auroc(case: TransferCase, margin_N: np.ndarray, rows_N: np.ndarray) -> float:
    return float(roc_auc_score(case.target.y_N[rows_N], margin_N[rows_N]))


def _expected_bounds(without_G: np.ndarray, values: list[float], case: TransferCase) -> tuple[float, float]:
    """Stratified jackknife over groups plus the draws' variance of the mean, a t interval on the logit scale."""
    groups = list(dict.fromkeys(case.target.groups))
    label_G = np.array([case.target.y_N[case.target.groups.index(group)] for group in groups])
    variance, squares, sizes = 0.0, [], []
    for label in (0, 1):
        pull_g = without_G[label_G == label] - without_G[label_G == label].mean()
        variance += (len(pull_g) - 1) / len(pull_g) * (pull_g**2).sum()
        squares.append(pull_g**2)
        sizes.append(len(pull_g))
    spread = sum((one**2).sum() - one.sum() ** 2 / len(one) for one in squares)
    df = np.clip(2 * sum(one.sum() for one in squares) ** 2 / spread, 1, min(sizes) - 1)
    se = np.sqrt(variance + np.var(values, ddof=1) / len(values))
    mean = float(np.mean(values))
    reach = student.ppf(0.975, df) * se / (mean * (1 - mean))
    return float(expit(logit(mean) - reach)), float(expit(logit(mean) + reach))
