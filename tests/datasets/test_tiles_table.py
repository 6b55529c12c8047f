"""A user's table: every column used as it says, every mistake named, nothing guessed in silence."""

from __future__ import annotations

import gzip
from pathlib import Path

import polars as pl
import pytest
from PIL import Image

from histotune.datasets.config import DatasetConfig
from histotune.datasets.describe import describe, render_text
from histotune.datasets.read import read_dataset
from histotune.datasets.tileset import TileSet
from histotune.tools.errors import UserError


def write_images(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30)).save(path)


def read(path: Path, **settings: object) -> TileSet:
    return read_dataset(DatasetConfig.model_validate({"name": "tiles", "path": path, **settings}))


def message(path: Path, **settings: object) -> str:
    with pytest.raises(UserError) as caught:
        read(path, **settings)
    return str(caught.value)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    write_images(tmp_path, "img/a.png", "img/b.jpg", "img/c.tif")
    return tmp_path / "tiles.csv"


def test_every_column(table: Path) -> None:
    table.write_text(
        "path,label,group,slide,site,scanner,stain,mpp,magnification,split\n"
        "img/a.png,tumor,p1,s1,Here,X,H&E,0.5,20x,train\n"
        "img/b.jpg,normal,p2,s2,There,Y,IHC,0.25,40,val\n",
        encoding="utf-8",
    )
    tiles = read(table)
    assert tiles.table.row(0, named=True) == {
        "tile_id": "img/a.png", "path": str(table.parent / "img/a.png"), "row": None, "label": 1, "group_id": "p1",
        "source_patient_id": None, "slide_id": "s1", "site": "Here", "scanner": "X", "stain": "H&E",
        "magnification": "20X", "mpp": 0.5, "mpp_source": "user", "mpp_factor": 1.0, "width_px": 40, "height_px": 30,
        "split": "train",
    }  # fmt: skip
    assert tiles.table.row(1, named=True)["split"] == "valid"
    assert tiles.table["magnification"].to_list() == ["20X", "40X"]
    assert tiles.class_names == ("normal", "tumor")
    assert (tiles.name, tiles.licence, tiles.citation) == ("tiles", "the user's own", "the user's own")
    assert any(note.startswith("Class 1, the positive one, is tumor (going by its name)") for note in tiles.notes)


def test_only_the_path_is_required(table: Path) -> None:
    table.write_text("path\nimg/a.png\nimg/c.tif\n", encoding="utf-8")
    tiles = read(table)
    assert tiles.labels_N.tolist() == [-1, -1]
    assert tiles.class_names == ()
    assert "2 of 2 tiles are unlabelled" in " ".join(tiles.notes)
    assert "The group of all tiles is unknown: folds over single tiles are LEAKY" in " ".join(tiles.notes)
    assert "none labelled" in render_text(describe(tiles))


def test_a_tile_is_known_by_its_path_as_written(table: Path) -> None:
    absolute = table.parent / "img/a.png"
    table.write_text(f"path\n{absolute}\n./img/b.jpg\n", encoding="utf-8")
    tiles = read(table)
    assert set(tiles.tile_ids) == {str(absolute), "./img/b.jpg"}
    assert set(tiles.table["path"]) == {str(absolute), str(table.parent / "img/b.jpg")}


def test_empty_cells_are_unknown(table: Path) -> None:
    table.write_text("path,label,group,mpp\nimg/a.png,0, p ,\nimg/b.jpg,, ,0.5\nimg/c.tif,1,p,\n", encoding="utf-8")
    tiles = read(table)
    assert tiles.table["group_id"].to_list() == ["p", None, "p"]
    assert tiles.labels_N.tolist() == [0, -1, 1]
    text = " ".join(tiles.notes)
    assert "um/px of 1 tiles as given with them; unknown for 2 tiles" in text
    assert "The group of 1 of 3 tiles is unknown" in text
    assert "1 of 3 tiles are unlabelled" in text


@pytest.mark.parametrize("labels", [["0", "1", "10"], ["2", "10", "1"], ["0.0", "1.0", ""]])
def test_whole_number_labels_are_sorted_by_value(table: Path, labels: list[str]) -> None:
    names = ("img/a.png", "img/b.jpg", "img/c.tif")
    rows = "".join(f"{name},{label}\n" for name, label in zip(names, labels, strict=True))
    table.write_text("path,label\n" + rows, encoding="utf-8")
    classes = read(table).class_names
    assert list(classes) == sorted(classes, key=int)
    assert all(name.isdecimal() for name in classes)


def test_the_positive_class_can_be_chosen(table: Path) -> None:
    table.write_text("path,label\nimg/a.png,alpha\nimg/b.jpg,beta\n", encoding="utf-8")
    assert read(table).class_names == ("alpha", "beta")
    assert any("beta (the later name); another: --set source.positive_class=alpha" in n for n in read(table).notes)
    tiles = read(table, positive_class="alpha")
    assert tiles.class_names == ("beta", "alpha")
    assert tiles.labels_N.tolist() == [1, 0]
    assert "did you mean: alpha?" in message(table, positive_class="alpah")


def test_the_users_scale_wins_over_the_tables(table: Path) -> None:
    table.write_text("path,mpp\nimg/a.png,0.5\nimg/b.jpg,\n", encoding="utf-8")
    assert read(table, mpp=0.3).table["mpp"].to_list() == [0.3, 0.3]


@pytest.mark.parametrize("name", ["tiles.tsv", "semicolon.csv", "bom.csv", "tiles.csv.gz", "tiles.parquet"])
def test_other_kinds_of_table(table: Path, name: str) -> None:
    path = table.parent / name
    rows = [["path", "label", "group"], ["img/a.png", "1", "7"], ["img/b.jpg", "0", "8"]]
    if name == "tiles.parquet":
        pl.DataFrame({"path": ["img/a.png", "img/b.jpg"], "label": [1, 0], "group": [7, 8]}).with_columns(
            pl.col("label").cast(pl.String).cast(pl.Categorical)
        ).write_parquet(path)
    else:
        mark = {"tiles.tsv": "\t", "semicolon.csv": ";"}.get(name, ",")
        data = "".join(mark.join(row) + "\r\n" for row in rows).encode("utf-8-sig" if name == "bom.csv" else "utf-8")
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    tiles = read(path)
    assert tiles.labels_N.tolist() == [1, 0]
    assert tiles.table["group_id"].to_list() == ["7", "8"]


def test_misspelt_columns_stop_everything(table: Path) -> None:
    table.write_text("path,lable,Group,slide_id\nimg/a.png,0,1,2\n", encoding="utf-8")
    text = message(table)
    assert text.count("this column looks like a misspelt one") == 3
    for near in ("label", "group", "slide"):
        assert f"did you mean: {near}?" in text


def test_other_columns_are_named_with_a_hint(table: Path) -> None:
    table.write_text("path,label,patient,age\nimg/a.png,0,1,2\nimg/b.jpg,1,1,2\n", encoding="utf-8")
    assert "Columns that are not used: patient (did you mean group?), age." in read(table).notes


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("filename,label\nimg/a.png,0\n", 'this table has no column "path"'),
        ("filename,label\nimg/a.png,0\n", "fix: rename filename to path"),
        ("paths,label\nimg/a.png,0\n", "did you mean: path?"),
        ("path,label\n", "has no rows"),
        ("path,label\nimg/a.png,0\n,1\n", "line 3"),
        ("path,label\nimg/a.png,0\nimg/a.png,1\n", "1 tiles are named more than once: 'img/a.png'"),
        ("path,label\nimg/a.png,0\n./img/a.png,1\n", "1 files are named in several ways: 'img/a.png and ./img/a.png'"),
        ("path,label\nimg/none.png,0\nimg,1\n", "2 images can't be read: 'img/none.png (missing), img (a folder)'"),
        ("path,label\nimg/a.png,Tumor\nimg/b.jpg,tumor\n", "labels that look alike would be different classes"),
        ("path,mpp\nimg/a.png,0.5\nimg/b.jpg,half\nimg/c.tif,-1\n", "2 rows have an mpp that is no positive number"),
        ("path,split\nimg/a.png,train\nimg/b.jpg,fold1\n", "these parts are unknown: 'fold1'"),
        ("path,label\nimg/a.png,0,7\n", "can't be read"),
        ("", "can't be read"),
    ],
)
def test_mistakes(table: Path, text: str, said: str) -> None:
    table.write_text(text, encoding="utf-8")
    assert said in message(table)


def test_several_mistakes_come_together(table: Path) -> None:
    table.write_text("path,label,split\nimg/a.png,0,fold1\nimg/a.png,0,train\nimg/no.png,1,test\n", encoding="utf-8")
    text = message(table)
    for said in ("named more than once", "parts are unknown", "can't be read"):
        assert said in text


def test_a_table_in_another_encoding_or_another_format(table: Path) -> None:
    table.write_bytes("path,label\nimg/a.png,Knötchen\n".encode("latin-1"))
    assert "can't be read" in message(table)
    other = table.parent / "tiles.xlsx"
    other.write_bytes(b"PK")
    assert "allowed: .csv, .tsv" in message(other)
    nested = table.parent / "nested.parquet"
    pl.DataFrame({"path": [["a"]]}).write_parquet(nested)
    assert 'column "path" holds List' in message(nested)


def test_parts_that_leak_or_lack_something_are_noted(table: Path) -> None:
    table.write_text(
        "path,label,group,split\nimg/a.png,0,p,train\nimg/b.jpg,1,p,test\nimg/c.tif,0,q,\n", encoding="utf-8"
    )
    text = " ".join(read(table).notes)
    assert "1 groups lie in more than one part, such as p: the parts leak." in text
    assert "Part test lacks 0." in text
    assert "1 of 3 tiles belong to no part" in text


def test_a_pattern_for_groups_is_for_folders(table: Path) -> None:
    table.write_text("path\nimg/a.png\n", encoding="utf-8")
    assert message(table, group_pattern="(?P<group>.)").startswith("group_pattern is for class folders")


def test_rendered_tissue_stays_marked(table: Path) -> None:
    table.write_text("path\nimg/a.png\n", encoding="utf-8")
    (table.parent / "SYNTHETIC.json").write_text("{}", encoding="utf-8")
    assert read(table).synthetic


def test_a_scale_given_in_the_settings_is_taken_with_its_uncertainty(table: Path) -> None:
    table.write_text("path,label,magnification\nimg/a.png,0,20x\nimg/b.jpg,1,40x\nimg/c.tif,1,40x\n", encoding="utf-8")
    scale = {"20X": 0.6, "40X": 0.3}
    tiles = read(table, mpp_by_magnification=scale, mpp_factor=1.4)
    assert tiles.table["mpp"].to_list() == [0.6, 0.3, 0.3]
    assert set(tiles.table["mpp_source"]) == {"estimated"} and set(tiles.table["mpp_factor"]) == {1.4}
    assert set(read(table, mpp=0.5).table["mpp_source"]) == {"user"}
    assert set(read(table, mpp=0.5, mpp_factor=2).table["mpp_factor"]) == {2.0}
    assert "exactly the magnifications" in message(table, mpp_by_magnification={"20X": 0.6})
