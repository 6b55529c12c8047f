"""The probe by site, scanner and stain, from what the tile table knows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from histotune.datasets.tileset import TileSet
from histotune.evaluation.material import Material, ScoredRows, build_predictions
from histotune.evaluation.scoring import metrics_for, score_domains, score_parts
from histotune.statistics.predictions import IntervalConfig, Predictions
from histotune.statistics.scores import score_predictions

INTERVAL = IntervalConfig(n_resamples=200)


def scored(material: Material) -> Predictions:
    """Predictions of every tile by the first column of its embedding."""
    margin_N = material.embeddings.matrix_ND[:, 0].astype(np.float64)
    logit_NK = np.stack([np.zeros_like(margin_N), margin_N], axis=1)
    probability_NK = np.exp(logit_NK) / np.exp(logit_NK).sum(axis=1, keepdims=True)
    n = len(margin_N)
    return build_predictions(
        material, ScoredRows(np.arange(n), logit_NK, probability_NK, ["h"] * n, np.zeros(n, np.int64), 0, "s")
    )


def with_parts(tiles: TileSet, column: str, value: pl.Expr) -> TileSet:
    return replace(tiles, table=tiles.table.with_columns(value.cast(pl.String).alias(column)))


def test_parts_of_several_domains_are_scored_each(material: Callable[..., Material]) -> None:
    data = material(n_groups=24)
    group = pl.col("group_id").str.slice(1).cast(pl.Int64)
    tiles = with_parts(data.tiles, "scanner", pl.when(group < 12).then(pl.lit("A")).otherwise(pl.lit("B")))
    predictions = scored(data)
    rows = score_domains("probe", predictions, "somewhere", INTERVAL, ("EXTERNAL",))
    (table,) = score_parts(predictions, tiles, INTERVAL, rows)
    assert table.column == "scanner" and not table.note
    names = [f"toy {magnification}, {scanner}" for magnification in ("100X", "400X") for scanner in "AB"]
    assert [row.domain for row in table.rows] == names
    assert all(row.marks == ("EXTERNAL",) and row.input_mpp == 2.0 for row in table.rows)
    wanted = predictions.where((pl.col("domain") == "toy 400X") & (pl.col("group_id") >= "g12"))
    expected = score_predictions(wanted, metrics_for(wanted), INTERVAL)
    assert repr(table.rows[3].scores) == repr(expected)  # a NaN equals itself in words only


@pytest.mark.parametrize(("n_values", "n_tables"), [(1, 0), (2, 1), (16, 1)])
def test_one_value_makes_no_table(material: Callable[..., Material], n_values: int, n_tables: int) -> None:
    data = material()
    group = pl.col("group_id").str.slice(1).cast(pl.Int64)
    tiles, predictions = with_parts(data.tiles, "site", group % n_values), scored(data)
    rows = score_domains("probe", predictions, "somewhere", INTERVAL, ())
    assert len(score_parts(predictions, tiles, INTERVAL, rows)) == n_tables


def test_very_many_values_make_a_note(material: Callable[..., Material]) -> None:
    data = material(n_groups=32)
    tiles, predictions = with_parts(data.tiles, "site", pl.col("group_id")), scored(data)
    (table,) = score_parts(predictions, tiles, INTERVAL, score_domains("probe", predictions, "x", INTERVAL, ()))
    assert not table.rows and table.note == "32 values are too many for a table."
