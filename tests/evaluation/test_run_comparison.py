"""Runs are compared on shared tiles only, in declared families, and ranked over independent data sets."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from histotune.evaluation.run_comparison import Contender, compare_runs
from histotune.statistics.comparison import paired_difference
from histotune.statistics.predictions import ComparisonConfig, IntervalConfig, Predictions
from histotune.tools.errors import UserError
from tests.statistics.samples import make_predictions

INTERVAL = IntervalConfig(n_resamples=200)
FEW = ComparisonConfig(n_permutations=199)
LABELS = np.repeat([0, 1] * 8, 5).astype(np.int64)
GROUPS = [f"g{number:02d}" for number in np.repeat(np.arange(16), 5)]


def predictions(effect: float, seed: int, folds: int = 1) -> Predictions:
    margin = effect * (LABELS - 0.5) + np.random.default_rng(seed).normal(size=len(LABELS))
    found = make_predictions(LABELS, np.stack([np.zeros_like(margin), margin], axis=1), GROUPS)
    fold = pl.Series("fold", np.repeat(np.arange(16) % folds, 5), dtype=pl.Int32)
    return Predictions(found.table.with_columns(fold), found.class_names)


def contender(name: str, effect: float, domain: str = "breakhis 40X", *, seed: int = 0, folds: int = 1) -> Contender:
    return Contender(
        name, "in-domain", domain, domain.split(" ", maxsplit=1)[0], predictions(effect, seed, folds), ("LEAKY",)
    )


def test_a_family_holds_every_pair_once_with_the_paired_difference() -> None:
    arms = [
        contender(name, effect, seed=number) for number, (name, effect) in enumerate([("a", 2), ("b", 1), ("c", 0)])
    ]
    found = compare_runs(arms, ["auroc", "log_loss"], FEW, INTERVAL)
    assert [family.metric for family in found.families] == ["auroc", "log_loss"]
    auroc = found.families[0]
    assert [(pair.first, pair.second) for pair in auroc.comparisons] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert {pair.correction for pair in auroc.comparisons} == {"max-T"} and auroc.marks == ("LEAKY",)
    expected = paired_difference(arms[0].predictions, arms[1].predictions, "auroc", INTERVAL)
    assert auroc.comparisons[0].difference.value == expected.value
    assert "swaps whole groups between the arms, 199 swaps" in auroc.comparisons[0].difference.interval.method
    assert [name for name, _ in auroc.scores] == ["a", "b", "c"]
    first = compare_runs(arms, ["auroc"], ComparisonConfig(family="against the first", n_permutations=199), INTERVAL)
    assert [(pair.first, pair.second) for pair in first.families[0].comparisons] == [("b", "a"), ("c", "a")]


def test_runs_without_common_tiles_and_folds_are_refused() -> None:
    with pytest.raises(UserError, match="no two of these runs"):
        compare_runs([contender("a", 1), contender("b", 1, "breakhis 100X")], ["auroc"], FEW, INTERVAL)
    with pytest.raises(UserError, match="other folds"):
        compare_runs([contender("a", 1, folds=4), contender("b", 1, folds=8)], ["auroc"], FEW, INTERVAL)
    other = contender("b", 1)
    fewer = Predictions(other.predictions.table[:-1], other.predictions.class_names)
    with pytest.raises(UserError, match="scored other tiles of breakhis 40X"):
        compare_runs([contender("a", 1), Contender("b", "in-domain", other.domain, "breakhis", fewer)], ["auroc"], FEW,
                     INTERVAL)  # fmt: skip


def test_what_one_run_scored_alone_is_told() -> None:
    arms = [contender("a", 1), contender("b", 1, seed=1), contender("b", 1, "breakhis 400X")]
    found = compare_runs(arms, ["auroc"], FEW, INTERVAL)
    assert [family.domain for family in found.families] == ["breakhis 40X"]
    assert found.notes == ("breakhis 400X (in-domain) was scored by b alone.",)


def test_magnifications_of_one_data_set_count_once_in_a_ranking() -> None:
    scales = [f"breakhis {scale}X" for scale in (40, 100, 200, 400)]
    sets = [*scales, "pcam", "crc", "mhist", "bach"]

    def arms(domains: list[str]) -> list[Contender]:
        return [
            contender(name, effect, domain, seed=number)
            for number, domain in enumerate(domains)
            for name, effect in (("good", 3.0), ("poor", 0.2))
        ]

    few = compare_runs(arms(sets[:-1]), ["auroc", "log_loss"], FEW, INTERVAL)
    assert all(ranking.ranks is None and "there are 4" in ranking.reason for ranking in few.rankings)
    enough = compare_runs(arms(sets), ["auroc", "log_loss"], FEW, INTERVAL)
    for ranking in enough.rankings:  # larger is better, and smaller is
        assert ranking.ranks is not None and ranking.ranks.names == ("good", "poor")
        assert ranking.ranks.mean_ranks == (1.0, 2.0) and set(ranking.ranks.data_sets) == {
            d.split(" ")[0] for d in sets
        }


@pytest.mark.parametrize("threshold", [0.3, 0.5])
def test_classes_in_another_order_are_the_same_run(threshold: float) -> None:
    made = contender("a", 2).predictions
    named = Predictions(made.table.with_columns(threshold=pl.lit(threshold)), ("MSS", "MSI"))
    first = Contender("a", "in-domain", "breakhis 40X", "breakhis", named)
    turned = named.table.with_columns(
        y_true=1 - pl.col("y_true"),
        logit=pl.col("logit").arr.reverse(),
        probability=pl.col("probability").arr.reverse(),
        threshold=pl.lit(np.nextafter(1 - threshold, 2)),
    )
    other = Contender("b", "in-domain", "breakhis 40X", "breakhis", Predictions(turned, ("MSI", "MSS")))
    found = compare_runs([first, other], ["auroc", "auprc", "balanced_accuracy", "sensitivity_at_95_specificity"], FEW,
                         INTERVAL)  # fmt: skip
    for family in found.families:
        values = [one.score.value for _, one in family.scores]
        assert values[0] == pytest.approx(values[1], abs=1e-12), family.metric
        assert family.comparisons[0].difference.value == pytest.approx(0, abs=1e-12)


def test_runs_over_other_classes_are_refused() -> None:
    one = contender("a", 1)
    other = Contender("b", one.finding, one.domain, one.data_set, Predictions(one.predictions.table, ("low", "high")))
    with pytest.raises(UserError, match="other classes") as problem:
        compare_runs([one, other], ["auroc"], FEW, INTERVAL)
    assert "low, high" in str(problem.value)
