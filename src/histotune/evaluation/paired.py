"""The probe less each floor on the same tiles and groups: a family declared before anything is scored."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from histotune.evaluation.findings import PairedDifference
from histotune.statistics.comparison import compare_arms
from histotune.statistics.predictions import ComparisonConfig

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from histotune.evaluation.config import EvaluationConfig
    from histotune.statistics.metrics import MetricName
    from histotune.statistics.predictions import IntervalConfig, Predictions

METRICS: tuple[MetricName, ...] = ("auroc", "balanced_accuracy")


def compare_first(
    scored: Sequence[tuple[str, Predictions]], domains: Sequence[str], evaluation: EvaluationConfig,
    interval: IntervalConfig,
) -> tuple[PairedDifference, ...]:  # fmt: skip
    """Compare the first arm with every other, domain by domain.

    Args:
        scored: Arms with their predictions of the same tiles, the probe first.
        domains: Which domains; each is a family of its own, per metric.
        evaluation: Number of permutations; 0 leaves the comparison out.
        interval: How intervals are made.

    Returns:
        A row per domain, other arm and metric: the difference with its paired interval, and its p value in words,
        adjusted over the arms.
    """
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
            out += _compared(arms, (domain, metric), config, interval, within_folds=within_folds)
    return tuple(out)


def _compared(
    arms: dict[str, Predictions],
    what: tuple[str, MetricName],
    config: ComparisonConfig,
    interval: IntervalConfig,
    *,
    within_folds: bool,
) -> Iterator[PairedDifference]:
    domain, metric = what
    for one in compare_arms(arms, metric, config, interval, within_folds=within_folds):
        yield PairedDifference(domain, one.second, one.difference, one.in_words())
