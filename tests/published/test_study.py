"""A protocol sees the parts and the columns that it is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import polars as pl

from histotune.backbones.spec import ColumnBlock
from histotune.datasets.tileset import TileSet
from histotune.evaluation.config import EvaluationConfig
from histotune.evaluation.material import Material
from histotune.published.protocols import UniConfig
from histotune.published.study import ProtocolTask, protocol_part, study_protocol
from histotune.statistics.predictions import IntervalConfig

TASK = ProtocolTask(UniConfig(draws=2, shots=(1,), k=3), EvaluationConfig(), IntervalConfig(n_resamples=200))


def with_parts(tiles: TileSet) -> TileSet:
    """Deal the groups to the parts of a split, both classes in each."""
    parts = {
        group: ("train", "train", "valid", "test")[number // 2 % 4]
        for number, group in enumerate(sorted(set(tiles.table["group_id"])))
    }
    return replace(tiles, table=tiles.table.with_columns(split=pl.col("group_id").replace_strict(parts)))


def test_a_protocol_sees_the_columns_of_its_pooling_and_no_others(material: Callable[..., Material]) -> None:
    whole = material()
    tiles, matrix = with_parts(whole.tiles), whole.embeddings.matrix_ND.copy()
    space = replace(whole.embeddings.space, view="{}")
    first = replace(whole.embeddings, space=space, matrix_ND=matrix[:, :20], blocks=(ColumnBlock("cls", 0, 20),))
    matrix[:, 20:] = 1000.0 * np.arange(len(matrix))[:, None]
    both = replace(first, matrix_ND=matrix, blocks=(*first.blocks, ColumnBlock("patch_mean", 20, 40)))
    alone, beside = (
        study_protocol(replace(whole, tiles=tiles, embeddings=one, default_pooling=("cls",)), TASK)
        for one in (first, both)
    )
    assert beside.predictions.equals(alone.predictions)
    assert repr(beside.rows) == repr(alone.rows)


def test_a_part_that_holds_one_class_only_is_there(material: Callable[..., Material]) -> None:
    tiles = with_parts(material().tiles)
    one_class = tiles.take(np.flatnonzero((tiles.table["split"] != "test").to_numpy() | (tiles.labels_N == 0)))
    assert protocol_part(one_class, EvaluationConfig(final=True)) == "test"
