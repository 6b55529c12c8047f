from __future__ import annotations

import dataclasses

import numpy as np
import polars as pl
import pytest
import sklearn.metrics as sk

from histotune.statistics.predictions import IntervalConfig, Predictions
from histotune.statistics.scores import aggregate, average_seeds, score_by, score_predictions, score_seeds
from histotune.tools.errors import UserError
from tests.statistics.samples import make_predictions, random_predictions

CONFIG = IntervalConfig(n_resamples=100)


def pure(n_classes: int = 2) -> Predictions:
    return random_predictions(n=160, n_groups=20, n_classes=n_classes, mixed=0.0)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_groups_average_the_probabilities_of_their_tiles(n_classes: int) -> None:
    tiles = pure(n_classes)
    groups = aggregate(tiles, "group")
    assert len(groups) == 20
    names, index = np.unique(tiles.table["group_id"].to_numpy(), return_inverse=True)
    expected = np.stack([tiles.probability_NK[index == g].mean(axis=0) for g in range(20)])
    by_name = dict(zip(groups.table["tile_id"], groups.probability_NK, strict=True))
    np.testing.assert_allclose([by_name[name] for name in names], expected, atol=1e-12)
    np.testing.assert_allclose(
        np.exp(groups.logit_NK) / np.exp(groups.logit_NK).sum(axis=1, keepdims=True), groups.probability_NK
    )
    auroc = score_predictions(groups, ["auroc"], CONFIG)[0]
    assert (auroc.n_tiles, auroc.n_groups) == (20, 20)
    if n_classes == 2:
        y = np.array([tiles.y_true_N[index == g][0] for g in range(20)])
        assert auroc.value == pytest.approx(sk.roc_auc_score(y, expected[:, 1]))


def test_the_most_positive_tile_speaks_for_its_slide() -> None:
    tiles = random_predictions(n=160, n_groups=20, mixed=0.5)
    tiles = dataclasses.replace(tiles, table=tiles.table.with_columns(slide_id=pl.col("group_id")))
    slides = aggregate(tiles, "slide", "max")
    expected = tiles.table.group_by("slide_id").agg(
        pl.col("y_true").max(), pl.col("probability").arr.get(1).max().alias("p")
    ).sort("slide_id")  # fmt: skip
    found = slides.table.sort("slide_id")
    assert found["y_true"].to_list() == expected["y_true"].to_list()
    np.testing.assert_allclose(found["probability"].arr.get(1), expected["p"])
    with pytest.raises(UserError, match="share one label"):
        aggregate(tiles, "slide", "mean")


def test_what_can_not_be_aggregated_is_refused() -> None:
    tiles = pure()
    with pytest.raises(UserError, match="two classes"):
        aggregate(pure(3), "group", "max")
    with pytest.raises(UserError, match="several groups"):
        aggregate(dataclasses.replace(tiles, table=tiles.table.with_columns(slide_id=pl.lit("s"))), "slide", "max")
    unknown = tiles.table.with_columns(slide_id=pl.lit(None, dtype=pl.String))
    with pytest.raises(UserError, match="slide_id"):
        aggregate(dataclasses.replace(tiles, table=unknown), "slide")


def test_parts_are_scored_on_their_own() -> None:
    tiles = random_predictions(n=300, n_groups=30)
    index = tiles.table["group_id"].str.slice(1).cast(pl.Int32)
    scanner = pl.Series(["A" if i % 3 == 0 else "B" if i % 3 == 1 else None for i in index])
    parts = score_by(tiles, scanner, ["auroc"], CONFIG)
    assert [part.part for part in parts] == ["A", "B", "unknown"]
    assert sum(len(part.predictions) for part in parts) == 300
    assert [part.scores[0].n_groups for part in parts] == [10, 10, 10]
    only = score_predictions(Predictions(tiles.table.filter(scanner == "A"), tiles.class_names), ["auroc"], CONFIG)
    assert parts[0].scores == only
    with pytest.raises(UserError, match="every tile"):
        score_by(tiles, scanner[:5], ["auroc"], CONFIG)


def seeds() -> Predictions:
    first = random_predictions(n=200, n_groups=16)
    tables = []
    for seed in range(3):
        noise = np.random.default_rng(seed).normal(0, 0.5, 200)
        logit = first.logit_NK + np.stack([np.zeros(200), noise], axis=1)
        arm = make_predictions(first.y_true_N, logit, first.table["group_id"].to_list())
        tables.append(arm.table.with_columns(pl.lit(seed, dtype=pl.Int32).alias("seed")))
    return Predictions(pl.concat(tables), first.class_names)


def test_seeds_are_averaged_per_tile_and_their_spread_stands_apart() -> None:
    runs = seeds()
    mean = average_seeds(runs)
    assert len(mean) == 200
    expected = np.mean([runs.where(pl.col("seed") == seed).probability_NK for seed in range(3)], axis=0)
    np.testing.assert_allclose(mean.probability_NK, expected, atol=1e-12)
    auroc, accuracy = score_seeds(runs, ["auroc", "accuracy"], CONFIG)
    assert auroc.score == score_predictions(mean, ["auroc"], CONFIG)[0]
    assert auroc.score.n_tiles == 200
    own = [score_predictions(runs.where(pl.col("seed") == s), ["accuracy"], CONFIG)[0].value for s in range(3)]
    assert accuracy.seed_values == pytest.approx(own)
    assert accuracy.seed_sd == pytest.approx(np.std(own, ddof=1))
    shuffled = Predictions(runs.table[np.random.default_rng(0).permutation(600)], runs.class_names)
    assert score_seeds(shuffled, ["auroc"], CONFIG)[0] == auroc
    one = score_seeds(runs.where(pl.col("seed") == 0), ["auroc"], CONFIG)[0]
    assert np.isnan(one.seed_sd)


def test_a_tile_without_a_seed_is_refused() -> None:
    runs = seeds()
    with pytest.raises(UserError, match="once per seed"):
        average_seeds(Predictions(runs.table[1:], runs.class_names))
