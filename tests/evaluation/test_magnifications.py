"""The matrix: who trains, who is scored, what a cell equals when it is made one by one, and what views cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histotune.datasets.splits.folds import fold_per_tile, grouped_folds
from histotune.datasets.splits.split import tile_groups
from histotune.evaluation.config import EvaluationConfig
from histotune.evaluation.crossfit import cross_fit
from histotune.evaluation.held_out import StudySettings
from histotune.evaluation.magnifications import (
    MagnificationMatrix,
    MatrixCell,
    Seen,
    magnification_matrix,
    magnifications_of,
    matched_view,
    matrix_answer,
    seen_scales,
    training_sets,
)
from histotune.evaluation.material import Material
from histotune.evaluation.plan import CrossFitPlan
from histotune.heads.config import SweepConfig
from histotune.images.config import ViewConfig
from histotune.statistics.predictions import Interval, IntervalConfig, Score
from histotune.statistics.scores import score_predictions
from histotune.tools.errors import UserError
from tests.evaluation.conftest import Cohort, make_material

MakeMaterial = Callable[..., Material]
THREE = ("40X", "100X", "400X")
SETTINGS = StudySettings(
    EvaluationConfig(outer_folds=4), SweepConfig(penalties=(0.1, 1.0), folds=3), IntervalConfig(n_resamples=200)
)


def plan_of(data: Material) -> CrossFitPlan:
    folds = grouped_folds(data.tiles, 4, 0)
    fold_N = fold_per_tile(data.tiles, folds)
    return CrossFitPlan(fold_N >= 0, fold_N, folds.split_hash, "grouped", 0)


def matrix_of(data: Material, size: str = "equal") -> MagnificationMatrix:
    seen = Seen("as the network sees it", ())
    return magnification_matrix(data, plan_of(data), seen, SETTINGS, size)


def without(data: Material, keep: pl.Expr) -> Material:
    rows = data.tiles.table.with_row_index("number").filter(keep)["number"].to_numpy().astype(np.int64)
    return data.take(rows)


@settings(max_examples=15)
@given(st.integers(0, 1000), st.integers(1, 5))
def test_equal_sets_take_as_many_tiles_of_every_group(seed: int, missing: int) -> None:
    data = make_material(Cohort(n_groups=8, tiles_per_group=5, magnifications=THREE))
    rng = np.random.default_rng(seed)
    dropped = set(rng.choice(np.array(data.tiles.tile_ids), 10 * missing, replace=False).tolist())
    data = without(data, ~pl.col("tile_id").is_in(dropped))
    groups = np.array(tile_groups(data.tiles))
    of_tile = data.tiles.table["magnification"].to_numpy()
    counts = {g: min(((groups == g) & (of_tile == m)).sum() for m in THREE) for g in set(groups)}
    expected = {g: n for g, n in counts.items() if n}
    if not expected:
        return
    sets = training_sets(data.tiles, "equal", 0)
    assert list(sets) == [*THREE, *(f"all but {m}" for m in THREE), "all"]
    for row, train_N in sets.items():
        assert dict(Counter(groups[train_N])) == expected
        if row in THREE:
            assert set(of_tile[train_N]) == {row}
        if row.startswith("all but "):
            assert row.removeprefix("all but ") not in set(of_tile[train_N])


def test_all_data_takes_every_labelled_tile(material: MakeMaterial) -> None:
    data = material(magnifications=THREE)
    sets = training_sets(data.tiles, "all data", 0)
    assert sets["all"].all()
    assert not (sets["all but 40X"] & sets["40X"]).any()
    assert (sets["all but 40X"] | sets["40X"]).all()


def test_two_magnifications_have_no_leave_one_out(material: MakeMaterial) -> None:
    assert list(training_sets(material().tiles, "equal", 0)) == ["100X", "400X", "all"]


def test_one_magnification_is_refused(material: MakeMaterial) -> None:
    with pytest.raises(UserError, match="at least two magnifications"):
        magnifications_of(material(magnifications=("100X",)).tiles)


def test_no_group_with_all_magnifications_is_refused_for_equal_sizes(material: MakeMaterial) -> None:
    even = pl.col("group_id").str.slice(1).cast(pl.Int64) % 4 < 2
    data = without(
        material(), (even & (pl.col("magnification") == "100X")) | (~even & (pl.col("magnification") == "400X"))
    )
    with pytest.raises(UserError, match="no group has tiles at every magnification"):
        training_sets(data.tiles, "equal", 0)


def test_a_cell_equals_its_own_cross_fit(material: MakeMaterial) -> None:
    data = material(magnifications=THREE, class_effect=0.5)
    matrix = matrix_of(data)
    for row, train_N in training_sets(data.tiles, "equal", 0).items():
        fit = cross_fit(data, replace(plan_of(data), train_N=train_N), SETTINGS.sweep)
        for name in THREE:
            part = fit.predictions.where(pl.col("domain") == f"toy {name}")
            (auroc,) = score_predictions(part, ("auroc",), SETTINGS.interval, within_folds=True)
            cell = matrix.cell(row, name)
            assert cell.scores[0].value == pytest.approx(auroc.value, abs=1e-9)
            assert (cell.scores[0].n_tiles, cell.scores[0].n_groups) == (auroc.n_tiles, auroc.n_groups)


def test_differences_are_to_the_diagonal_and_paired(material: MakeMaterial) -> None:
    matrix = matrix_of(material(magnifications=THREE, class_effect=0.5))
    for cell in matrix.cells:
        diagonal = matrix.cell(cell.magnification, cell.magnification)
        if cell.on_diagonal:
            assert cell.differences == ()
            continue
        for gap, score, there in zip(cell.differences, cell.scores, diagonal.scores, strict=True):
            assert gap.value == pytest.approx(score.value - there.value, abs=1e-12)
            assert gap.interval is not None


def test_no_group_trains_a_head_that_scores_it(material: MakeMaterial, monkeypatch: pytest.MonkeyPatch) -> None:
    from histotune.evaluation import magnifications

    data, original, tasks = material(magnifications=THREE), magnifications.sweep, []

    def spy(embeddings: object, task: object, *rest: object) -> object:
        tasks.append(task)
        return original(embeddings, task, *rest)

    monkeypatch.setattr(magnifications, "sweep", spy)
    matrix_of(data)
    groups, fold_N = np.array(tile_groups(data.tiles)), plan_of(data).fold_N
    (task,) = tasks
    assert len(task.train_sets_SN) == 7 * 4
    for number, train_N in enumerate(task.train_sets_SN):
        held = set(groups[fold_N == number % 4])
        assert not held & set(groups[train_N])


def test_row_order_changes_nothing(material: MakeMaterial) -> None:
    data = material(magnifications=THREE, class_effect=0.5)
    mixed = data.take(np.random.default_rng(0).permutation(len(data.tiles)))
    for one, other in zip(matrix_of(data).cells, matrix_of(mixed).cells, strict=True):
        assert [s.value for s in one.scores] == pytest.approx([s.value for s in other.scores], abs=1e-6)


def test_a_magnification_with_one_class_is_not_estimable_and_the_others_are(material: MakeMaterial) -> None:
    benign = pl.col("label") == 0
    data = without(material(magnifications=THREE), ~((pl.col("magnification") == "40X") & ~benign))
    matrix = matrix_of(data, "all data")
    refused = matrix.cell("40X", "100X").scores[0]
    assert np.isnan(refused.value)
    assert "malignant" in refused.reason
    assert np.isnan(matrix.cell("100X", "40X").scores[0].value)
    assert np.isfinite(matrix.cell("100X", "400X").scores[0].value)
    assert matrix.cell("100X", "40X").differences == ()
    equal = matrix_of(data, "equal")
    assert equal.rows == ("40X", "100X", "400X", "all")
    assert "malignant" in equal.cell("40X", "400X").scores[0].reason
    assert np.isfinite(equal.cell("all", "400X").scores[0].value)


def test_where_no_group_has_all_magnifications_every_equal_cell_says_so(material: MakeMaterial) -> None:
    even = pl.col("group_id").str.slice(1).cast(pl.Int64) % 4 < 2
    at_100 = pl.col("magnification") == "100X"
    matrix = matrix_of(without(material(n_groups=32), (even & at_100) | (~even & ~at_100)), "equal")
    assert {cell.scores[0].reason for cell in matrix.cells} == {
        "no group has tiles at every magnification, so training sizes can't be equalised by group"
    }
    assert matrix_answer([matrix]).endswith("not estimable.")


def test_matched_views_hold_what_they_promise_and_say_what_it_costs(material: MakeMaterial) -> None:
    tiles = material(magnifications=THREE).tiles
    mpp = pl.col("magnification").replace_strict({"40X": 2.0, "100X": 0.8, "400X": 0.2}, return_dtype=pl.Float64)
    tiles = replace(tiles, table=tiles.table.with_columns(mpp=mpp))
    raw = ViewConfig(size_px=224)
    assert [one.input_mpp for one in seen_scales(tiles, raw)] == pytest.approx([4.0, 1.6, 0.4])
    scale = seen_scales(tiles, matched_view(tiles, raw, "equal input_mpp"))
    assert [one.input_mpp for one in scale] == pytest.approx([4.0, 4.0, 4.0], rel=0.05)
    assert [one.padded_share for one in scale] == pytest.approx([0, 1 - 0.4**2, 1 - 0.1**2], abs=0.01)
    field = seen_scales(tiles, matched_view(tiles, raw, "equal field of view"))
    assert [one.input_mpp for one in field] == pytest.approx([0.4, 0.4, 0.4], rel=0.01)
    assert [one.seen_share for one in field] == pytest.approx([0.1**2, 0.25**2, 1], abs=0.01)
    assert [one.padded_share for one in field] == [0, 0, 0]
    assert "enlarged 5.0 x, without more detail" in field[0].lost
    assert "99% of the tile is cut off" in field[0].lost
    assert "padding" in scale[2].lost


def test_a_match_without_scale_is_refused(material: MakeMaterial) -> None:
    tiles = material(magnifications=THREE).tiles
    tiles = replace(tiles, table=tiles.table.with_columns(mpp=pl.lit(None, pl.Float64)))
    with pytest.raises(UserError, match="needs the scale of every magnification"):
        matched_view(tiles, ViewConfig(), "equal input_mpp")


def test_the_answer_names_the_largest_loss(material: MakeMaterial) -> None:
    matrix = matrix_of(material(magnifications=THREE, class_effect=0.5))
    worst = min(
        (c for c in matrix.cells if c.trained_on in THREE and c.differences), key=lambda c: c.differences[0].value
    )
    answer = matrix_answer([matrix])
    assert f"heads trained at {worst.trained_on} on {worst.magnification}" in answer
    assert "caused" not in answer


def cell(trained_on: str, magnification: str, difference: float, half: float) -> MatrixCell:
    """Return a cell with a made-up score and a difference of so wide an interval; none on the diagonal."""
    score = Score("auroc", 0.8, Interval(0.7, 0.9, 0.95, "made up"), 40, 20)
    gap = Score("auroc difference", difference, Interval(difference - half, difference + half, 0.95, "made up"), 40, 20)
    return MatrixCell(trained_on, magnification, (score,), () if trained_on == magnification else (gap,), 40, 20)


def test_a_loss_is_named_only_where_its_interval_shows_one() -> None:
    """A wide interval may have the lowest value of all cells; the largest loss that is shown is another one."""
    diagonal = (cell("40X", "40X", 0, 0), cell("100X", "100X", 0, 0))
    unsure, sure = cell("40X", "100X", -0.3, 0.5), cell("100X", "40X", -0.1, 0.05)
    shown = MagnificationMatrix("as it is", "equal", "view", (*diagonal, unsure, sure), ())  # type: ignore[arg-type]
    assert "The largest loss that is shown is that of heads trained at 100X on 40X" in matrix_answer([shown])
    nothing = replace(shown, cells=(*diagonal, unsure, cell("100X", "40X", -0.1, 0.2)))
    answer = matrix_answer([nothing])
    assert "No loss at another magnification is shown" in answer and "largest loss" not in answer
    assert "40X 0.800 (95% interval 0.700 to 0.900), 100X 0.800 (95% interval" in answer
