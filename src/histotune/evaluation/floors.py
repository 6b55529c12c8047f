"""Floors: what a score is worth without the backbone, without training, without anything."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from histotune.datasets.splits.split import tile_groups
from histotune.evaluation.crossfit import plain_scores, spread_score
from histotune.evaluation.findings import PairedDifference, ScoredArm, domain_order
from histotune.evaluation.material import ScoredRows, build_predictions, domains_of
from histotune.heads.head import untuned_logits
from histotune.statistics.comparison import compare_arms
from histotune.statistics.metrics import auroc, balanced_accuracy
from histotune.statistics.predictions import ComparisonConfig, Interval, Score
from histotune.tools.devices import SMALL_ROWS, map_small
from histotune.tools.marks import NULL_GROUPED, NULL_RANDOM, UNTUNED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from histotune.datasets.tileset import TileSet
    from histotune.evaluation.config import EvaluationConfig
    from histotune.evaluation.material import Material
    from histotune.evaluation.plan import CrossFitPlan
    from histotune.heads.config import SweepConfig
    from histotune.heads.family import SweepSupport
    from histotune.statistics.metrics import MetricName
    from histotune.statistics.predictions import IntervalConfig, Predictions


def majority_predictions(
    material: Material, rows: NDArray[np.int64], train_labels: list[NDArray[np.int64]], like: Predictions
) -> Predictions:
    """Predict the training set's class frequencies for every tile."""
    n_classes = len(material.tiles.class_names)
    # a tile of fold f gets the class frequencies p_fK of the tiles that trained there, and logit_K = log(p_K / p_0)
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
    """Score heads that were never trained: a distribution over random draws, per domain."""
    part = material.take(rows)
    columns = part.embeddings.columns(part.default_pooling)
    n_classes = len(part.tiles.class_names)
    # M heads with random weights on all tiles at once; each domain then reads its own columns
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
    rank_values = [auroc(y_N, one - one[:, :1] if n_classes == 2 else one) for one in logit_MNK]
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


# ------------------------------------------------------------------------------
# The null control of the leak's price: labels permuted among groups, so that nothing but the group can be learned.
#
# N tiles, K classes, M draws


METRICS: tuple[MetricName, ...] = ("auroc", "balanced_accuracy")


@dataclass(frozen=True)
class NullPlan:
    """The two arms of the leak's price, to be repeated with permuted labels.

    Attributes:
        grouped: Folds of groups.
        leaky: Folds of single images.
        sweep: The same sweep.
        n_draws: Permutations.
        seed: Seed of the permutations.
        support: Solved fits to read and add to.
    """

    grouped: CrossFitPlan
    leaky: CrossFitPlan
    sweep: SweepConfig
    n_draws: int
    seed: int
    support: SweepSupport


def permuted_labels(tiles: TileSet, rng: np.random.Generator) -> NDArray[np.int64]:
    """Give every group the class shares of another group.

    A group of one class gets the class of another; in a group of several, which of its tiles get which class is drawn.
    """
    labels_N, groups, ids = tiles.labels_N, np.array(tile_groups(tiles)), tiles.tile_ids
    rows_of: dict[str, list[int]] = {}
    for row in sorted(np.flatnonzero(labels_N >= 0).tolist(), key=lambda row: ids[row]):
        rows_of.setdefault(groups[row], []).append(row)
    names = sorted(rows_of)
    given = [names[number] for number in rng.permutation(len(names))]
    drawn_N = labels_N.copy()
    for name, other in zip(names, given, strict=True):
        source = labels_N[rows_of[other]]
        n = len(rows_of[name])
        # quantiles of the other group's labels keep its shares at this group's size
        spread = np.sort(source)[((np.arange(n) + 0.5) * len(source) / n).astype(np.int64)]
        drawn_N[rows_of[name]] = rng.permutation(spread)
    return drawn_N


def null_arms(material: Material, plan: NullPlan, like: tuple[ScoredArm, ScoredArm]) -> tuple[ScoredArm, ...]:
    """Repeat both arms with permuted labels."""
    domain = pl.col("tile_id").is_in(np.array(material.tiles.tile_ids)[plan.leaky.fold_N >= 0].tolist())
    jobs = [
        (_relabelled(material, np.random.Generator(np.random.PCG64([plan.seed, draw]))), fit)
        for draw in range(plan.n_draws)
        for fit in (plan.grouped, plan.leaky)
    ]
    small = int(plan.grouped.train_N.sum()) <= SMALL_ROWS
    how = (plan.sweep, plan.support)
    found = map_small(lambda job: plain_scores(*job, how, domain, METRICS), jobs, small)
    kept = [[values for values in found[place::2] if values is not None] for place in (0, 1)]
    return tuple(
        _row(name, arm, values)
        for name, arm, values in zip((NULL_GROUPED, NULL_RANDOM), like, kept, strict=True)
        if values
    )


def _relabelled(material: Material, rng: np.random.Generator) -> Material:
    labels_N = permuted_labels(material.tiles, rng)
    label = pl.Series("label", labels_N, material.tiles.table.schema["label"])
    table = material.tiles.table.with_columns(pl.when(label >= 0).then(label).otherwise("label").alias("label"))
    return replace(material, tiles=replace(material.tiles, table=table))


def _row(name: str, arm: ScoredArm, values: list[tuple[float, ...]]) -> ScoredArm:
    words = f"range of {len(values)} permutations, not a confidence interval"
    scores = tuple(
        spread_score(metric, arm, (float(one_R.min()), float(np.median(one_R)), float(one_R.max())), words)
        for metric, one_R in zip(METRICS, np.array(values).T, strict=True)
    )
    return replace(arm, arm=name, trained_on="the same tiles, labels permuted among groups", scores=scores)


# ------------------------------------------------------------------------------
# The probe less each floor on the same tiles and groups: a family declared before anything is scored.


def compare_first(
    scored: Sequence[tuple[str, Predictions]],
    domains: Sequence[str],
    evaluation: EvaluationConfig,
    interval: IntervalConfig,
) -> tuple[PairedDifference, ...]:
    """Compare the first arm with every other, domain by domain."""
    if not evaluation.permutations or len(scored) < 2:
        return ()
    first, within_folds = scored[0][0], scored[0][1].table["fold"].n_unique() > 1
    out: list[PairedDifference] = []
    for domain in domains:
        arms = {arm: predictions.where(pl.col("domain") == domain) for arm, predictions in scored}
        config = ComparisonConfig(
            family=tuple((first, arm) for arm in list(arms)[1:]),
            n_permutations=evaluation.permutations,
            seed=evaluation.seed,
        )
        for metric in METRICS:
            found = compare_arms(arms, metric, config, interval, within_folds=within_folds)
            out += [PairedDifference(domain, one.second, one.difference, one.in_words()) for one in found]
    return tuple(out)
