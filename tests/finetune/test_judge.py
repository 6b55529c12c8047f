"""A choice is asked of groups that had no part in it, by loss and by ranking; losses are at their best temperature."""

# n tiles, K classes, G tuning groups, O options, E epochs

from __future__ import annotations

import numpy as np
import pytest

from histotune.finetune.config import FinetuneConfig, TrialSettings
from histotune.finetune.judge import (
    Chosen,
    Gain,
    TuningCurve,
    TuningJudge,
    choose_epoch,
    first_of_window,
    gain_of_choice,
    tuned_threshold,
)
from histotune.heads.head import Calibration
from histotune.statistics.metrics import auroc

OWN = TrialSettings.of(FinetuneConfig())


def curve(loss_EG: list[list[float]], lr: float = 1e-3) -> TuningCurve:
    unknown_EG = np.full(np.shape(loss_EG), np.nan)
    return TuningCurve(OWN.model_copy(update={"lr": lr}), np.array(loss_EG), unknown_EG, np.zeros((len(loss_EG), 2, 2)))


def test_one_option_gains_what_its_groups_gain() -> None:
    probe_G, loss_G = np.array([0.5, 0.7, 0.6]), np.array([0.4, 0.4, 0.6])
    gain = gain_of_choice(loss_G[None], (probe_G - loss_G)[None])
    assert gain.mean == pytest.approx((0.1 + 0.3 + 0.0) / 3)
    assert gain.error == pytest.approx(np.std([0.1, 0.3, 0.0], ddof=1) / np.sqrt(3))
    assert gain_of_choice(loss_G[None, :1], np.ones((1, 1))).error == np.inf


def test_groups_are_asked_of_what_others_choose() -> None:
    # option 0 wins by group 0 alone: wherever that group chooses, the others gain nothing
    loss_OG = np.array([[-9.0, 1.0, 1.0, 1.0], [0.9, 0.9, 0.9, 0.9]])
    gain = gain_of_choice(loss_OG, 1.0 - loss_OG)
    chosen = choose_epoch([curve([[1, 1, 1, 1], loss_OG[0].tolist(), loss_OG[1].tolist()])], few=False)
    assert chosen.epoch == 1  # the least mean loss of all
    assert gain == chosen.loss and 0.0 < gain.mean < 0.1  # group 0 is asked of option 1 alone


def test_the_luckiest_of_many_candidates_that_do_nothing_is_no_gain() -> None:
    rng = np.random.default_rng(0)
    lucky, honest, n = 0, 0, 200
    for _ in range(n):
        gap_OG = rng.normal(0, 0.1, (100, 20))
        best_G = gap_OG[gap_OG.mean(axis=1).argmax()]
        lucky += best_G.mean() > best_G.std(ddof=1) / np.sqrt(20)
        honest += gain_of_choice(-gap_OG, gap_OG).is_clear(1.0)
    assert lucky == n and honest < 0.3 * n  # one standard error by itself lets through one in six


def test_a_real_gain_stays_one_among_many_candidates() -> None:
    rng = np.random.default_rng(1)
    gap_OG = rng.normal(0, 0.1, (100, 20))
    gap_OG[7] += 0.2
    gain = gain_of_choice(-gap_OG, gap_OG)
    assert gain.mean == pytest.approx(gap_OG[7].mean(), rel=0.05) and gain.is_clear(3.0)


def test_a_lucky_epoch_is_not_chosen_and_costs_a_real_gain_nothing() -> None:
    rng = np.random.default_rng(2)
    gain_E = np.r_[0.0, np.linspace(0.0, 0.12, 24)]  # what training is worth, rising to its end
    found, lucky = [], []
    for _ in range(100):
        own_G, noise_EG = rng.normal(0, 0.25, 32), rng.normal(0, 0.3, (25, 32))
        loss_EG = 0.7 - gain_E[:, None] * (1.0 + own_G) + np.where(np.arange(25)[:, None] > 0, noise_EG, 0.0)
        chosen = choose_epoch([curve(loss_EG.tolist())], few=False)
        found.append(gain_E[chosen.epoch])
        lucky.append(gain_E[1 + loss_EG[1:].mean(axis=1).argmin()])
    assert np.mean(found) > np.mean(lucky) + 0.003 and np.percentile(found, 5) > np.percentile(lucky, 5)


def test_an_epoch_is_chosen_by_a_window_that_the_start_is_no_part_of() -> None:
    assert [first_of_window(epoch, 24) for epoch in (1, 7, 8, 9, 24)] == [1, 1, 1, 2, 17]
    assert [first_of_window(epoch, 4) for epoch in (1, 2, 4)] == [1, 2, 4]  # a short schedule: the epoch itself
    one = curve([[9.0], *[[float(loss)] for loss in range(12, 0, -1)]])
    assert one.chosen_by(1) == 12.0 and one.chosen_by(12) == 2.5 and one.least(few=False) == 2.5


def test_candidates_may_have_schedules_of_other_lengths() -> None:
    short = curve([[1.0, 1.0], [0.8, 0.8]], lr=1e-3)
    long = curve([[1.0, 1.0], [0.9, 0.9], [0.7, 0.7], [0.75, 0.75]], lr=2e-3)
    found = choose_epoch([short, long], few=False)
    assert (found.curve, found.epoch) == (long, 2)
    last = choose_epoch([short, long], few=True)
    assert (last.curve, last.epoch) == (long, 3)
    same = choose_epoch([short, curve([[1.0, 1.0], [0.8, 0.8]], lr=2e-3)], few=False)
    assert same.curve is short and same.curve.rate == 1e-3


def test_losses_are_means_over_groups_at_the_best_temperature() -> None:
    y_n, group_n = np.array([0, 1, 1, 0]), np.array([0, 0, 0, 1])
    judge = TuningJudge(y_n, group_n, 2)
    logit_nK = np.array([[0.0, -1.0], [0.0, 2.0], [0.0, -0.5], [0.0, 0.5]])
    loss_G = judge.losses(logit_nK)
    np.testing.assert_allclose(judge.losses(7.0 * logit_nK), loss_G, atol=5e-3)  # a network that shouts loses nothing
    assert loss_G.shape == (2,) and judge.mean(logit_nK) == loss_G.mean()


@pytest.mark.parametrize(("loss", "rank", "tuned"), [
    ((0.2, 0.1), (0.1, 0.2), True),  # the loss alone is clear
    ((0.1, 0.2), (0.2, 0.1), True),  # the ranking alone is
    ((0.1, 0.2), (0.1, 0.2), False),
    ((0.2, 0.1), (-0.1, 0.2), True),  # the other is worse, but not clearly
    ((0.2, 0.1), (-0.2, 0.1), False),
    ((-0.2, 0.1), (0.2, 0.1), False),
    ((0.2, 0.1), (np.nan, np.nan), True),  # no two groups to compare: the loss decides
    ((0.1, 0.2), (np.nan, np.nan), False),
    ((0.0, 0.0), (0.0, 0.0), False),
])  # fmt: skip
def test_loss_or_ranking_beats_the_probe_where_the_other_is_not_clearly_worse(
    loss: tuple[float, float], rank: tuple[float, float], tuned: bool
) -> None:
    assert Chosen(curve([[1.0]]), 0, Gain(*loss), Gain(*rank)).beats_probe(1.0) == tuned


@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_group_adds_to_the_ranking_what_leaving_it_out_takes(n_classes: int) -> None:
    rng = np.random.default_rng(3)
    group_n = np.sort(rng.permutation(np.repeat(np.arange(18), 4))[:60])
    fold_of_G = np.arange(18) // 6
    y_n = np.where(rng.random(60) < 0.8, group_n % n_classes, rng.integers(0, n_classes, 60))
    logit_nK = rng.normal(0, 1, (60, n_classes)) + np.eye(n_classes)[y_n]
    judge = TuningJudge(y_n, group_n, 18)
    found_G = judge.rankings(logit_nK, np.bincount(fold_of_G[group_n]).tolist())

    def share(kept_n: np.ndarray) -> float:  # every pair of tiles of one part, every group alike
        values = []
        for label in [1] if n_classes == 2 else range(n_classes):
            score_n = logit_nK[:, 1] - logit_nK[:, 0] if n_classes == 2 else logit_nK[:, label]
            won = every = 0.0
            for i in np.flatnonzero(kept_n & (y_n == label)):
                for j in np.flatnonzero(kept_n & (y_n != label)):
                    if fold_of_G[group_n[i]] == fold_of_G[group_n[j]]:
                        weight = 1.0 / ((group_n == group_n[i]).sum() * (group_n == group_n[j]).sum())
                        won, every = won + weight * (score_n[i] > score_n[j]), every + weight
            values.append(won / every)
        return float(np.mean(values))

    whole = share(np.ones(60, dtype=bool))
    wanted_G = [18 * whole - 17 * share(group_n != group) for group in range(18)]
    np.testing.assert_allclose(found_G, wanted_G, atol=1e-9)


def test_the_ranking_of_groups_of_one_size_is_the_auroc_and_of_single_groups_unknown() -> None:
    rng = np.random.default_rng(4)
    y_n, group_n, logit_nK = np.tile([0, 0, 1, 1], 10), np.repeat(np.arange(20), 2), rng.normal(0, 1, (40, 2))
    judge = TuningJudge(y_n, group_n, 20)
    assert judge.rankings(logit_nK, [20, 20]).mean() == pytest.approx(
        auroc(y_n, logit_nK, np.repeat([0, 1], 20)), abs=0.02
    )
    alone = TuningJudge(y_n[:8], group_n[:8], 4)
    assert np.isnan(alone.rankings(logit_nK[:8], [2, 2, 2, 2])).all()  # every part holds one class
    two = TuningJudge(y_n[:4], group_n[:4], 2)
    assert np.isnan(two.rankings(logit_nK[:4], [4])).all()  # without either group no pair is left


def test_a_hold_out_is_calibrated_over_folds_of_its_own_groups() -> None:
    group_n = np.repeat(np.arange(12), 2)
    judge = TuningJudge(np.tile([0, 1], 12), group_n, 12)
    found = judge.crossfitted(np.zeros((24, 2)), [24])
    np.testing.assert_array_equal(found.fold_n, group_n % 5)
    np.testing.assert_array_equal(judge.crossfitted(np.zeros((24, 2)), [10, 14]).fold_n, [0] * 10 + [1] * 14)
    assert tuned_threshold(found, Calibration()).rule == "balanced-accuracy"
    three = judge.crossfitted(np.zeros((24, 3)), [24])
    assert tuned_threshold(three, Calibration()).reason == "several classes: the most probable one"
