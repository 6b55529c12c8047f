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
from histotune.heads.label_efficiency import nested_orders
from histotune.statistics.comparison import KNOWN_OF_CONSTANT, compare_arms
from histotune.statistics.metrics import auroc, balanced_accuracy
from histotune.statistics.predictions import ComparisonConfig, Interval, Score
from histotune.statistics.sample import class_signatures
from histotune.tools.devices import SMALL_ROWS, map_small
from histotune.tools.marks import NULL_GROUPED, NULL_RANDOM, RANDOM_SEEDS, UNTUNED

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


KNOWN = (
    "the known value of a head that tells no two tiles apart; what its folds measure differs from it by chance alone"
)


def with_known_values(row: ScoredArm) -> ScoredArm:
    """Give a floor that says the same of every tile its known values where it has them.

    Over folds the majority may change, and a balanced accuracy below chance says nothing but that: it would flatter
    every difference to it.
    """
    known = {score.name: score.chance for score in row.scores if score.name in KNOWN_OF_CONSTANT}
    scores = tuple(
        replace(score, value=known[score.name], interval=None, reason=KNOWN) if score.name in known else score
        for score in row.scores
    )
    return replace(row, scores=scores)


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
    # A draw counts where both arms could be fitted, so that they are compared over the same permutations.
    both = [pair for pair in zip(found[::2], found[1::2], strict=True) if pair[0] is not None and pair[1] is not None]
    if not both:
        return ()
    return tuple(
        _row(name, arm, [values for values in arm_values if values is not None])
        for name, arm, arm_values in zip((NULL_GROUPED, NULL_RANDOM), like, zip(*both, strict=True), strict=True)
    )


def _relabelled(material: Material, rng: np.random.Generator) -> Material:
    labels_N = permuted_labels(material.tiles, rng)
    label = pl.Series("label", labels_N, material.tiles.table.schema["label"])
    table = material.tiles.table.with_columns(pl.when(label >= 0).then(label).otherwise("label").alias("label"))
    return replace(material, tiles=replace(material.tiles, table=table))


def _row(name: str, arm: ScoredArm, values: list[tuple[float, ...]]) -> ScoredArm:
    words = f"mean and range of {len(values)} permutations, not a confidence interval"
    scores = _mean_and_range(arm, values, words)
    return replace(arm, arm=name, trained_on="the same tiles, labels permuted among groups", scores=scores)


def _mean_and_range(like: ScoredArm, values: list[tuple[float, ...]], words: str) -> tuple[Score, ...]:
    return tuple(
        spread_score(metric, like, (float(one_R.min()), float(one_R.mean()), float(one_R.max())), words)
        for metric, one_R in zip(METRICS, np.array(values).T, strict=True)
    )


# ------------------------------------------------------------------------------
# Random weights drawn again: how much of a floor is the luck of one draw.


N_TWINS = 2
"""Further draws of the weights."""
MOST_TWIN_TILES = 1000


def twin_rows(tiles: TileSet, train_magnification: str | None, seed: int) -> NDArray[np.int64]:
    """Return the tiles on which further draws of random weights are tried: at most 1,000, drawn by group.

    Whole groups are taken, those that hold the same classes in proportion; where these are too large for ten of them
    to fit, as many tiles of each group as there is room for.
    """
    wanted_N = tiles.labels_N >= 0
    if train_magnification is not None:
        wanted_N &= (tiles.table["magnification"] == train_magnification).fill_null(value=False).to_numpy()
    rows = np.flatnonzero(wanted_N)
    rows = rows[np.argsort(np.array(tiles.tile_ids)[rows])]
    if len(rows) <= MOST_TWIN_TILES:
        return np.sort(rows)
    names = np.array(tile_groups(tiles))[rows]
    distinct, group_n = np.unique(names, return_inverse=True)
    holds_GK = class_signatures(tiles.labels_N[rows], group_n, len(distinct), len(tiles.class_names))
    order_G = nested_orders(holds_GK, 1, np.random.Generator(np.random.PCG64(seed)))[0]
    size_G = np.bincount(group_n)
    kept = order_G[np.cumsum(size_G[order_G]) <= MOST_TWIN_TILES]
    if len(kept) >= min(LEAST_TWIN_GROUPS, len(distinct)):
        return np.sort(rows[np.isin(group_n, kept)])
    room = max(1, MOST_TWIN_TILES // len(distinct))
    place_n = np.concatenate([np.arange(size) for size in size_G])[np.argsort(np.argsort(group_n, kind="stable"))]
    return np.sort(rows[place_n < room][:MOST_TWIN_TILES])


LEAST_TWIN_GROUPS = 10


def twins_arm(
    like: ScoredArm, materials: Sequence[Material], plan: CrossFitPlan, how: tuple[SweepConfig, SweepSupport]
) -> ScoredArm | None:
    """Return the mean and range over draws of random weights, each with its own tuned probe; None where one failed.

    Args:
        like: The row of the first draw.
        materials: The tiles as each draw sees them: the first draw's as a whole, and the others' few tiles.
        plan: Who trains and who is scored, of all tiles.
        how: The sweep, and solved fits.
    """
    whole, *twins = materials
    place = {tile_id: row for row, tile_id in enumerate(whole.tiles.tile_ids)}
    rows = np.array([place[tile_id] for tile_id in twins[0].tiles.tile_ids if tile_id in place], np.int64)
    part = replace(plan, train_N=plan.train_N[rows], fold_N=plan.fold_N[rows])
    domain = pl.col("domain") == like.domain
    draws = [whole.take(rows), *twins]
    found = [plain_scores(one, part, how, domain, METRICS) for one in draws if len(one.tiles) == len(rows)]
    values = [one for one in found if one is not None and np.isfinite(one).all()]
    if len(values) < len(draws):
        return None
    words = f"mean and range of {len(values)} draws of random weights on the same tiles, not a confidence interval"
    scored = whole.take(rows[part.fold_N >= 0]).tiles
    scores = tuple(
        replace(score, n_tiles=len(scored), n_groups=scored.n_groups) for score in _mean_and_range(like, values, words)
    )
    return replace(like, arm=RANDOM_SEEDS, trained_on=f"{len(rows):,} tiles, {like.trained_on}", scores=scores)


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
