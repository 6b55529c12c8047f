"""Tiles that trained a head are recognised by their content or their case, and rows are marked one by one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from histotune.evaluation.findings import ScoredArm
from histotune.evaluation.material import Material
from histotune.evaluation.scoring import over_present, score_domains, score_parts
from histotune.evaluation.seen import find_seen, mark_seen, plain_id, prediction_table
from histotune.heads.head import Head
from histotune.statistics.predictions import IntervalConfig, Predictions
from histotune.tools.marks import LEAKY, TOO_NARROW
from tests.evaluation.conftest import Cohort, make_material
from tests.statistics.samples import make_predictions


def contents(names: Sequence[object]) -> np.ndarray:
    """Return a hash per name: equal names are equal tiles."""
    return np.stack([np.frombuffer(hashlib.sha256(str(name).encode()).digest(), np.uint8) for name in names])


def material(groups: Sequence[str | None], names: Sequence[object] | None, magnifications: Sequence[str]) -> Material:
    made = make_material(Cohort(n_groups=len(groups), tiles_per_group=1, magnifications=("100X",)))
    table = made.tiles.table.with_columns(
        pl.Series("group_id", list(groups), dtype=pl.String), pl.Series("magnification", list(magnifications))
    )
    sha256_N32 = None if names is None else contents(names)
    return replace(
        made, tiles=replace(made.tiles, table=table), embeddings=replace(made.embeddings, sha256_N32=sha256_N32)
    )


def head(groups: Sequence[str], names: Sequence[object]) -> Head:
    sha256_N32 = contents(names) if names else np.empty((0, 32), np.uint8)
    return Head(np.zeros((2, 40)), np.zeros(2), ("pooled",), tuple(range(40)), ("benign", "malignant"), "toy", "space",
                "key", 0.1, train_groups=tuple(groups), train_sha256_N32=sha256_N32)  # fmt: skip


@pytest.mark.parametrize("spelling", ["7", "7.0", "007", " 7 ", "7.00"])
def test_a_case_is_recognised_however_its_id_is_spelt(spelling: str) -> None:
    found = find_seen(head(["7", "Pat1"], ["other"]), material([spelling, "pat1", "8"], ["a", "b", "c"], ["10X"] * 3))
    assert found.seen_N.tolist() == [True, True, False]
    assert found.reasons() == ["group", "group", ""]
    assert not found.untold_N.any()


def test_ids_that_differ_in_more_than_spelling_stay_apart() -> None:
    assert plain_id("７") == plain_id("7")
    names = ["10", "1", "1.5", "15", "a1", "a01", "0", "00x", "100"]
    assert len({plain_id(name) for name in names}) == len(names)


def test_a_tile_is_recognised_by_its_content_whatever_ids_are_called() -> None:
    found = find_seen(head(["g1"], ["a", "b"]), material(["new", "new", "other"], ["a", "z", "y"], ["10X"] * 3))
    assert found.by_content_N.tolist() == [True, False, False]
    assert found.by_group_N.tolist() == [True, True, False]  # the second is of a case that a training tile belongs to
    assert found.cases() == ["new"]
    assert "1 by their content" in found.in_words() and "2 of 3" in found.in_words()


def test_an_empty_field_that_several_cases_hold_makes_no_case_of_them() -> None:
    found = find_seen(
        head(["g1"], ["white"]), material(["p", "p", "q", "q"], ["white", "1", "white", "2"], ["10X"] * 4)
    )
    assert found.seen_N.tolist() == [True, False, True, False]


def test_of_tiles_without_a_group_it_cant_be_told_unless_their_content_tells() -> None:
    found = find_seen(head(["g1"], ["a"]), material([None, None, "g2"], ["a", "b", "c"], ["10X"] * 3))
    assert found.reasons() == ["content", "can't be told", ""]
    notes = found.notes(excluded=False)
    assert "--exclude-seen" in notes[0]
    assert "1 of 3 scored tiles are of a case that trained this head can't be told" in notes[1]
    unknown = find_seen(head(["tile:x"], ["a"]), material(["g1", "g2"], ["b", "c"], ["10X"] * 2))
    assert unknown.untold_N.all()


def test_without_content_the_id_of_a_lone_tile_counts() -> None:
    scored = material([None, None], None, ["10X"] * 2)
    found = find_seen(head([f"tile:{scored.tiles.tile_ids[0]}"], []), scored)
    assert found.reasons() == ["group", "can't be told"]
    assert "their content is unknown" in found.notes(excluded=False)[1]
    by_content = replace(scored, embeddings=replace(scored.embeddings, sha256_N32=contents(["a", "b"])))
    other = find_seen(head([f"tile:{scored.tiles.tile_ids[0]}"], ["c"]), by_content)
    assert not other.seen_N.any()  # files of one name in two folders are two tiles


def test_what_was_left_out_is_said() -> None:
    found = find_seen(head(["g1"], ["z"]), material(["g1", "g2"], ["b", "c"], ["10X"] * 2))
    (note,) = found.notes(excluded=True)
    assert note.startswith(
        "Left out: 1 of 2 scored tiles, of 1 case (g1), trained this head or are of cases that did (by"
    )


def scored_rows(predictions: Predictions) -> tuple[ScoredArm, ...]:
    return score_domains("probe", predictions, "head", IntervalConfig(), ())


def test_only_rows_that_hold_a_seen_tile_are_marked() -> None:
    made = make_material(Cohort())
    table = made.tiles.table
    margin = np.linspace(-1, 1, len(table))
    found = make_predictions(made.tiles.labels_N, np.stack([0 * margin, margin], axis=1), table["group_id"].to_list())
    domain = ("toy " + table["magnification"]).alias("domain")
    predictions = Predictions(
        found.table.with_columns(domain, table["tile_id"], group_id=table["group_id"]), found.class_names
    )
    seen = frozenset(table.filter(magnification="400X")["tile_id"][:1])
    rows = scored_rows(predictions)
    marked = {row.domain: row.marks for row in mark_seen(rows, predictions, seen)}
    assert marked == {"toy 100X": (), "toy 400X": (LEAKY,)}
    sites = pl.Series("site", ["north" if tile in seen else "south" for tile in table["tile_id"]])
    tiles = replace(made.tiles, table=table.with_columns(sites))
    parts = score_parts(predictions, tiles, IntervalConfig(), rows, seen)[0].rows
    assert {row.domain: row.marks for row in parts} == {
        "toy 100X, south": (), "toy 400X, north": (LEAKY,), "toy 400X, south": ()
    }  # fmt: skip
    narrow = mark_seen([replace(rows[1], marks=(TOO_NARROW,))], predictions, seen)[0]
    assert narrow.marks == (LEAKY, TOO_NARROW)


def test_predictions_for_people_say_what_was_seen() -> None:
    scored = material(["g1", "g2", None], ["a", "b", "c"], ["10X"] * 3)
    seen = find_seen(head(["g1"], ["b"]), scored)
    made = make_predictions(np.array([0, 1, 0]), np.array([[0, -1.0], [0, 1.0], [0, 2.0]]), ["g1", "g2", "g3"])
    ids = made.table.with_columns(pl.Series("tile_id", scored.tiles.tile_ids), threshold=pl.lit(0.5))
    table = prediction_table(Predictions(ids, ("benign", "malignant")), seen)
    assert table["seen"].to_list() == ["group", "content", "can't be told"]
    assert table["label"].to_list() == ["benign", "malignant", "benign"]
    assert table["predicted"].to_list() == ["benign", "malignant", "malignant"]
    assert table["probability_malignant"].to_list() == pytest.approx(1 / (1 + np.exp([1.0, -1.0, -2.0])))


def test_a_class_without_tiles_is_left_out_of_ranking_and_still_a_wrong_decision() -> None:
    logit_NK = np.log(np.array([[0.5, 0.2, 0.3], [0.1, 0.6, 0.3], [0.1, 0.2, 0.7], [0.4, 0.35, 0.25]]))
    made = make_predictions(np.array([1, 1, 2, 2]), logit_NK, ["a", "b", "c", "d"])
    found, note = over_present(made)
    assert found.class_names == ("class1", "class2")
    assert found.y_true_N.tolist() == [0, 0, 1, 1]
    assert found.probability_NK[0].tolist() == pytest.approx([0.4, 0.6])
    assert found.predicted_N.tolist() == [1, 0, 1, 0]  # said to be class0, which has no tile: wrong, whatever else
    assert "2 of 4 tiles are said to be of a class that has none (class0)" in note
    assert over_present(Predictions(made.table.with_columns(y_true=pl.lit(1, pl.Int32)), ("x", "y", "z")))[1] == ""
