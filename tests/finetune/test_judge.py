"""A choice is asked of groups that had no part in it; losses are at the temperature that suits them."""

# G tuning groups, O options, E epochs

from __future__ import annotations

import numpy as np
import pytest

from histotune.finetune.config import FinetuneConfig, TrialSettings
from histotune.finetune.judge import TuningCurve, TuningJudge, choose_epoch, gain_of_choice, tuned_threshold
from histotune.heads.head import Calibration

OWN = TrialSettings.of(FinetuneConfig())


def curve(loss_EG: list[list[float]], lr: float = 1e-3) -> TuningCurve:
    return TuningCurve(OWN.model_copy(update={"lr": lr}), np.array(loss_EG), np.zeros((len(loss_EG), 2, 2)))


def test_one_option_gains_what_its_groups_gain() -> None:
    probe_G, loss_G = np.array([0.5, 0.7, 0.6]), np.array([0.4, 0.4, 0.6])
    gain, error = gain_of_choice(loss_G[None], probe_G)
    assert gain == pytest.approx((0.1 + 0.3 + 0.0) / 3)
    assert error == pytest.approx(np.std([0.1, 0.3, 0.0], ddof=1) / np.sqrt(3))
    assert gain_of_choice(loss_G[None, :1], probe_G[:1])[1] == np.inf


def test_groups_are_asked_of_what_others_choose() -> None:
    # option 0 wins by group 0 alone: wherever that group chooses, the others gain nothing
    loss_OG = np.array([[-9.0, 1.0, 1.0, 1.0], [0.9, 0.9, 0.9, 0.9]])
    gain, _ = gain_of_choice(loss_OG, np.ones(4))
    chosen = choose_epoch([curve([[1, 1, 1, 1], loss_OG[0].tolist(), loss_OG[1].tolist()])], few=False)
    assert chosen.epoch == 1  # the least mean loss of all
    assert gain == chosen.gain and 0.0 < gain < 0.1  # group 0 is asked of option 1 alone


def test_the_luckiest_of_many_candidates_that_do_nothing_is_no_gain() -> None:
    rng = np.random.default_rng(0)
    lucky, honest, n = 0, 0, 200
    for _ in range(n):
        gap_OG = rng.normal(0, 0.1, (100, 20))
        best_G = gap_OG[gap_OG.mean(axis=1).argmax()]
        lucky += best_G.mean() > best_G.std(ddof=1) / np.sqrt(20)
        gain, error = gain_of_choice(-gap_OG, np.zeros(20))
        honest += gain > error
    assert lucky == n and honest < 0.3 * n  # one standard error by itself lets through one in six


def test_a_real_gain_stays_one_among_many_candidates() -> None:
    rng = np.random.default_rng(1)
    gap_OG = rng.normal(0, 0.1, (100, 20))
    gap_OG[7] += 0.2
    gain, error = gain_of_choice(-gap_OG, np.zeros(20))
    assert gain == pytest.approx(gap_OG[7].mean(), rel=0.05) and gain > 3 * error


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


def test_a_hold_out_is_calibrated_over_folds_of_its_own_groups() -> None:
    group_n = np.repeat(np.arange(12), 2)
    judge = TuningJudge(np.tile([0, 1], 12), group_n, 12)
    found = judge.crossfitted(np.zeros((24, 2)), [24])
    np.testing.assert_array_equal(found.fold_n, group_n % 5)
    np.testing.assert_array_equal(judge.crossfitted(np.zeros((24, 2)), [10, 14]).fold_n, [0] * 10 + [1] * 14)
    assert tuned_threshold(found, Calibration()).rule == "balanced-accuracy"
    three = judge.crossfitted(np.zeros((24, 3)), [24])
    assert tuned_threshold(three, Calibration()).reason == "several classes: the most probable one"
