"""How often simulated tuning groups return a tuned model: ``python -m benchmarks.finetune.decision``.

A probe's logits hold some of the label, effects of groups and noise. Training lets both drift, and adds what it is
worth, along a schedule. Five inner folds judge; the share of data sets whose tuned model is returned is printed for the
rule as it is, for log-loss alone, for AUROC alone, and for the single epoch of least log-loss, each by one standard
error.
"""

# n tiles, G groups, K classes, E epochs scored, the start included

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np

from histotune.finetune.config import FinetuneConfig, TrialSettings
from histotune.finetune.judge import TuningCurve, TuningJudge, choose_epoch, gain_of_choice

N_TILES, N_EPOCHS, N_FOLDS = 6, 24, 5
SETTINGS = TrialSettings.of(FinetuneConfig())


@dataclass(frozen=True)
class DecisionWorld:
    """What is simulated.

    Attributes:
        n_groups: Tuning groups, half of each class.
        skill: By how much the probe's margins of the classes differ.
        worth: By how much training widens that, in the end.
    """

    n_groups: int
    skill: float
    worth: float


def simulated_curve(world: DecisionWorld, rng: np.random.Generator) -> TuningCurve:
    """Return what simulated tuning groups say of one training."""
    n_groups = world.n_groups
    group_n = np.repeat(np.arange(n_groups), N_TILES)
    y_n = np.tile([0, 1], n_groups // 2)[rng.permutation(n_groups)][group_n]
    sign_n, n = 2.0 * y_n - 1.0, len(group_n)
    margin_n = 0.5 * world.skill * sign_n + 0.6 * rng.normal(0, 1, n_groups)[group_n] + 0.35 * rng.normal(0, 1, n)
    margins, drift_n = [margin_n], np.zeros(n)
    for epoch in range(1, N_EPOCHS + 1):
        if epoch <= 0.8 * N_EPOCHS:  # the rate of a cosine is small in the end
            drift_n = drift_n + rng.normal(0, 0.28, n_groups)[group_n] + rng.normal(0, 0.15, n)
        margins.append(margin_n + drift_n + world.worth * np.sin(0.5 * np.pi * epoch / N_EPOCHS) * sign_n)
    logit_EnK = np.stack([np.stack([np.zeros(n), one], axis=1) for one in margins])
    judge = TuningJudge(y_n, group_n, n_groups)
    sizes = np.bincount((np.arange(n_groups) * N_FOLDS // n_groups)[group_n]).tolist()
    loss_EG = np.stack([judge.losses(logit_nK) for logit_nK in logit_EnK])
    rank_EG = np.stack([judge.rankings(logit_nK, sizes) for logit_nK in logit_EnK])
    return TuningCurve(SETTINGS, loss_EG, rank_EG, logit_EnK)


def shares(world: DecisionWorld, n_repeats: int) -> dict[str, float]:
    """Return the share of data sets in which each rule returns the tuned model."""
    rng = np.random.default_rng([world.n_groups, round(10 * world.skill), round(10 * world.worth) + 100])
    counts = dict.fromkeys(("rule", "log-loss", "AUROC", "single epoch"), 0)
    for _ in range(n_repeats):
        curve = simulated_curve(world, rng)
        chosen = choose_epoch([curve], few=False)
        single = gain_of_choice(curve.loss_EG[1:], curve.loss_EG[0] - curve.loss_EG[1:])
        counts["rule"] += chosen.beats_probe(1.0)
        counts["log-loss"] += chosen.loss.is_clear(1.0)
        counts["AUROC"] += chosen.rank.is_clear(1.0)
        counts["single epoch"] += single.is_clear(1.0)
    return {name: count / n_repeats for name, count in counts.items()}


def main() -> None:
    """Print the shares in every world."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.finetune.decision", description=__doc__)
    parser.add_argument("--repeats", type=int, default=200)
    n_repeats = parser.parse_args().repeats
    for n_groups in (32, 16):
        for skill in (0.0, 1.5):
            for worth in (-0.4, 0.0, 0.5, 1.0):
                found = shares(DecisionWorld(n_groups, skill, worth), n_repeats)
                said = ", ".join(f"{name} {share:.2f}" for name, share in found.items())
                print(f"{n_groups} groups, skill {skill:g}, worth {worth:+g}: {said}", flush=True)


if __name__ == "__main__":
    main()
