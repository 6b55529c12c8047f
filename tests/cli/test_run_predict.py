"""`histotune predict`: which files it takes, what its table says, and how the table is written."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from tests.conftest import CommandResult

Histotune = Callable[..., CommandResult]
DECISION = "malignant where probability_malignant is at least the threshold, else benign"


@pytest.fixture
def head(histotune: Histotune, tmp_path: Path) -> Path:
    """Return a head of two classes, trained on made-up tiles."""
    rng = np.random.default_rng(0)
    for number in range(24):
        name = ("benign", "malignant")[number % 2]
        path = tmp_path / "data" / name / f"p{number // 2}_{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.normal(150 - 40 * (number % 2), 30, (20, 20, 3)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(path)
    options = ("--backbone", "colour-histogram", "--set", "sweep.folds=3", "--set", "sweep.penalties=[0.1,1]",
               "--set", "source.group_pattern=^(?P<group>[^_]+)_")  # fmt: skip
    result = histotune("sweep", "tiles", "--data", tmp_path / "data", "--out", tmp_path / "head", *options)
    assert result.code == 0, result.err
    return tmp_path / "head"


def test_the_table_says_by_which_threshold_it_was_decided(histotune: Histotune, head: Path, tmp_path: Path) -> None:
    columns = ["path", "predicted", "probability_benign", "probability_malignant", "threshold", "decision"]
    columns += ["set", "abstains", "distance", "far", "input_mpp", "other_scale", "slide", "case"]
    printed = histotune("predict", head, tmp_path / "data")
    tables = [pl.read_csv(io.StringIO(printed.out))]
    for name, read in (("p.csv", pl.read_csv), ("p.parquet", pl.read_parquet)):
        assert histotune("predict", head, tmp_path / "data", "--out", tmp_path / name).code == 0
        tables.append(read(tmp_path / name))
    for table in tables:
        assert table.columns == columns
        assert table["threshold"].n_unique() == 1 and set(table["decision"]) == {DECISION}
        said = pl.when(pl.col("probability_malignant") >= pl.col("threshold")).then(pl.lit("malignant"))
        assert table.select((said.otherwise(pl.lit("benign")) == pl.col("predicted")).all()).item()


def test_files_that_are_none_are_skipped_counted_and_said(histotune: Histotune, head: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "benign"
    (folder / "._p0_0.png").write_bytes(b"\0\5\26\7")
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "x.png").write_bytes(b"x")
    (folder / "broken.png").symlink_to(tmp_path / "gone.png")
    os.mkfifo(folder / "pipe.png")
    result = histotune("predict", head, folder)
    assert result.code == 0, result.err
    assert len(result.out.splitlines()) == 13
    assert "Skipped 4 files: " in " ".join(result.err.split())
    assert "._p0_0.png" in result.err and "broken.png" in result.err and "pipe.png" in result.err


def test_a_folder_of_hidden_files_alone_is_one_message(histotune: Histotune, head: Path, tmp_path: Path) -> None:
    (tmp_path / "mac").mkdir()
    (tmp_path / "mac" / "._a.png").write_bytes(b"\0")
    result = histotune("predict", head, tmp_path / "mac")
    assert result.code == 2
    assert "no image here" in result.err
    assert "(skipped: ._a.png (hidden))" in " ".join(result.err.split())


@pytest.mark.parametrize("name", ["p.xls", "p.json", "p.csv.gz", "p.h5", "p.ods"])
def test_other_formats_are_refused_before_anything_is_computed(
    histotune: Histotune, head: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("histotune.deploy.predict.embed", None)
    result = histotune("predict", head, tmp_path / "data", "--out", tmp_path / name)
    assert result.code == 2
    assert "allowed: .csv, .tsv, .parquet, .xlsx" in result.err
    assert not (tmp_path / name).exists()


def test_excel_without_its_package_is_refused_before_anything_is_computed(
    histotune: Histotune, head: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("histotune.deploy.predict.embed", None)
    monkeypatch.setattr("histotune.deploy.prediction_table.find_spec", lambda name: None)
    result = histotune("predict", head, tmp_path / "data", "--out", tmp_path / "p.xlsx")
    assert result.code == 2
    assert "histotune[excel]" in result.err and "p.csv" in result.err


@pytest.mark.skipif(find_spec("xlsxwriter") is None, reason="needs the extra excel")
def test_excel_holds_the_table_and_no_formula(
    histotune: Histotune, head: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = tmp_path / "data" / "benign" / "=1+1.png"
    (tmp_path / "data" / "benign" / "p0_0.png").rename(odd)
    monkeypatch.chdir(odd.parent)
    result = histotune("predict", head, odd.name, "--out", tmp_path / "p.xlsx")
    assert result.code == 0, result.err
    with zipfile.ZipFile(tmp_path / "p.xlsx") as file:
        sheet, texts = (file.read(f"xl/{name}.xml").decode() for name in ("worksheets/sheet1", "sharedStrings"))
    assert "<f>" not in sheet
    assert "=1+1.png" in texts and DECISION in texts


def test_tabs_are_written_by_their_suffix(histotune: Histotune, head: Path, tmp_path: Path) -> None:
    assert histotune("predict", head, tmp_path / "data", "--out", tmp_path / "p.tsv").code == 0
    assert (tmp_path / "p.tsv").read_text(encoding="utf-8").startswith("path\tpredicted\t")
