"""What tuning groups say of logits: loss and ranking per group, whether an epoch beats the probe, calibration."""

# n tiles of the tuning groups, K classes, G tuning groups, E epochs scored (the start is 0), O options to choose from,
# B random halves of the groups

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from histotune.datasets.splits.split import tile_groups
from histotune.heads.calibrate import BinaryTiles, CrossFitted, choose_threshold, fit_temperatures
from histotune.heads.head import Decision, calibrated_logits, softmax
from histotune.heads.select import group_means, tile_losses
from histotune.statistics.evaluators import win_matrix
from histotune.statistics.metrics import ranking_tasks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from histotune.datasets.tileset import TileSet
    from histotune.finetune.config import TrialSettings
    from histotune.heads.head import Calibration

    Float = NDArray[np.float64]
    Int = NDArray[np.int64]


CALIBRATION_FOLDS = 5
N_HALVES = 200
EPOCHS_PER_WINDOW = 3
"""An epoch is chosen by the mean loss of the epochs up to it, one in this many of the schedule's."""


@dataclass(frozen=True)
class TuningCurve:
    """What tuning groups say of one candidate.

    Attributes:
        settings: The candidate.
        loss_EG: Log-loss of each tuning group after every epoch, at the temperature that suits the epoch; row 0 is
            the probe.
        rank_EG: What each tuning group adds to the AUROC, as pseudo-values; NaN where no two groups can be compared.
        logit_EnK: Logits of the tuning tiles.
    """

    settings: TrialSettings
    loss_EG: Float
    rank_EG: Float
    logit_EnK: Float

    @property
    def rate(self) -> float:
        """The learning rate of the backbone."""
        return self.settings.lr

    def epochs(self, *, few: bool) -> range:
        """Return the epochs that may be chosen: the last alone where too few groups judge to tell a best one."""
        last = len(self.loss_EG) - 1
        return range(last, last + 1) if few else range(1, last + 1)

    def chosen_by(self, epoch: int) -> Float:
        """Return each group's loss that an epoch is chosen by: the mean of a few epochs up to it."""
        return np.asarray(self.loss_EG[first_of_window(epoch, len(self.loss_EG) - 1) : epoch + 1].mean(axis=0))

    def least(self, *, few: bool) -> float:
        """Return the least of the mean losses that its epochs are chosen by."""
        return min(float(self.chosen_by(epoch).mean()) for epoch in self.epochs(few=few))


def first_of_window(epoch: int, n_epochs: int) -> int:
    """Return the first of the epochs whose mean loss an epoch is chosen by; the start, 0, is none of them."""
    return max(1, epoch + 1 - max(1, round(n_epochs / EPOCHS_PER_WINDOW)))


@dataclass(frozen=True)
class Gain:
    """By how much a choice is better than the probe, where groups are asked of choices without them.

    Attributes:
        mean: Mean over groups.
        error: Its standard error.
    """

    mean: float
    error: float

    def is_clear(self, standard_errors: float) -> bool:
        """Return whether it lies above 0 by more than some standard errors."""
        return self.mean > standard_errors * self.error

    def is_clear_loss(self, standard_errors: float) -> bool:
        """Return whether it lies below 0 by more than some standard errors."""
        return -self.mean > standard_errors * self.error


@dataclass(frozen=True)
class Chosen:
    """A candidate at one of its epochs.

    Attributes:
        curve: The candidate.
        epoch: The epoch.
        loss: By how much the loss lies below the probe's, nats.
        rank: By how much the AUROC lies above the probe's; NaN where no two groups can be compared.
    """

    curve: TuningCurve
    epoch: int
    loss: Gain
    rank: Gain

    def beats_probe(self, standard_errors: float) -> bool:
        """Return whether loss or AUROC is better by more than some standard errors, and the other not as much worse."""
        known = [self.loss] if np.isnan(self.rank.mean) else [self.loss, self.rank]
        is_better = any(gain.is_clear(standard_errors) for gain in known)
        return is_better and not any(gain.is_clear_loss(standard_errors) for gain in known)


def choose_epoch(curves: Sequence[TuningCurve], *, few: bool) -> Chosen:
    """Choose candidate and epoch by the mean loss of the tuning groups, and say what that choice gains.

    The least of many losses is the luckiest one, too: with 30 candidates of 10 epochs that do nothing, the chosen one
    lies more than a standard error below the probe in nearly every data set. So half of the groups choose and the other
    half are asked, over and over; the mean and standard error of these gains is what counts. An epoch is chosen by the
    mean of its loss and those of a few epochs before it, which is less a matter of luck than its own.

    Args:
        curves: The candidates, the preferred one first where losses are equal.
        few: The last epochs alone can be chosen.

    Returns:
        The choice of all groups together, and its gains.
    """
    options = [(curve, epoch) for curve in curves for epoch in curve.epochs(few=few)]
    loss_OG = np.stack([curve.chosen_by(epoch) for curve, epoch in options])
    curve, epoch = options[int(np.argmin(loss_OG.mean(axis=1)))]
    less_OG = np.stack([one.loss_EG[0] - one.loss_EG[at] for one, at in options])
    higher_OG = np.stack([one.rank_EG[at] - one.rank_EG[0] for one, at in options])
    return Chosen(curve, epoch, gain_of_choice(loss_OG, less_OG), gain_of_choice(loss_OG, higher_OG))


def gain_of_choice(loss_OG: Float, gain_OG: Float) -> Gain:
    """Return what the option of least loss gains, and its standard error over groups.

    Args:
        loss_OG: Loss of every option in every group, which it is chosen by.
        gain_OG: What every option gains in every group.

    Returns:
        The mean of the groups' gains and SD / sqrt(G). A group's gain is the mean over random halves without it, each
        of which chooses the option of least loss; with one option it is that option's own.
    """
    n_groups = loss_OG.shape[1]
    rng = np.random.default_rng(0)
    chooses_BG = np.stack([rng.permutation(n_groups) < n_groups // 2 for _ in range(N_HALVES)])
    option_B = np.argmin(chooses_BG.astype(np.float64) @ loss_OG.T, axis=1)
    gain_BG = np.where(chooses_BG, 0.0, gain_OG[option_B])
    gain_G = gain_BG.sum(axis=0) / (~chooses_BG).sum(axis=0)
    error = float(gain_G.std(ddof=1) / np.sqrt(n_groups)) if n_groups > 1 else float("inf")
    return Gain(float(gain_G.mean()), error)


@dataclass(frozen=True)
class TuningJudge:
    """Tuning tiles: their labels and groups.

    Attributes:
        y_n: Label per tile.
        group_n: Number of its group.
        n_groups: Number of groups.
    """

    y_n: Int
    group_n: Int
    n_groups: int

    @classmethod
    def of(cls, tiles: TileSet, rows: Int) -> TuningJudge:
        """Return the judge that some tiles make."""
        groups = tile_groups(tiles)
        own = [groups[row] for row in rows]
        codes = {group: code for code, group in enumerate(sorted(set(own)))}
        return cls(tiles.labels_N[rows], np.array([codes[group] for group in own], np.int64), len(codes))

    def losses(self, logit_nK: Float) -> Float:
        """Return each group's log-loss (G,) at the temperature that suits all of them best.

        A network that ranks better but shouts would lose by its plain log-loss; what is returned is calibrated.
        """
        weight_n = 1.0 / (np.bincount(self.group_n, minlength=self.n_groups)[self.group_n] * self.n_groups)
        temperature = float(fit_temperatures(logit_nK, self.y_n, weight_n[None])[0])
        return np.asarray(
            tile_losses(logit_nK[None] / temperature, self.y_n)[0] @ group_means(self.group_n, self.n_groups)
        )

    def mean(self, logit_nK: Float) -> float:
        """Return the mean of the groups' losses."""
        return float(self.losses(logit_nK).mean())

    def rankings(self, logit_nK: Float, sizes: Sequence[int]) -> Float:
        """Return what each group adds to the AUROC (G,), as jackknife pseudo-values; NaN where it can't be told.

        Tiles are compared within the part that held them out, since another part's model scored the others.

        Args:
            logit_nK: The tiles' logits.
            sizes: Tiles of each part, in order.
        """
        part_n = np.repeat(np.arange(len(sizes)), sizes)
        size_G = np.bincount(self.group_n, minlength=self.n_groups)
        values = []
        for positive_n, score_n in ranking_tasks(self.y_n, logit_nK):
            found = win_matrix(positive_n, score_n, self.group_n, self.n_groups, part_n)
            wins, pairs = (_whole_and_without(one_GG / np.outer(size_G, size_G)) for one_GG in found)
            if not (pairs > 0).all():
                return np.full(self.n_groups, np.nan)
            # AUROC: wins over pairs, every group alike. Pseudo-value of group g: G A - (G - 1) A without g.
            share = wins / pairs
            values.append(self.n_groups * share[0] - (self.n_groups - 1) * share[1:])
        return np.asarray(np.mean(values, axis=0))

    def crossfitted(self, logit_nK: Float, sizes: Sequence[int]) -> CrossFitted:
        """Return the logits with the part that held each tile out.

        Args:
            logit_nK: The tiles' logits.
            sizes: Tiles of each part, in order.
        """
        fold_n = np.repeat(np.arange(len(sizes)), sizes)
        if len(sizes) == 1:  # a hold-out: its groups are dealt into folds for the calibration alone
            fold_n = self.group_n % min(CALIBRATION_FOLDS, self.n_groups)
        return CrossFitted(logit_nK, self.y_n, self.group_n, self.n_groups, fold_n)


def _whole_and_without(pair_GG: Float) -> Float:
    """Return the sum over all pairs of groups, and the sums without each group (1 + G,)."""
    total = pair_GG.sum()
    without_G = total - pair_GG.sum(axis=0) - pair_GG.sum(axis=1) + np.diagonal(pair_GG)
    return np.asarray(np.r_[total, np.where(without_G > 1e-9 * max(total, 1e-300), without_G, 0.0)])


def tuned_threshold(found: CrossFitted, calibration: Calibration) -> Decision:
    """Choose the threshold of two classes on calibrated probabilities, as for swept heads."""
    if found.logit_nK.shape[1] != 2:
        return Decision(reason="several classes: the most probable one")
    probability_n = softmax(calibrated_logits(calibration, found.logit_nK))[:, 1]
    tiles = BinaryTiles(probability_n, found.y_n == 1, found.group_n, found.n_groups)
    return choose_threshold(tiles, "balanced-accuracy", 0.95)
