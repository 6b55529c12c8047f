from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from histotune.datasets.config import DatasetConfig, DatasetName
from histotune.datasets.croissant import write_croissant
from histotune.datasets.read import dataset_spec, read_dataset
from histotune.tools.errors import UserError

from .fakes import tree_folder, write_image, write_part

NAMES = ("SOB_B_A-14-22549AB-40-001.png", "SOB_M_DC-14-5694-400-005.png", "SOB_M_DC-14-5694-400-006.png")


@pytest.fixture
def breakhis_folder(tmp_path: Path) -> Path:
    for name in NAMES:
        write_image(tree_folder(tmp_path / "b", name), name)
    return tmp_path / "b"


def exported(name: DatasetName, folder: Path, out: Path) -> tuple[dict[str, Any], list[dict[str, str]]]:
    files = write_croissant(read_dataset(DatasetConfig(name=name, path=folder)), folder, out)
    with files.table.open(newline="", encoding="utf-8") as stream:
        return json.loads(files.metadata.read_text(encoding="utf-8")), list(csv.DictReader(stream))


def test_the_metadata_has_what_the_format_asks_for(breakhis_folder: Path, tmp_path: Path) -> None:
    metadata, rows = exported("breakhis", breakhis_folder, tmp_path / "croissant.json")
    assert metadata["conformsTo"] == "http://mlcommons.org/croissant/1.0"
    assert metadata["@type"] == "sc:Dataset"
    assert metadata["license"] == "https://creativecommons.org/licenses/by/4.0/"
    assert metadata["url"] == dataset_spec("breakhis").url
    assert [person["name"] for person in metadata["creator"]] == ["Spanhol", "Oliveira", "Petitjean", "Heutte"]
    assert len(rows) == 3
    table, images = metadata["distribution"]
    assert table["sha256"] == hashlib.sha256((tmp_path / table["contentUrl"]).read_bytes()).hexdigest()
    assert (images["includes"], images["encodingFormat"]) == ("**/*.png", "image/png")


def test_every_field_is_a_column_of_the_table_and_every_path_leads_to_a_file(
    breakhis_folder: Path, tmp_path: Path
) -> None:
    metadata, rows = exported("breakhis", breakhis_folder, tmp_path / "croissant.json")
    fields = metadata["recordSet"][0]["field"]
    assert [field["source"]["extract"]["column"] for field in fields] == list(rows[0])
    types = {field["name"]: field["dataType"] for field in fields}
    assert (types["tile_id"], types["mpp"], types["width_px"]) == ("sc:Text", "sc:Float", "sc:Integer")
    assert "slide_id" in types
    assert "scanner" not in types, "a column that nobody knows is left out"
    for row in rows:
        assert (breakhis_folder / row["path"]).is_file()
        assert row["class"] == ("benign" if "_B_" in row["tile_id"] else "malignant")


def test_hdf5_rows_and_parts_are_kept(tmp_path: Path) -> None:
    write_part(tmp_path / "p", "test", [0, 1], ["s1", "s2"])
    metadata, rows = exported("patch_camelyon", tmp_path / "p", tmp_path / "c.jsonld")
    assert [row["row"] for row in rows] == ["0", "1"]
    assert {row["split"] for row in rows} == {"test"}
    assert metadata["license"] == "https://creativecommons.org/publicdomain/zero/1.0/"
    assert metadata["distribution"][1]["includes"] == "**/*.h5"


def test_the_same_data_give_the_same_bytes(breakhis_folder: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        exported("breakhis", breakhis_folder, tmp_path / name / "c.json")
    assert (tmp_path / "one/c.json").read_bytes() == (tmp_path / "two/c.json").read_bytes()


def test_another_ending_is_refused(breakhis_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="JSON-LD"):
        exported("breakhis", breakhis_folder, tmp_path / "c.csv")
    assert not (tmp_path / "c-tiles.csv").exists()


def test_the_library_of_the_format_reads_it_where_it_is_installed(breakhis_folder: Path, tmp_path: Path) -> None:
    mlcroissant = pytest.importorskip("mlcroissant")
    exported("breakhis", breakhis_folder, tmp_path / "croissant.json")
    dataset = mlcroissant.Dataset(jsonld=str(tmp_path / "croissant.json"))
    assert not dataset.metadata.ctx.issues.errors
    records = list(dataset.records(record_set="tiles"))
    assert {record["tiles/tile_id"].decode() for record in records} == {name.removesuffix(".png") for name in NAMES}


def test_the_command_writes_both_files(breakhis_folder: Path, histotune: Callable[..., Any], tmp_path: Path) -> None:
    answer = histotune("data", "croissant", "breakhis", "--data", breakhis_folder, "--out", tmp_path / "c.json")
    assert answer.code == 0, answer.err
    assert "3 tiles" in answer.out
    assert (tmp_path / "c-tiles.csv").is_file()
