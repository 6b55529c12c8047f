"""Ids and labels in every kind of data set go through one reader: tables, parquet, folders, Python files, slides."""

from __future__ import annotations

import io
import logging
import unicodedata
from pathlib import Path

import polars as pl
import pytest
from PIL import Image

from histotune.datasets.config import DatasetConfig
from histotune.datasets.read import read_dataset
from histotune.datasets.rows import check_class_count
from histotune.datasets.tileset import TileSet
from histotune.tools.errors import UserError

Rows = list[tuple[object, ...]]


def png() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 3)).save(stream, "PNG")
    return stream.getvalue()


def as_csv(folder: Path, rows: Rows) -> DatasetConfig:
    lines = ["path,label,group"]
    for number, row in enumerate(rows):
        (folder / f"{number}.png").write_bytes(png())
        lines.append(",".join([f"{number}.png", *('"' + str("" if cell is None else cell) + '"' for cell in row)]))
    (folder / "tiles.csv").write_text("\n".join(lines), encoding="utf-8")
    return DatasetConfig(name="tiles", path=folder / "tiles.csv")


def as_parquet_table(folder: Path, rows: Rows) -> DatasetConfig:
    for number in range(len(rows)):
        (folder / f"{number}.png").write_bytes(png())
    columns = {"path": [f"{number}.png" for number in range(len(rows))], **_text(rows)}
    pl.DataFrame(columns).write_parquet(folder / "tiles.parquet")
    return DatasetConfig(name="tiles", path=folder / "tiles.parquet")


def as_image_parquet(folder: Path, rows: Rows) -> DatasetConfig:
    pl.DataFrame({"image": [{"bytes": png(), "path": None}] * len(rows), **_text(rows)}).write_parquet(
        folder / "a.parquet"
    )
    return DatasetConfig(name="tiles", path=folder / "a.parquet")


def as_python(folder: Path, rows: Rows) -> DatasetConfig:
    for number in range(len(rows)):
        (folder / f"{number}.png").write_bytes(png())
    tiles = ", ".join(f"Tile('{number}.png', label={row[0]!r}, group={row[1]!r})" for number, row in enumerate(rows))
    (folder / "mine.py").write_text(
        "from histotune.datasets import DatasetSpec, Tile\nnan = float('nan')\n"
        "SPEC = DatasetSpec(name='mine', title='M', licence='CC0', citation='me')\n"
        f"def read(config):\n    return [{tiles}]\n",
        encoding="utf-8",
    )
    return DatasetConfig(name="python", path=folder, code=folder / "mine.py")


def as_folders(folder: Path, rows: Rows) -> DatasetConfig:
    for number, (label, group) in enumerate(rows):
        place = folder / "set" / str(label) / f"{group}_{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(png())
    return DatasetConfig(name="tiles", path=folder / "set", group_pattern="^(?P<group>.*)_[0-9]+[.]png$")


def _text(rows: Rows) -> dict[str, list[str | None]]:
    return {
        name: [None if row[place] is None else str(row[place]) for row in rows]
        for place, name in enumerate(("label", "group"))
    }


KINDS = [as_csv, as_parquet_table, as_image_parquet, as_python, as_folders]


def read(config: DatasetConfig, **settings: object) -> TileSet:
    return read_dataset(config.model_validate({**config.model_dump(), **settings}))


def message(config: DatasetConfig, **settings: object) -> str:
    with pytest.raises(UserError) as caught:
        read(config, **settings)
    return str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("one", "other"), [("Pat1", "pat1"), ("7", "007"), ("x y", "x.y"), ("１", "1")])
def test_a_case_in_two_spellings_is_asked_about_joined_or_kept(
    tmp_path: Path, kind: object, one: str, other: str
) -> None:
    config = kind(tmp_path, [("a", one), ("b", other), ("a", "else"), ("b", "else")])  # type: ignore[operator]
    text = message(config)
    assert "group ids that look alike" in text
    assert "--set source.ids=join" in text and "--set source.ids=exact" in text
    assert read(config, ids="join").n_groups == 2
    assert read(config, ids="exact").n_groups == 3


@pytest.mark.parametrize("kind", KINDS)
def test_labels_that_look_alike_are_asked_about_too(tmp_path: Path, kind: object) -> None:
    config = kind(tmp_path, [("Tumour", "p"), ("tumour.", "q"), ("normal", "r")])  # type: ignore[operator]
    assert "labels that look alike would be different classes" in message(config)
    assert read(config, ids="join").class_names == ("normal", "Tumour")
    assert read(config, ids="exact").class_names == ("Tumour", "normal", "tumour.")


@pytest.mark.parametrize("kind", KINDS)
def test_forms_of_unicode_and_spaces_are_one(tmp_path: Path, kind: object) -> None:
    composed, apart = (unicodedata.normalize(form, "Mül") for form in ("NFC", "NFD"))
    rows: Rows = [(composed, composed), (apart, apart), ("b", f"{composed} "), ("b", "\u00a0q")]
    tiles = read(kind(tmp_path, rows))  # type: ignore[operator]
    assert set(tiles.table["group_id"]) == {composed, "q"}
    assert set(tiles.class_names) == {composed, "b"}
    assert tiles.asked == ()


@pytest.mark.parametrize("word", ["nan", "NaN", "NA", "N/A", "None", "null", "<NA>"])
@pytest.mark.parametrize("kind", [as_csv, as_parquet_table, as_image_parquet, as_python])
def test_missing_written_as_text_is_missing(
    tmp_path: Path, kind: object, word: str, caplog: pytest.LogCaptureFixture
) -> None:
    rows: Rows = [("a", "p"), ("b", "q"), (word, "p"), ("a", word), ("b", word)]
    with caplog.at_level(logging.WARNING, "histotune"):
        tiles = read(kind(tmp_path, rows))  # type: ignore[operator]
    assert tiles.class_names == ("a", "b")
    assert (tiles.table["label"].null_count(), tiles.table["group_id"].null_count(), tiles.n_groups) == (1, 2, 2)
    said = caplog.text
    assert f"The label of 1 tile is written '{word}', which is read as missing" in said
    assert f"The group of 2 tiles is written '{word}', which is read as missing" in said
    assert "1 of 5 tiles are unlabelled" in said and "The group of 2 of 5 tiles is unknown" in said
    assert set(tiles.asked) <= set(tiles.notes)


def test_numbers_of_every_type_are_one(tmp_path: Path) -> None:
    config = as_python(tmp_path, [(1, 7), (1.0, 7), (True, 8), ("1", 8), (0, 9), (False, 9), (float("nan"), None)])
    tiles = read(config)
    assert tiles.class_names == ("0", "1")
    assert tiles.labels_N.tolist() == [1, 1, 1, 1, 0, 0, -1]
    assert "Labels of one value are one class" in " ".join(tiles.asked)


@pytest.mark.parametrize("values", [[1.0, 0.0, None, float("nan")], [True, False, None, None], [1, 0, None, None]])
def test_parquet_columns_of_numbers(tmp_path: Path, values: list[object]) -> None:
    config = as_parquet_table(tmp_path, [("x", "p")] * 4)
    columns = {
        "path": [f"{number}.png" for number in range(4)],
        "label": values,
        "group": [7.0, float("nan"), None, 12.0],
    }
    pl.DataFrame(columns, strict=False).write_parquet(config.path)
    tiles = read(config)
    assert tiles.class_names in (("0", "1"), ("false", "true"))
    assert tiles.labels_N.tolist() == [1, 0, -1, -1]
    assert tiles.table["group_id"].to_list() == ["7", None, None, "12"]


def test_a_scale_that_is_missing_is_no_error(tmp_path: Path) -> None:
    config = as_csv(tmp_path, [("a", "p"), ("b", "q")])
    config.path.write_text("path,label,mpp\n0.png,a,nan\n1.png,b,0.5\n", encoding="utf-8")
    assert read(config).table["mpp"].to_list() == [None, 0.5]


@pytest.mark.parametrize(
    "header", ["Patient", "patient_id", "PatientID", "Case ID", "case_submitter_id", "subject", "MRN"]
)
def test_a_column_that_may_be_the_group_is_asked_about(
    tmp_path: Path, header: str, caplog: pytest.LogCaptureFixture
) -> None:
    config = as_csv(tmp_path, [("a", "p"), ("b", "q")])
    config.path.write_text(config.path.read_text().replace("group", header, 1), encoding="utf-8")
    with caplog.at_level(logging.WARNING, "histotune"):
        tiles = read(config)
    assert f"The column '{header}' is not used" in caplog.text and "did you mean group?" in caplog.text
    assert f"{header} (did you mean group?)" in " ".join(tiles.notes)


def test_an_empty_column_of_groups_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "histotune"):
        read(as_csv(tmp_path, [("a", None), ("b", None)]))
    assert "The column group is empty." in caplog.text


def test_nothing_is_said_of_a_clean_table(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "histotune"):
        assert read(as_csv(tmp_path, [("a", "p"), ("b", "q")])).asked == ()
    assert caplog.text == ""


def test_the_target_is_told_of_its_own_settings(tmp_path: Path) -> None:
    config = as_csv(tmp_path, [("a", "P1"), ("b", "p1"), ("A", "q")])
    with pytest.raises(UserError) as caught:
        read_dataset(config, "target")
    text = str(caught.value)
    assert "--set target.ids=join" in text and "source." not in text
    clean = as_csv(tmp_path, [("a", "p"), ("NA", "q"), ("b", "r")])
    assert "--set 'target.not_missing=" in " ".join(read_dataset(clean, "target").notes)


def test_classes_named_in_settings_are_read_as_the_cells_are(tmp_path: Path) -> None:
    config = as_csv(tmp_path, [("0", "p"), ("1", "q"), ("0", "r")])
    assert read(config, positive_class="0.0").class_names == ("1", "0")
    assert read(config, subset={"classes": ["1.0"]}).class_names == ("1",)


# ---- Folders ----


@pytest.mark.parametrize("word", ["nan", "None", "NA"])
def test_a_class_folder_named_like_a_missing_value_is_asked_about(tmp_path: Path, word: str) -> None:
    config = as_folders(tmp_path, [("mild", "p"), ("severe", "q"), (word, "r")])
    text = message(config)
    assert f"--set 'source.not_missing=[\"{word}\"]'" in text and f"--set 'source.also_missing=[\"{word}\"]'" in text
    assert len(read(config, not_missing=[word]).class_names) == 3
    assert read(config, also_missing=[word]).class_names == ("mild", "severe")


# ---- Labels that are no classes ----


@pytest.mark.parametrize("kind", KINDS)
def test_a_measurement_is_no_class(tmp_path: Path, kind: object) -> None:
    rows: Rows = [(f"{0.013 * number + 0.0007:.4f}", f"p{number % 5}") for number in range(30)]
    text = message(kind(tmp_path, rows))  # type: ignore[operator]
    assert "30 labelled tiles have 30 different labels, and they look like a measurement" in text
    assert "--set source.max_classes=30" in text
    config = kind(tmp_path, rows)  # type: ignore[operator]
    assert len(read(config, max_classes=30).class_names) == 30
    assert "at most 29 are allowed" in message(config, max_classes=29)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([f"c{number:02d}" for number in range(51)] * 4, "at most 50"),
        ([f"c{number:02d}" for number in range(50)] * 4, ""),
        ([f"id{number}" for number in range(20)], "nearly one for each"),
        ([f"id{number}" for number in range(7)], ""),
        ([str(number) for number in range(20)] * 3, ""),
        ([str(number) for number in range(31, 52)] * 9, "look like a measurement"),
        (["0.5", "1.5", "2.5"] * 5, ""),
        ([f"{number / 7:.3g}" for number in range(15)] * 20, "look like a measurement"),
        ([f"{number}e-05" for number in range(1, 15)] * 20, "look like a measurement"),
    ],
)
def test_which_labels_are_classes(labels: list[str], said: str) -> None:
    series = pl.Series(labels)
    if not said:
        check_class_count(series, None)
        return
    with pytest.raises(UserError) as caught:
        check_class_count(series, None)
    assert said in str(caught.value)
    check_class_count(series, len(set(labels)))
