"""The null control of the leak's price: labels permuted among groups, so that nothing but the group can be learned."""

# N tiles, K classes, M draws

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from histotune.datasets.splits.split import tile_groups
from histotune.evaluation.crossfit import cross_fit
from histotune.evaluation.findings import ScoredArm
from histotune.evaluation.scoring import plain_value
from histotune.statistics.predictions import Interval, Score
from histotune.tools.devices import SMALL_ROWS, map_small
from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histotune.datasets.tileset import TileSet
    from histotune.evaluation.plan import CrossFitPlan
    from histotune.evaluation.predict import Material
    from histotune.heads.config import SweepConfig
    from histotune.heads.family import SweepSupport
    from histotune.statistics.metrics import MetricName

NULL_GROUPED, NULL_RANDOM = "null control", "null control, random image split"
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

    Args:
        tiles: The data set.
        rng: Where the permutation comes from.

    Returns:
        Labels (N,), -1 where unlabelled; independent of the order of rows.
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
    """Repeat both arms with permuted labels.

    Args:
        material: Tiles and embeddings.
        plan: What to repeat.
        like: The rows of the grouped and of the random arm with the true labels: domain, scale, marks.

    Returns:
        Two rows, medians over draws with their range in the interval's place; empty where nothing could be trained.
    """
    domain = pl.col("tile_id").is_in(np.array(material.tiles.tile_ids)[plan.leaky.fold_N >= 0].tolist())
    jobs = [
        (_relabelled(material, np.random.Generator(np.random.PCG64([plan.seed, draw]))), fit)
        for draw in range(plan.n_draws)
        for fit in (plan.grouped, plan.leaky)
    ]
    small = int(plan.grouped.train_N.sum()) <= SMALL_ROWS
    found = map_small(lambda job: _scores(*job, plan, domain), jobs, small)
    return tuple(
        _row(name, arm, [values for values in found[place::2] if values is not None])
        for name, place, arm in ((NULL_GROUPED, 0, like[0]), (NULL_RANDOM, 1, like[1]))
        if any(values is not None for values in found[place::2])
    )


def _relabelled(material: Material, rng: np.random.Generator) -> Material:
    labels_N = permuted_labels(material.tiles, rng)
    label = pl.Series("label", labels_N, material.tiles.table.schema["label"])
    table = material.tiles.table.with_columns(pl.when(label >= 0).then(label).otherwise("label").alias("label"))
    return replace(material, tiles=replace(material.tiles, table=table))


def _scores(material: Material, fit: CrossFitPlan, plan: NullPlan, domain: pl.Expr) -> tuple[float, ...] | None:
    """Return the metrics of one arm; None where the permuted labels leave a fold one class."""
    try:
        predictions = cross_fit(material, fit, plan.sweep, plan.support).predictions.where(domain)
    except UserError:
        return None
    return tuple(plain_value(predictions, name) for name in METRICS)


def _row(name: str, arm: ScoredArm, values: list[tuple[float, ...]]) -> ScoredArm:
    scores = []
    for number, metric in enumerate(METRICS):
        of_metric = np.array([one[number] for one in values])
        true = arm.score(metric)
        n_tiles, n_groups = (0, 0) if true is None else (true.n_tiles, true.n_groups)
        method = f"range of {len(of_metric)} permutations, not a confidence interval"
        spread = Interval(float(of_metric.min()), float(of_metric.max()), 1.0, method)
        scores.append(Score(metric, float(np.median(of_metric)), spread, n_tiles, n_groups))
    return ScoredArm(name, arm.domain, "the same tiles, labels permuted among groups", arm.input_mpp, tuple(scores),
                     arm.marks)  # fmt: skip
