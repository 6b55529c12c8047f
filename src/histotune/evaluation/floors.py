"""Floors: what a score is worth without the backbone, without training, without anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from histotune.evaluation.findings import UNTUNED, ScoredArm, domain_order
from histotune.evaluation.predict import ScoredRows, build_predictions, domains_of
from histotune.heads.head import untuned_logits
from histotune.statistics.metrics import auroc, balanced_accuracy
from histotune.statistics.predictions import Interval, Score

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histotune.evaluation.predict import Material
    from histotune.statistics.predictions import Predictions


def majority_predictions(
    material: Material, rows: NDArray[np.int64], train_labels: list[NDArray[np.int64]], like: Predictions
) -> Predictions:
    """Predict the training set's class frequencies for every tile.

    Args:
        material: The scored tiles.
        rows: Row numbers to score.
        train_labels: Labels of the training tiles of each fold, indexed by fold number.
        like: Predictions of the probe on the same rows; gives folds, seed and split hash.

    Returns:
        Constant predictions within each fold.
    """
    n_classes = len(material.tiles.class_names)
    frequency_FK = np.stack([_frequencies(labels, n_classes) for labels in train_labels])
    fold_by_tile = dict(zip(like.table["tile_id"], like.table["fold"], strict=True))
    fold_N = np.array([fold_by_tile[tile_id] for tile_id in material.tiles.take(rows).tile_ids], dtype=np.int64)
    probability_NK = frequency_FK[fold_N]
    logit_NK = np.log(probability_NK)
    scored = ScoredRows(
        rows,
        logit_NK - logit_NK[:, :1],
        probability_NK,
        ["majority"] * len(rows),
        fold_N,
        int(like.table["seed"][0]),
        str(like.table["split_hash"][0]),
    )
    return build_predictions(material, scored)


def untuned_arms(
    material: Material, rows: NDArray[np.int64], n_draws: int, seed: int, marks: tuple[str, ...]
) -> tuple[ScoredArm, ...]:
    """Score heads that were never trained: a distribution over random draws, per domain.

    Args:
        material: The tiles.
        rows: Row numbers to score.
        n_draws: Random heads.
        seed: Seed of the draws.
        marks: Marks of the data set.

    Returns:
        A row per domain: the median over draws, with the central 95 % of draws in the interval's place.
    """
    part = material.take(rows)
    columns = part.embeddings.columns(part.default_pooling)
    n_classes = len(part.tiles.class_names)
    logit_MNK = untuned_logits(part.embeddings, columns, n_classes, n_draws, seed, np.arange(len(rows)))
    domains = np.array(domains_of(part.tiles))
    arms = []
    for domain in sorted(set(domains.tolist()), key=domain_order):
        inside_N = domains == domain
        scores = _draw_scores(part.tiles.take(np.flatnonzero(inside_N)).labels_N, logit_MNK[:, inside_N])
        n_groups = part.tiles.take(np.flatnonzero(inside_N)).n_groups
        mpp = part.input_mpp_N[inside_N]
        arms.append(
            ScoredArm(
                UNTUNED,
                domain,
                f"nothing: {n_draws} random heads",
                float(np.round(np.nanmedian(mpp), 4)) if np.isfinite(mpp).any() else float("nan"),
                tuple(_over_draws(name, values, int(inside_N.sum()), n_groups) for name, values in scores),
                marks,
            )
        )
    return tuple(arms)


def _draw_scores(y_N: NDArray[np.int64], logit_MNK: NDArray[np.float64]) -> list[tuple[str, NDArray[np.float64]]]:
    """AUROC and balanced accuracy of every draw."""
    n_classes = logit_MNK.shape[2]
    predicted_MN = logit_MNK.argmax(axis=2)
    rank_values = []
    for logit_NK in logit_MNK:
        scores = logit_NK - logit_NK[:, :1] if n_classes == 2 else logit_NK
        rank_values.append(auroc(y_N, scores))
    balanced = [balanced_accuracy(y_N, predicted_N, n_classes) for predicted_N in predicted_MN]
    return [("auroc", np.array(rank_values)), ("balanced_accuracy", np.array(balanced))]


def _over_draws(name: str, values: NDArray[np.float64], n_tiles: int, n_groups: int) -> Score:
    method = f"central 95 % of {len(values)} random heads, not a confidence interval"
    if not np.isfinite(values).all():
        return Score(name, float("nan"), None, n_tiles, n_groups, reason="one class only")
    low, high = np.quantile(values, [0.025, 0.975])
    return Score(name, float(np.median(values)), Interval(float(low), float(high), 0.95, method), n_tiles, n_groups)


def _frequencies(labels: NDArray[np.int64], n_classes: int) -> NDArray[np.float64]:
    counts = np.maximum(np.bincount(labels[labels >= 0], minlength=n_classes), 1e-6)
    return np.asarray(counts / counts.sum(), dtype=np.float64)
