"""Choose a trial by its out-of-fold loss, every group weighing the same, or by its ranking."""

# n tiles of one training set, K classes, T trials, G groups

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from histotune.heads.head import Selection, TrialRecord
from histotune.heads.solver.logistic import loss_terms
from histotune.statistics.metrics import auroc
from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from histotune.heads.config import SelectionRule
    from histotune.heads.family import OutOfFold, TrainingSet, Trial

    Float = NDArray[np.float64]
    Int = NDArray[np.int64]


@dataclass(frozen=True)
class TrialScores:
    """What selection knows about the trials of one training set.

    Attributes:
        loss_TG: Mean out-of-fold log-loss of each group, nats; NaN where a trial diverged.
        log_loss_T: Mean over groups: the criterion.
        log_loss_se_T: Its standard error over groups; NaN with one group.
        usable_T: Which trials may be chosen.
        auroc_T: AUROC within inner folds, where the rule asks for it; NaN outside binary tasks.
    """

    loss_TG: Float
    log_loss_T: Float
    log_loss_se_T: Float
    usable_T: NDArray[np.bool_]
    auroc_T: Float | None = None

    @property
    def ranks(self) -> bool:
        """Whether trials are chosen by their AUROC: it is known for all that may be chosen."""
        return self.auroc_T is not None and bool(np.isfinite(self.auroc_T[self.usable_T]).all())


def score_trials(found: OutOfFold, y_n: Int, part: TrainingSet, rule: SelectionRule = "best") -> TrialScores:
    """Return the group-balanced out-of-fold log-loss of every trial, and its AUROC where the rule goes by it."""
    # Loss of a trial: the mean over groups of each group's mean; its error: SD over groups / sqrt(G).
    loss_Tn = tile_losses(found.logit_TnK, y_n)
    loss_TG = loss_Tn @ group_means(part.group_n, part.n_groups)
    loss_T = loss_TG.mean(axis=1)
    spread_T = loss_TG.std(axis=1, ddof=1) if part.n_groups > 1 else np.full(len(loss_TG), np.nan)
    usable_T = ~found.diverged_T & np.isfinite(loss_T)
    auroc_T = ranking_scores(found, y_n, part) if rule == "auroc" else None
    return TrialScores(loss_TG, loss_T, spread_T / np.sqrt(part.n_groups), usable_T, auroc_T)


def tile_losses(logit_TnK: Float, y_n: Int) -> Float:
    """Return the log-loss of every trial and tile (T, n), nats."""
    z_TKn = logit_TnK.transpose(0, 2, 1)
    if z_TKn.shape[1] == 2:
        z_TKn = z_TKn[:, 1:] - z_TKn[:, :1]
    return loss_terms(z_TKn, np.broadcast_to(y_n, (len(logit_TnK), len(y_n))))


def group_means(group_n: Int, n_groups: int) -> Float:
    """Return the matrix (n, G) that takes values per tile to their mean per group."""
    of_group_nG = np.zeros((len(group_n), n_groups))
    of_group_nG[np.arange(len(group_n)), group_n] = 1.0
    return np.asarray(of_group_nG / of_group_nG.sum(axis=0))


def left_out_means(value_G: Float) -> Float:
    """Return the mean over groups without each of them: (sum - own) / (G - 1)."""
    return np.asarray((value_G.sum() - value_G) / max(len(value_G) - 1, 1))


def ranking_scores(found: OutOfFold, y_n: Int, part: TrainingSet) -> Float:
    """Return each trial's AUROC within inner folds (T,); NaN outside binary tasks and where a trial diverged."""
    if found.logit_TnK.shape[2] != 2:
        return np.full(len(found.logit_TnK), np.nan)
    return np.array(
        [auroc(y_n, logit_nK, part.fold_n) if np.isfinite(logit_nK).all() else np.nan for logit_nK in found.logit_TnK]
    )


def choose_trial(scores: TrialScores, trials: Sequence[Trial], rule: SelectionRule) -> int:
    """Return the trial that a rule chooses."""
    usable = [t for t, usable in enumerate(scores.usable_T) if usable]
    if not usable:
        raise UserError(
            "every trial diverged, so there is no head to choose",
            value=f"{len(trials)} trials",
            fix="try smaller learning rates or stronger penalties, and check the embeddings' scale",
        )
    if scores.auroc_T is not None and scores.ranks:
        ranking_T = -scores.auroc_T
        return min(usable, key=lambda t: (float(ranking_T[t]), float(scores.log_loss_T[t]), -trials[t].strength, t))
    best = min(usable, key=lambda t: (float(scores.log_loss_T[t]), -trials[t].strength, t))
    if rule != "one-se":
        return best
    difference_T, se_T = paired_differences(scores.loss_TG, best)
    rivals = [t for t in usable if _kin(trials[t], trials[best]) and (t == best or difference_T[t] <= se_T[t])]
    return min(rivals, key=lambda t: (-trials[t].strength, float(scores.log_loss_T[t]), t))


def paired_differences(loss_TG: Float, best: int, count_G: Float | None = None) -> tuple[Float, Float]:
    """Return each trial's mean loss above the best one's, paired by group, and its standard error."""
    # d_g = loss of the trial less that of the best in group g: mean d, and sqrt(sum (d_g - mean)^2 / (n - 1) / n).
    count_G = np.ones(loss_TG.shape[1]) if count_G is None else count_G
    n = count_G.sum()
    gap_TG = loss_TG - loss_TG[best]
    mean_T = gap_TG @ count_G / n
    if n < 2:
        return mean_T, np.full(len(loss_TG), np.nan)
    return mean_T, np.sqrt((gap_TG - mean_T[:, None]) ** 2 @ count_G / (n - 1) / n)


def _kin(one: Trial, other: Trial) -> bool:
    return one.pooling == other.pooling and one.class_weight == other.class_weight


def describe_selection(
    scores: TrialScores, trials: Sequence[Trial], choice: int, rule: SelectionRule, n_runners_up: int = 5
) -> Selection:
    """Return the record of a choice with its runners-up, the next best by loss."""
    usable = np.flatnonzero(scores.usable_T)
    best = int(usable[np.argmin(scores.log_loss_T[usable])])
    difference_T, se_T = paired_differences(scores.loss_TG, best)
    told = _differing(trials)

    def record(t: int) -> TrialRecord:
        """Return what is told of one trial."""
        return TrialRecord(
            pooling=trials[t].pooling,
            class_weight=trials[t].class_weight,
            settings=told[t],
            log_loss=float(scores.log_loss_T[t]),
            standard_error=_finite(scores.log_loss_se_T[t]),
            difference=float(difference_T[t]),
            difference_se=_finite(se_T[t]),
        )

    others = sorted((int(t) for t in usable if t != choice), key=lambda t: (float(scores.log_loss_T[t]), t))
    return Selection(
        criterion="out-of-fold AUROC within folds" if scores.ranks else "group-balanced out-of-fold log-loss",
        rule=rule,
        honesty="none",
        n_trials=len(trials),
        n_diverged=int((~scores.usable_T).sum()),
        chosen=record(choice),
        runners_up=tuple(record(t) for t in others[:n_runners_up]),
    )


def _differing(trials: Sequence[Trial]) -> list[str]:
    """Return each trial's settings in words, those that all trials share left out; all of them for a single trial."""
    settings = [trial.settings() for trial in trials]
    names = [name for name in settings[0] if len(trials) == 1 or len({one[name] for one in settings}) > 1]
    return [
        ", ".join(f"{name} {one[name]:g}" if isinstance(one[name], float) else f"{name} {one[name]}" for name in names)
        for one in settings
    ]


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
