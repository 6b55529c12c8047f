"""Splits in a study: folds that are held out in turn, parts that train and are scored, marks on every row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from histotune.datasets.config import DatasetConfig
from histotune.datasets.read import read_dataset
from histotune.datasets.splits.named import named_split, save_split
from histotune.datasets.splits.split import Split, tile_groups
from histotune.evaluation.answer import write_answer
from histotune.evaluation.config import EvaluationConfig
from histotune.evaluation.external import study_target
from histotune.evaluation.held_out import ArmMaterial, SourceStudy, StudySettings, study_source
from histotune.evaluation.material import Material
from histotune.evaluation.plan import plan_source, with_parts
from histotune.heads.config import SweepConfig
from histotune.statistics.predictions import IntervalConfig
from histotune.tools.errors import UserError
from histotune.tools.marks import PROBE
from tests.datasets.fakes import tree_folder, write_image
from tests.datasets.splits.cohorts import published_names

MakeMaterial = Callable[..., Material]
SWEEP = SweepConfig(penalties=(0.01, 1.0), folds=3)
INTERVAL = IntervalConfig(n_resamples=200)


def study(material: Material, **changes: object) -> SourceStudy:
    evaluation = EvaluationConfig.model_validate({"train_magnification": "100X", "untuned_draws": 20, **changes})
    return study_source((ArmMaterial(PROBE, material),), StudySettings(evaluation, SWEEP, INTERVAL))


def test_the_default_is_the_split_of_its_name(material: MakeMaterial) -> None:
    tiles = material().tiles
    plain = plan_source(tiles, EvaluationConfig(outer_folds=4, seed=3))
    named = plan_source(tiles, EvaluationConfig(split="grouped-4-seed3"))
    assert plain.split == named.split
    assert np.array_equal(plain.fit.fold_N, named.fit.fold_N)


def test_protocols_name_the_split_and_its_hash(material: MakeMaterial) -> None:
    data = material()
    found = study(data, split="grouped-3-seed2")
    split = named_split("grouped-3-seed2", data.tiles)
    words = f"Nested cross-validation over split grouped-3-seed2 (hash {split.split_hash[:12]}): 3 outer folds"
    assert words in found.findings[0].protocol
    assert words in found.findings[1].protocol
    assert found.split_hash == split.split_hash
    assert found.scored_words == "cross-fit"
    assert "cross-fitted over 3 folds" in found.findings[0].rows[0].trained_on
    assert found.findings[0].notes == split.notes
    assert not any("LEAKY" in row.marks for finding in found.findings[:2] for row in finding.rows)


def test_a_split_file_gives_the_same_study_as_its_name(material: MakeMaterial, tmp_path: Path) -> None:
    data = material()
    save_split(named_split("grouped-3-seed2", data.tiles), tmp_path / "mine.json")
    by_name, by_file = study(data, split="grouped-3-seed2"), study(data, split=str(tmp_path / "mine.json"))
    assert repr(by_name.findings) == repr(by_file.findings)  # NaN differs from itself


def test_parts_train_once_and_score_the_held_out_cases_at_every_magnification(material: MakeMaterial) -> None:
    data = material(class_effect=1.5, group_effect=0.5)
    found = study(data, split="holdout-25-seed0", final=True)
    split = named_split("holdout-25-seed0", data.tiles)
    held_out = {key for key, side in split.side_by_key.items() if side == "test"}
    table = found.scored[0].predictions.table
    assert set(table["group_id"]) == held_out
    assert table.height == sum(group in held_out for group in tile_groups(data.tiles))
    assert table["head_id"].unique().to_list() == [found.choice.head_id], "the scored head is the one that is saved"
    assert set(found.finals[0].result.head.train_groups) == set(split.side_by_key) - held_out
    assert [finding.id for finding in found.findings] == ["in-domain", "cross-magnification"]
    assert {row.domain for row in found.findings[1].rows} == {"toy 100X", "toy 400X"}
    for row in found.findings[1].rows:
        assert row.scores[0].n_groups == len(held_out)
        assert "LEAKY" not in row.marks
    protocol = found.findings[0].protocol
    assert f"Split {split.title}: trained on its train part" in protocol
    assert "scored on its test part, which takes no part in any choice" in protocol
    assert found.findings[0].rows[0].trained_on == "toy 100X, train part of holdout-25-seed0"
    assert "The leak's price is not measured: it needs grouped folds to compare with." in found.findings[0].notes
    assert found.scored_words == "holdout-25-seed0 test"


def test_scored_tiles_do_not_reach_the_head(material: MakeMaterial) -> None:
    data = material()
    split = named_split("holdout-25-seed0", data.tiles)
    outside = np.flatnonzero([side == "test" for side in split.side_of_tiles(data.tiles)])
    changed = data.embeddings.matrix_ND.copy()
    changed[outside] *= -3
    honest = study(data, split="holdout-25-seed0", final=True)
    object.__setattr__(data.embeddings, "matrix_ND", changed)
    tampered = study(data, split="holdout-25-seed0", final=True)
    np.testing.assert_allclose(
        honest.finals[0].result.head.weight_KD, tampered.finals[0].result.head.weight_KD, atol=1e-5
    )


def test_the_test_part_needs_final(material: MakeMaterial) -> None:
    with pytest.raises(UserError) as caught:
        study(material(), split="holdout-25-seed0")
    assert "the split holdout-25-seed0 has no labelled tiles in its valid part" in str(caught.value)
    assert "fix: add --final to score the test part; every scoring is counted" in str(caught.value)


def leaky_file(data: Material, path: Path, kind: str) -> str:
    """A split by tiles that tears every case apart."""
    words = ("train", "valid") if kind == "parts" else ("0", "1")
    sides = {tile_id: words[place % 2] for place, tile_id in enumerate(data.tiles.tile_ids)}
    save_split(Split("torn", "parts" if kind == "parts" else "folds", "tile", sides), path / "torn.json")
    return str(path / "torn.json")


@pytest.mark.parametrize("kind", ["folds", "parts"])
def test_a_leaky_split_is_refused_or_marks_every_row(kind: str, material: MakeMaterial, tmp_path: Path) -> None:
    data = material()
    path = leaky_file(data, tmp_path, kind)
    with pytest.raises(UserError, match=r"the split torn leaks: 16 groups lie on two sides"):
        study(data, split=path)
    found = study(data, split=path, allow_leaky=True)
    assert all("LEAKY" in row.marks for finding in found.findings for row in finding.rows)
    assert found.findings[0].title.startswith("Held-out tiles")
    assert all("LEAKY" in finding.protocol for finding in found.findings)
    assert "excluded its case" not in found.findings[0].protocol
    assert "no case that trained a head" not in found.findings[1].protocol
    assert any(note.startswith("LEAKY: 16 groups") for note in found.findings[0].notes)
    answer = write_answer(found.findings)
    assert "With cases on both sides of the split (LEAKY)" in answer
    assert "On held-out cases" not in answer


def test_random_images_choose_by_image_inside_too(material: MakeMaterial) -> None:
    data = material(class_effect=0.0, group_effect=3.0)
    found = study(data, split="random-images-4-seed0", allow_leaky=True)
    assert "3-fold image cross-validation" in found.findings[0].protocol
    probe = found.findings[0].row(PROBE)
    assert probe is not None
    assert probe.score("auroc").value > 0.9  # type: ignore[union-attr]
    assert "LEAKY" in probe.marks
    assert [finding.id for finding in found.findings] == ["in-domain", "cross-magnification"]


def test_tiles_outside_a_partial_split_neither_train_nor_are_scored(material: MakeMaterial, tmp_path: Path) -> None:
    data = material()
    whole = named_split("grouped-3-seed0", data.tiles)
    sides = {
        tile_id: side
        for tile_id, side, group in zip(
            data.tiles.tile_ids, whole.side_of_tiles(data.tiles), tile_groups(data.tiles), strict=True
        )
        if group not in ("g00", "g01") and side is not None
    }
    save_split(Split("part", "folds", "tile", sides, partial=True), tmp_path / "part.json")
    found = study(data, split=str(tmp_path / "part.json"))
    assert not {"g00", "g01"} & set(found.scored[0].predictions.table["group_id"])
    assert not {"g00", "g01"} & set(found.finals[0].result.head.train_groups)
    assert "24 tiles take no part in this split." in found.findings[0].notes
    assert all(row.scores[0].n_groups == 14 for row in found.findings[0].rows)


def test_a_split_of_another_magnification_names_its_own(material: MakeMaterial, tmp_path: Path) -> None:
    data = material()
    sides = {
        tile_id: "train" if int(group[1:]) % 3 else "valid"
        for tile_id, group in zip(data.tiles.tile_ids, tile_groups(data.tiles), strict=True)
        if "400X" in tile_id
    }
    save_split(Split("only-400X", "parts", "tile", sides, partial=True), tmp_path / "one.json")
    with pytest.raises(UserError) as caught:
        study(data, split=str(tmp_path / "one.json"))
    assert "the split only-400X has no training tiles at this magnification: '100X'" in str(caught.value)
    assert "fix: --train-magnification 400X" in str(caught.value)
    found = study(data, split=str(tmp_path / "one.json"), train_magnification="400X")
    assert {row.domain for row in found.findings[0].rows} == {"toy 400X"}
    with pytest.raises(UserError, match="leave out --final: this split is scored on its valid part"):
        study(data, split=str(tmp_path / "one.json"), train_magnification="400X", final=True)


def test_published_splits_train_and_score_what_they_say(tmp_path: Path) -> None:
    for name in published_names():
        write_image(tree_folder(tmp_path, name), f"{name}.png")
    tiles = read_dataset(DatasetConfig(name="breakhis", path=tmp_path, labels="eva4"))
    wish = {"allow_leaky": True, "train_magnification": "40X"}
    for name, final, n_train, n_scored in (
        ("eva", False, 1132, 339),
        ("thunder", False, 936, 196),
        ("thunder", True, 936, 339),
    ):
        plan = plan_source(tiles, EvaluationConfig.model_validate({**wish, "split": name, "final": final}))
        assert int(plan.fit.train_N.sum()) == n_train
        assert int((plan.fit.fold_N >= 0).sum()) == n_scored
        assert not (plan.fit.train_N & (plan.fit.fold_N >= 0)).any()
    with pytest.raises(UserError, match="the split eva has no labelled tiles in its test part"):
        plan_source(tiles, EvaluationConfig.model_validate({**wish, "split": "eva", "final": True}))
    with pytest.raises(UserError, match="the split eva leaks: 4 groups"):
        plan_source(tiles, EvaluationConfig(split="eva", train_magnification="40X"))


def test_official_parts_that_share_a_group_are_marked(material: MakeMaterial) -> None:
    data = material(magnifications=("100X",))
    parts = pl.Series("split", [("train", "valid")[row % 2] for row in range(len(data.tiles))])
    for split, leaky in (
        (parts, True),
        (pl.Series("split", ["train" if int(group[1:]) % 3 else "valid" for group in tile_groups(data.tiles)]), False),
    ):
        tiles = replace(data.tiles, table=data.tiles.table.with_columns(split))
        arm = ArmMaterial(PROBE, Material(tiles, data.embeddings, data.input_mpp_N, data.view, data.default_pooling))
        found = study_target((arm,), None, StudySettings(EvaluationConfig(untuned_draws=20), SWEEP, INTERVAL), "valid")
        assert [row.marks for row in found.findings[0].rows] == [("LEAKY",) if leaky else ()] * len(
            found.findings[0].rows
        )


def test_a_second_data_set_is_studied_by_the_parts_of_a_named_split(material: MakeMaterial) -> None:
    data = material(magnifications=("100X",))
    evaluation = EvaluationConfig(split="holdout-25-seed0", final=True, untuned_draws=20)
    tiles, split = with_parts(data.tiles, evaluation)
    assert split is not None
    assert set(tiles.table["split"]) == {"train", "test"}
    settings = StudySettings(evaluation, SWEEP, INTERVAL, split)
    arm = ArmMaterial(PROBE, Material(tiles, data.embeddings, data.input_mpp_N, data.view, data.default_pooling))
    found = study_target((arm,), None, settings, "test")
    assert split.title in found.findings[0].protocol
    assert {row.domain for row in found.findings[0].rows} == {"toy test 100X"}
    table = found.scored[0].predictions.table.filter(pl.col("group_id").is_not_null())
    assert set(table["group_id"]) == {key for key, side in split.side_by_key.items() if side == "test"}
    with pytest.raises(UserError, match="studied by its parts here, and this split has folds"):
        with_parts(data.tiles, EvaluationConfig(split="grouped-3-seed0"))
    assert with_parts(data.tiles, EvaluationConfig()) == (data.tiles, None)
