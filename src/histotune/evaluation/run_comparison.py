"""Runs beside one another: the same tiles and groups, paired; and mean ranks over independent data sets."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from histotune.heads.classes import match_names
from histotune.statistics.comparison import Comparison, compare_arms
from histotune.statistics.mean_ranks import LEAST_DATA_SETS, MeanRanks, rank_arms
from histotune.statistics.metrics import LOWER_IS_BETTER
from histotune.statistics.scores import SeedScore, average_seeds, score_seeds
from histotune.tools.errors import UserError
from histotune.tools.progress import track

if TYPE_CHECKING:
    from collections.abc import Sequence

    from histotune.statistics.metrics import MetricName
    from histotune.statistics.predictions import ComparisonConfig, IntervalConfig, Predictions

TRAINED_THERE = ("in-domain", "direct")
"""Findings whose head was trained on the data set it is scored on: what a ranking over data sets counts."""


@dataclass(frozen=True)
class Contender:
    """One arm of one run on one domain.

    Attributes:
        name: The run, or its backbone where that tells the runs apart.
        finding: Which table of the run's report it stands in.
        domain: Which tiles were scored.
        data_set: The data set they belong to: its magnifications are not independent of one another.
        predictions: Its predictions.
        marks: Warnings of its row, such as LEAKY.
    """

    name: str
    finding: str
    domain: str
    data_set: str
    predictions: Predictions
    marks: tuple[str, ...] = ()


@dataclass(frozen=True)
class ComparisonFamily:
    """All comparisons of one metric on the same tiles: what p values are adjusted over.

    Attributes:
        finding: Which table of the runs' reports.
        domain: Which tiles.
        data_set: Their data set.
        metric: What is compared.
        scores: Every run's own score, by name; several seeds are averaged per tile, and their spread stands apart.
        comparisons: The pairs.
        marks: Warnings of any of the runs.
    """

    finding: str
    domain: str
    data_set: str
    metric: MetricName
    scores: tuple[tuple[str, SeedScore], ...]
    comparisons: tuple[Comparison, ...]
    marks: tuple[str, ...]


@dataclass(frozen=True)
class Ranking:
    """Mean ranks in one metric, or why there are none."""

    metric: MetricName
    ranks: MeanRanks | None
    reason: str = ""


@dataclass(frozen=True)
class RunComparison:
    """Runs, compared.

    Attributes:
        names: The runs.
        families: Paired comparisons, a family per domain and metric.
        rankings: Over data sets, a ranking per metric.
        notes: What was left out, one sentence each.
    """

    names: tuple[str, ...]
    families: tuple[ComparisonFamily, ...]
    rankings: tuple[Ranking, ...]
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, object]:
        """Return a JSON-ready dict."""
        return asdict(self)


def compare_runs(
    contenders: Sequence[Contender],
    metrics: Sequence[MetricName],
    comparison: ComparisonConfig,
    interval: IntervalConfig,
) -> RunComparison:
    """Compare runs wherever at least two scored the same tiles, and rank them over data sets."""
    names = tuple(dict.fromkeys(one.name for one in contenders))
    by_place: dict[tuple[str, str], list[Contender]] = defaultdict(list)
    for one in sorted(contenders, key=lambda one: one.finding not in TRAINED_THERE):
        by_place[one.finding, one.domain].append(one)
    shared = {place: found for place, found in by_place.items() if len(found) > 1}
    if not shared:
        places = "; ".join(f"{domain} ({finding}): {found[0].name}" for (finding, domain), found in by_place.items())
        raise UserError(
            "no two of these runs scored the same tiles",
            value=places,
            fix="run each backbone on the same --data, --split and magnification",
        )
    wanted = [(found, metric) for found in shared.values() for metric in metrics]
    families = [_family(found, metric, comparison, interval) for found, metric in track(wanted, "comparing runs")]
    alone = [place for place, found in by_place.items() if len(found) == 1]
    notes = tuple(
        f"{domain} ({finding}) was scored by {by_place[finding, domain][0].name} alone." for finding, domain in alone
    )
    rankings = tuple(_ranking(families, names, metric, interval.level) for metric in metrics)
    return RunComparison(names, tuple(families), rankings, notes)


def _family(
    found: Sequence[Contender], metric: MetricName, comparison: ComparisonConfig, interval: IntervalConfig
) -> ComparisonFamily:
    found = [replace(one, predictions=in_class_order(one, found[0])) for one in found]
    arms = {one.name: average_seeds(one.predictions) for one in found}
    if len(arms) < len(found):
        raise UserError(
            "two runs have the same name", value=", ".join(one.name for one in found), fix="give them other folders"
        )
    within_folds = any(arm.table["fold"].n_unique() > 1 for arm in arms.values())
    for one, other in combinations(arms.items(), 2):
        _check_same(one, other, found[0].domain)
    scores = tuple(
        (one.name, score_seeds(one.predictions, [metric], interval, within_folds=within_folds)[0]) for one in found
    )
    pairs = compare_arms(arms, metric, _for(arms, comparison), interval, within_folds=within_folds)
    marks = tuple(dict.fromkeys(mark for one in found for mark in one.marks))
    return ComparisonFamily(found[0].finding, found[0].domain, found[0].data_set, metric, scores, pairs, marks)


def in_class_order(one: Contender, first: Contender) -> Predictions:
    """Return a contender's predictions with its classes in the order of another's, matched by name.

    Raises:
        UserError: The two were scored on other classes.
    """
    predictions, names = one.predictions, first.predictions.class_names
    if predictions.class_names == names:
        return predictions
    place = match_names(predictions.class_names, names)
    if len(place) < len(names) or len(predictions.class_names) != len(names):
        raise UserError(
            f"two runs scored other classes of {one.domain}",
            value=f"{one.name}: {', '.join(predictions.class_names)}",
            allowed=f"{', '.join(names)}, as in {first.name}",
            fix="run both with the same labels",
        )
    label_of = {label: names.index(place[name]) for label, name in enumerate(predictions.class_names)}
    order = [label for label, _ in sorted(label_of.items(), key=lambda pair: pair[1])]
    if order == sorted(order):
        return replace(predictions, class_names=names)
    shape = pl.Array(pl.Float64, len(names))
    table = predictions.table.with_columns(
        pl.col("y_true").replace_strict(label_of, return_dtype=pl.Int32),
        pl.Series("logit", predictions.logit_NK[:, order], dtype=shape),
        pl.Series("probability", predictions.probability_NK[:, order], dtype=shape),
    )
    if "threshold" in table.columns:  # class 0 where it was class 1 from the threshold on
        table = table.with_columns(pl.Series("threshold", np.nextafter(1.0 - table["threshold"].to_numpy(), 2.0)))
    return replace(predictions, table=table, class_names=names)


def _for(arms: dict[str, Predictions], comparison: ComparisonConfig) -> ComparisonConfig:
    """Leave out named pairs whose runs did not both score this domain."""
    if isinstance(comparison.family, str):
        return comparison
    return comparison.model_copy(update={"family": tuple(p for p in comparison.family if set(p) <= set(arms))})


def _check_same(one: tuple[str, Predictions], other: tuple[str, Predictions], domain: str) -> None:
    """Refuse runs over other tiles, or over other folds: AUROC within folds would compare other pairs of tiles."""
    tables = [predictions.table.select("tile_id", "fold").sort("tile_id") for _, predictions in (one, other)]
    ids = [set(table["tile_id"]) for table in tables]
    if ids[0] != ids[1]:
        raise UserError(
            f"two runs scored other tiles of {domain}",
            value=f"{one[0]}: {len(ids[0]):,}, {other[0]}: {len(ids[1]):,}, both: {len(ids[0] & ids[1]):,}",
            fix="run both on the same --data, magnification and subset",
        )
    if not tables[0]["fold"].equals(tables[1]["fold"]):
        raise UserError(
            f"two runs cross-fitted {domain} over other folds",
            value=f"{one[0]}, {other[0]}",
            fix="run both with the same --split, such as grouped-5-seed0",
        )


def _ranking(families: Sequence[ComparisonFamily], names: tuple[str, ...], metric: MetricName, level: float) -> Ranking:
    """Rank the runs over data sets; several domains of one data set count once, by the mean of their scores."""
    values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for family in families:
        if family.metric == metric and family.finding in TRAINED_THERE:
            for name, found in family.scores:
                values[family.data_set][name].append(found.score.value)
    whole = [
        data_set
        for data_set, by_name in values.items()
        if set(by_name) == set(names) and np.isfinite(np.concatenate(list(by_name.values()))).all()
    ]
    if len(whole) < LEAST_DATA_SETS:
        reason = (
            f"a ranking needs {LEAST_DATA_SETS} independent data sets that every run was trained and scored on, and "
            f"here there are {len(whole)} (magnifications of one data set count as one)"
        )
        return Ranking(metric, None, reason)
    value_SA = np.array([[np.mean(values[data_set][name]) for name in names] for data_set in whole])
    higher = metric not in LOWER_IS_BETTER
    return Ranking(metric, rank_arms(value_SA, whole, names, higher_is_better=higher, level=level))
