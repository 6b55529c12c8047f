"""Images in parts: the same table whatever the parts, sets and distances that hold, every kind of input."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import polars as pl
import pytest
from PIL import Image

import histotune as ht
from tests.conftest import CommandResult
from tests.deploy.conftest import train, write_cases

Histotune = Callable[..., CommandResult]


def read(path: Path) -> pl.DataFrame:
    return pl.read_csv(path)


def told(result: CommandResult) -> str:
    return " ".join(result.err.split())


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_parts_give_the_same_table_as_the_whole(
    histotune: Histotune, cases_head: Path, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = write_cases(tmp_path / "new", 10, 1)
    assert histotune("predict", cases_head, table, "--out", tmp_path / f"whole{suffix}").code == 0
    monkeypatch.setattr("histotune.deploy.predict.PART_TILES", 7)
    assert histotune("predict", cases_head, table, "--out", tmp_path / f"parts{suffix}").code == 0
    if suffix == ".parquet":
        assert pl.read_parquet(tmp_path / "parts.parquet").equals(pl.read_parquet(tmp_path / "whole.parquet"))
    else:
        assert (tmp_path / f"parts{suffix}").read_bytes() == (tmp_path / f"whole{suffix}").read_bytes()
    for unit in ("slides", "cases"):
        names = [tmp_path / f"{name}.{unit}{suffix}" for name in ("whole", "parts")]
        if suffix == ".parquet":
            frames = [pl.read_parquet(name) for name in names]
        else:
            frames = [pl.read_csv(name, separator="\t" if suffix == ".tsv" else ",") for name in names]
        assert frames[0].height == (20 if unit == "slides" else 10)
        probability = [frame["probability_malignant"].to_numpy() for frame in frames]
        np.testing.assert_allclose(*probability, rtol=1e-12)  # sums of floats in another order
        assert (
            frames[0]
            .drop("probability_benign", "probability_malignant")
            .equals(frames[1].drop("probability_benign", "probability_malignant"))
        )


def test_slides_and_cases_are_means_of_their_tiles(histotune: Histotune, cases_head: Path, tmp_path: Path) -> None:
    table = write_cases(tmp_path / "new", 6, 1)
    result = histotune("predict", cases_head, table, "--out", tmp_path / "p.csv")
    assert "p.csv, " in result.out and "p.slides.csv" in result.out and "p.cases.csv" in result.out
    tiles, cases = read(tmp_path / "p.csv"), read(tmp_path / "p.cases.csv")
    expected = tiles.group_by("case").agg(
        pl.col("probability_malignant").mean(), pl.len().alias("n_tiles"),
        pl.col("abstains").sum().alias("n_abstained"), pl.col("far").sum().alias("n_far"),
    ).sort("case")  # fmt: skip
    np.testing.assert_allclose(cases["probability_malignant"], expected["probability_malignant"], rtol=1e-12)
    for name in ("case", "n_tiles", "n_abstained", "n_far"):
        assert cases[name].to_list() == expected[name].to_list()
    said = np.where(cases["probability_malignant"] >= cases["threshold"], "malignant", "benign")
    assert cases["predicted"].to_list() == said.tolist()
    assert set(cases["decision"]) == {
        "mean of tiles: malignant where probability_malignant is at least the threshold, else benign"
    }


def test_without_slides_and_cases_there_is_one_table(histotune: Histotune, cases_head: Path, tmp_path: Path) -> None:
    write_cases(tmp_path / "new", 4, 1)
    (tmp_path / "new" / "tiles.csv").unlink()
    assert histotune("predict", cases_head, tmp_path / "new", "--out", tmp_path / "p.csv").code == 0
    assert not (tmp_path / "p.cases.csv").exists() and not (tmp_path / "p.slides.csv").exists()
    (tmp_path / "p.cases.csv").write_text("case\n", encoding="utf-8")
    again = histotune("predict", cases_head, tmp_path / "new", "--out", tmp_path / "p.csv")
    assert "p.cases.csv is of an earlier prediction" in told(again)
    table = read(tmp_path / "p.csv")
    assert table["case"].null_count() == table["slide"].null_count() == table["input_mpp"].null_count() == len(table)


def test_sets_hold_the_true_class_of_new_cases_and_coverage_is_said_with_its_n(
    histotune: Histotune, cases_head: Path, tmp_path: Path
) -> None:
    table = write_cases(tmp_path / "new", 60, 1)
    result = histotune("predict", cases_head, table, "--out", tmp_path / "p.csv")
    assert "of the tiles of 40 training groups held out in turn, 160 tiles" in told(result)
    assert "not for one image" in told(result)
    found = read(tmp_path / "p.csv").join(pl.read_csv(table).select("path", "label"), on="path")
    holds = found.select(pl.col("set").str.split(" | ").list.contains(pl.col("label"))).to_series()
    assert holds.mean() > 0.82  # type: ignore[operator]  # 60 cases: three standard errors below 0.9 at most
    assert (found["abstains"] == found["set"].str.contains(" | ", literal=True)).all()
    said_in_set = found.select(pl.col("set").str.split(" | ").list.contains(pl.col("predicted"))).to_series()
    assert said_in_set.all()
    more = histotune("predict", cases_head, table, "--out", tmp_path / "q.csv", "--coverage", "0.97")
    assert more.code == 0
    assert read(tmp_path / "q.csv")["abstains"].sum() >= found["abstains"].sum()


def test_a_coverage_beyond_the_groups_is_refused_before_anything_is_read(
    histotune: Histotune, cases_head: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("histotune.deploy.predict.embed", None)
    result = histotune("predict", cases_head, tmp_path / "train", "--coverage", "0.99")
    assert result.code == 2
    assert "40 calibration groups can't give this coverage" in result.err and "--coverage 0.9" in result.err


def test_below_thirty_groups_there_are_no_sets_and_the_reason_is_said(histotune: Histotune, tmp_path: Path) -> None:
    head = train(histotune, write_cases(tmp_path / "train", 29, 0), tmp_path / "head")
    result = histotune("predict", head, tmp_path / "train" / "tiles.csv", "--out", tmp_path / "p.csv")
    assert result.code == 0
    assert "29 groups trained it, and fewer than 30 say too little of new ones" in told(result)
    table = read(tmp_path / "p.csv")
    assert table["set"].null_count() == table["distance"].null_count() == len(table)
    cases = read(tmp_path / "p.cases.csv")
    assert cases["n_abstained"].null_count() == len(cases) and cases["n_far"].sum() == 0
    assert table["far"].sum() == 0, "what lies far outside in a column is known all the same"
    refused = histotune("predict", head, tmp_path / "train", "--coverage", "0.9")
    assert refused.code == 2 and "30 cases or more" in refused.err


def test_unknown_cases_give_no_sets(histotune: Histotune, tmp_path: Path) -> None:
    table = write_cases(tmp_path / "train", 40, 0)
    pl.read_csv(table).drop("group").write_csv(table)
    head = train(histotune, table, tmp_path / "head")
    result = histotune("predict", head, table, "--out", tmp_path / "p.csv")
    assert "the case of 160 of 160 training tiles is unknown" in told(result)


def test_heads_of_before_predict_and_say_once_that_there_are_no_sets(
    histotune: Histotune, cases_head: Path, tmp_path: Path
) -> None:
    from histotune.tools.files import CHECKSUM, hash_json, write_json

    facts = json.loads((cases_head / "bundle.json").read_text(encoding="utf-8"))
    old = {name: value for name, value in facts.items() if name not in (CHECKSUM, "reference")}
    write_json(cases_head / "bundle.json", {**old, CHECKSUM: hash_json(old)})
    (cases_head / "reference.safetensors").unlink()
    result = histotune("predict", cases_head, tmp_path / "train", "--out", tmp_path / "p.csv")
    assert result.code == 0
    assert result.err.count("No sets of classes") == 1
    assert read(tmp_path / "p.csv")["predicted"].null_count() == 0


def test_images_far_from_training_are_named_and_usual_ones_are_no_warning(
    histotune: Histotune, cases_head: Path, tmp_path: Path
) -> None:
    odd, usual = write_cases(tmp_path / "odd", 4, 2, shift=90.0), write_cases(tmp_path / "usual", 60, 3)
    result = histotune("--quiet", "predict", cases_head, odd, "--out", tmp_path / "odd.csv")
    assert "16 of 16 images lie far from what trained this head" in told(result)
    assert "held out in turn" in told(result)
    assert told(result).count("far ") == told(result).count("far from what") + told(result).count("far is beyond")
    assert read(tmp_path / "odd.csv")["far"].all()
    result = histotune("--quiet", "predict", cases_head, usual, "--out", tmp_path / "usual.csv")
    assert read(tmp_path / "usual.csv")["far"].mean() < 0.2


def test_another_scale_is_found_per_image(histotune: Histotune, cases_head: Path, tmp_path: Path) -> None:
    table = write_cases(tmp_path / "new", 3, 1)
    rows = pl.read_csv(table).with_columns(mpp=pl.when(pl.int_range(pl.len()) < 4).then(2.0).otherwise(0.55))
    rows.write_csv(table)
    result = histotune("predict", cases_head, table, "--out", tmp_path / "p.csv")
    assert "4 of 12 images are seen at another scale" in told(result)
    assert read(tmp_path / "p.csv")["other_scale"].to_list() == [True] * 4 + [False] * 8
    images = tmp_path / "new" / "*.png"
    result = histotune("predict", cases_head, images, "--out", tmp_path / "q.csv")
    assert "The scale of the images is unknown (--mpp)" in told(result)
    result = histotune("predict", cases_head, images, "--mpp", "0.5", "--out", tmp_path / "q.csv")
    assert result.code == 0 and "scale" not in told(result)
    assert read(tmp_path / "q.csv")["other_scale"].to_list() == [False] * 12


def test_files_folders_patterns_tables_and_hdf5_say_the_same(
    histotune: Histotune, cases_head: Path, tmp_path: Path
) -> None:
    table = write_cases(tmp_path / "new", 4, 1)
    images = sorted((tmp_path / "new").glob("*.png"))
    with h5py.File(tmp_path / "new.h5", "w") as file:
        file["x"] = np.stack([np.asarray(Image.open(path)) for path in images])
    ways = {
        "files": images, "folder": [tmp_path / "new"], "pattern": [f"{tmp_path}/ne[w]/*.png"], "table": [table],
        "hdf5": [tmp_path / "new.h5"], "deep": [f"{tmp_path}/**/c1_*.png"],
    }  # fmt: skip
    found = {}
    for name, words in ways.items():
        assert histotune("predict", cases_head, *words, "--out", tmp_path / "p.csv").code == 0, name
        found[name] = read(tmp_path / "p.csv")
    for name, one in found.items():
        assert one["probability_malignant"].to_list() == found["files"]["probability_malignant"].to_list(), name
    assert found["hdf5"]["path"][3] == f"{tmp_path}/new.h5/0000003"


def test_a_name_that_looks_like_a_pattern_is_itself(histotune: Histotune, cases_head: Path, tmp_path: Path) -> None:
    write_cases(tmp_path / "set1", 2, 1)
    shutil.copytree(tmp_path / "set1", tmp_path / "set[1]")
    (tmp_path / "set[1]" / "c1_000_0.png").unlink()
    assert histotune("predict", cases_head, tmp_path / "set[1]", "--out", tmp_path / "p.csv").code == 0
    assert read(tmp_path / "p.csv").height == 7
    nothing = histotune("predict", cases_head, tmp_path / "none*.png")
    assert nothing.code == 2 and "as a pattern it matches nothing" in nothing.err


def test_unreadable_images_have_rows_without_a_prediction(
    histotune: Histotune, cases_head: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cases(tmp_path / "new", 3, 1)
    for name in ("c1_000_1.png", "c1_002_3.png"):  # the last one is alone in its part
        (tmp_path / "new" / name).write_bytes(b"no image")
    monkeypatch.setattr("histotune.deploy.predict.PART_TILES", 11)
    images = f"{tmp_path}/new/*.png"
    assert histotune("predict", cases_head, images, "--out", tmp_path / "p.csv").code == 2
    assert not (tmp_path / "p.csv").exists()
    result = histotune("predict", cases_head, images, "--out", tmp_path / "p.csv", "--on-bad-image", "skip")
    assert result.code == 0, result.err
    table = read(tmp_path / "p.csv")
    assert [row for row, said in enumerate(table["predicted"]) if said is None] == [1, 11]
    assert table.filter(pl.col("predicted").is_null()).select("threshold", "decision", "set").null_count().row(0) == (
        2, 2, 2,
    )  # fmt: skip
    for path in (tmp_path / "new").glob("*.png"):
        path.write_bytes(b"no image")
    assert histotune("predict", cases_head, images, "--out", tmp_path / "q.csv", "--on-bad-image", "skip").code == 2
    assert not (tmp_path / "q.csv").exists()


def test_several_classes_get_sets_too(histotune: Histotune, tmp_path: Path) -> None:
    table = write_cases(tmp_path / "train", 45, 0)
    names = pl.col("group").str.split("-").list.last().cast(pl.Int64) % 3
    pl.read_csv(table).with_columns(label=names.replace_strict({0: "a", 1: "b", 2: "c"})).write_csv(table)
    head = train(histotune, table, tmp_path / "head")
    assert histotune("predict", head, table, "--out", tmp_path / "p.csv").code == 0
    found, cases = read(tmp_path / "p.csv"), read(tmp_path / "p.cases.csv")
    assert found["abstains"].any() and set("".join(found["set"])) <= set("abc |")
    assert set(cases["predicted"]) <= {"a", "b", "c"}
    columns = ["probability_a", "probability_b", "probability_c"]
    most = np.array(["a", "b", "c"])[cases.select(columns).to_numpy().argmax(axis=1)]
    assert cases["predicted"].to_list() == most.tolist()


def test_in_python_the_table_comes_back_and_is_written(
    histotune: Histotune, cases_head: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = write_cases(tmp_path / "new", 3, 1)
    monkeypatch.setattr("histotune.deploy.predict.PART_TILES", 5)
    plain = ht.predict(cases_head, table, coverage=0.8)
    written = ht.predict(cases_head, str(table), coverage=0.8, out=tmp_path / "p.parquet")
    assert plain.equals(written)
    assert plain.equals(pl.read_parquet(tmp_path / "p.parquet"))
    assert (tmp_path / "p.cases.parquet").is_file()


def test_a_network_is_loaded_once_for_all_parts(
    histotune: Histotune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from histotune.backbones import engine

    table = write_cases(tmp_path / "train", 6, 0)
    options = ("--set", "sweep.folds=2", "--set", "view.size_px=32", "--set", "sweep.penalties=[1.0]")
    result = histotune("sweep", "tiles", "--data", table, "--backbone", "random/timm/test_resnet", "--out",
                       tmp_path / "head", *options)  # fmt: skip
    assert result.code == 0, result.err
    new, loads, load = write_cases(tmp_path / "new", 6, 1), [], engine.load_backbone
    monkeypatch.setattr(engine, "load_backbone", lambda *given: loads.append(given) or load(*given))
    monkeypatch.setattr("histotune.deploy.predict.PART_TILES", 6)
    assert histotune("predict", tmp_path / "head", new, "--out", tmp_path / "p.csv").code == 0
    assert len(loads) == 1
