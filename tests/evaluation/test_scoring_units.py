"""Slides and groups as the unit that is scored, beside the tiles."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import balanced_accuracy_score, log_loss, roc_auc_score

from histotune.evaluation.findings import PartTable
from histotune.evaluation.material import Material
from histotune.evaluation.scoring import score_domains, score_units
from histotune.statistics.predictions import IntervalConfig, Predictions
from tests.evaluation.test_scoring_parts import scored

INTERVAL = IntervalConfig(n_resamples=200)


def with_slides(predictions: Predictions, slide: pl.Expr) -> Predictions:
    table = predictions.table.with_columns(slide.cast(pl.String).alias("slide_id"))
    return Predictions(table, predictions.class_names, predictions.threshold)


def units(predictions: Predictions, how: str = "mean") -> tuple[PartTable, ...]:
    rows = score_domains("probe", predictions, "somewhere", INTERVAL, ("EXTERNAL",))
    return score_units(predictions, how, INTERVAL, rows)  # type: ignore[arg-type]


def one_domain(material: Callable[..., Material]) -> Predictions:
    return scored(material(n_groups=24)).where(pl.col("domain") == "toy 100X")


def test_a_slide_is_the_mean_of_its_tiles(material: Callable[..., Material]) -> None:
    """Against scikit-learn on probabilities averaged with numpy."""
    predictions = one_domain(material)
    rank = pl.col("tile_id").rank("ordinal").over("group_id")
    predictions = with_slides(predictions, pl.format("{}-{}", "group_id", rank % 2))
    (table,) = units(predictions)
    assert [row.domain for row in table.rows] == ["per tile", "per slide", "per group"]
    assert "mean probability" in table.note
    for row, column in zip(table.rows[1:], ("slide_id", "group_id"), strict=True):
        keys = predictions.table[column].to_numpy()
        names = np.unique(keys)
        p = np.array([predictions.probability_NK[keys == name, 1].mean() for name in names])
        y = np.array([predictions.table["y_true"].to_numpy()[keys == name].max() for name in names])
        assert row.score("auroc").value == pytest.approx(roc_auc_score(y, p))
        assert row.score("balanced_accuracy").value == pytest.approx(balanced_accuracy_score(y, p >= 0.5))
        assert row.score("log_loss").value == pytest.approx(log_loss(y, p))
        assert row.score("auroc").n_tiles == len(names) and row.score("auroc").n_groups == 24
        assert row.score("patient_recognition_rate") is None
        assert row.marks == ("EXTERNAL",)


def test_a_slide_of_both_labels_has_no_mean_but_a_most_positive_tile(material: Callable[..., Material]) -> None:
    predictions = with_slides(one_domain(material), pl.lit("one slide of all") + pl.col("group_id").str.slice(1, 1))
    predictions = Predictions(
        predictions.table.with_columns(pl.col("slide_id").alias("group_id")), predictions.class_names
    )
    (table,) = units(predictions)
    assert not table.rows and "one label" in table.note
    (table,) = units(predictions, "max")
    assert [row.domain for row in table.rows] == ["per tile", "per slide"]
    assert "most positive tile" in table.note


def test_levels_that_say_nothing_new_are_left_out(material: Callable[..., Material]) -> None:
    predictions = one_domain(material)
    assert units(predictions, "none") == ()
    assert [row.domain for row in units(predictions)[0].rows] == ["per tile", "per group"]  # slides unknown
    same = with_slides(predictions, pl.col("group_id") + "s")
    assert [row.domain for row in units(same)[0].rows] == ["per tile", "per slide"]  # the group is the slide
    single = with_slides(predictions, pl.col("tile_id"))
    assert [row.domain for row in units(single)[0].rows] == ["per tile", "per group"]  # a tile a slide


def test_every_domain_has_its_units(material: Callable[..., Material]) -> None:
    (table,) = units(scored(material(n_groups=24)))
    names = [f"toy {scale}, per {unit}" for scale in ("100X", "400X") for unit in ("tile", "group")]
    assert [row.domain for row in table.rows] == names
