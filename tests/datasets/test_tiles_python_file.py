"""The hook: a short file is enough, and an error in it is one message that names the line."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from histotune.datasets.config import DatasetConfig
from histotune.datasets.read import read_dataset, spec_of
from histotune.datasets.tiles import code_sha256
from histotune.datasets.tileset import TileSet
from histotune.tools.errors import UserError

START = """\
from histotune.datasets import CandidateScale, ClassScheme
from histotune.datasets import DatasetSpec, Tile

SPEC = DatasetSpec(name="mine", title="Mine", licence="CC0", citation="Me.", stain="H&E")
"""
READ = """\

def read(config):
    for path in sorted(config.path.rglob("*.png")):
        yield Tile(path, label=path.parent.name, group=path.stem[:2])
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name in ("a/p1_1.png", "a/p2_1.png", "b/p3_1.png"):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6)).save(path)
    return tmp_path / "data"


def config(code: str, data: Path, **settings: object) -> DatasetConfig:
    path = data.parent / "mine.py"
    path.write_text(code, encoding="utf-8")
    return DatasetConfig.model_validate({"name": "python", "path": data, "code": path, **settings})


def read(code: str, data: Path, **settings: object) -> TileSet:
    return read_dataset(config(code, data, **settings))


def message(code: str, data: Path, **settings: object) -> str:
    with pytest.raises(UserError) as caught:
        read(code, data, **settings)
    return str(caught.value)


def test_seven_lines_are_enough(data: Path) -> None:
    tiles = read(START + READ, data)
    assert (tiles.name, tiles.licence, tiles.citation) == ("mine", "CC0", "Me.")
    assert tiles.tile_ids == ("a/p1_1.png", "a/p2_1.png", "b/p3_1.png")
    assert tiles.class_names == ("a", "b")
    assert tiles.table["group_id"].to_list() == ["p1", "p2", "p3"]
    assert set(tiles.table["stain"]) == {"H&E"}
    assert set(tiles.table["width_px"]) == {8}
    assert spec_of(config(START + READ, data)).title == "Mine"
    assert not (data.parent / "__pycache__").exists()


def test_a_relative_data_folder(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(data.parent)
    assert read(START + READ, Path("data")).table["path"][0] == str(data / "a/p1_1.png")


def test_classes_and_scale_of_the_spec(data: Path) -> None:
    code = START.replace('stain="H&E"', 'scales=(CandidateScale("nominal", {"": 0.5}, 1.0, "Made up."),), '
                         'schemes=(ClassScheme("two", ("B", "A"), {"a": "A"}, "Made up."),)') + READ  # fmt: skip
    tiles = read(code, data)
    assert tiles.class_names == ("B", "A")
    assert tiles.labels_N.tolist() == [1, 1, -1]
    assert set(tiles.table["mpp"]) == {0.5}
    assert "Labels two leave out 1 tiles (b 1)." in tiles.notes
    assert "fixes its classes itself" in message(code, data, positive_class="A")


def test_a_whole_tile_set_may_be_returned(data: Path) -> None:
    code = START + (
        "from histotune.datasets.tileset import TileSet, tile_table\n"
        "def read(config):\n"
        "    table = tile_table({'tile_id': ['x'], 'path': [str(config.path / 'a/p1_1.png')], 'label': [0]})\n"
        "    return TileSet('mine', table, ('a',), SPEC.licence, SPEC.citation)\n"
    )
    assert read(code, data).tile_ids == ("x",)


def test_numbers_are_names_and_empty_text_is_unknown(data: Path) -> None:
    code = START + (
        "def read(config):\n"
        "    for number, path in enumerate(sorted(config.path.rglob('*.png'))):\n"
        "        yield Tile(path, label=number % 2, group=number, slide='', mpp=1)\n"
    )
    tiles = read(code, data)
    assert tiles.table["group_id"].to_list() == ["0", "1", "2"]
    assert tiles.table["slide_id"].null_count() == 3
    assert tiles.class_names == ("0", "1")
    assert "mpp of" in message(code.replace("mpp=1", "mpp=-1"), data)


def test_a_dataclass_of_the_users_own_works(data: Path) -> None:
    code = "from __future__ import annotations\nfrom dataclasses import dataclass\n" + START
    assert len(read(code + "@dataclass\nclass Row:\n    name: str\n" + READ, data)) == 3


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (START + "\ndef read(config)\n", "mine.py stopped with SyntaxError"),
        (START + "\ndef read(config)\n", "mine.py, line 6"),
        ("import no_such_module\n", "mine.py stopped with ModuleNotFoundError: No module named 'no_such_module'"),
        (START + "\ndef read(config):\n    yield Tile('a')\n    [][1]\n", "mine.py, line 8"),
        (START + "\ndef read(config):\n    return int('x')\n", "ValueError: invalid literal"),
        ("raise SystemExit('stop')\n", "mine.py stopped with SystemExit: stop"),
        (READ, "no SPEC that is a DatasetSpec"),
        (START, "no function read(config)"),
        (START + "\ndef read(config):\n    yield {'path': 'a'}\n", "read yields dict, not Tile"),
        (START + "\ndef read(config):\n    return []\n", "holds no tile"),
        (START + "\ndef read(config):\n    yield Tile(None)\n", "a tile needs the path of its image"),
        (START + "\ndef read(config):\n    yield Tile('none.png')\n", "1 image can't be read: 'none.png (missing)'"),
    ],
)
def test_mistakes_are_one_message(data: Path, code: str, said: str) -> None:
    assert said in message(code, data)


def test_missing_files(data: Path) -> None:
    assert "no such file or folder" in message(START + READ, data.parent / "gone")
    with pytest.raises(UserError, match="can't be read"):
        read_dataset(DatasetConfig(name="python", path=data, code=data / "none.py"))


def test_a_changed_file_is_not_run(data: Path) -> None:
    settings = config(START + READ, data)
    assert settings.code is not None
    kept = settings.model_copy(update={"code_sha256": code_sha256(settings.code)})
    assert len(read_dataset(kept)) == 3
    marker = data.parent / "was_run"
    settings.code.write_text(f"open({str(marker)!r}, 'w')\n" + START + READ, encoding="utf-8")
    with pytest.raises(UserError, match="not the one that the settings were made with"):
        read_dataset(kept)
    assert not marker.exists()


def test_a_name_of_the_package_that_moved_is_told_where_it_is(data: Path) -> None:
    said = message("from histotune.datasets.catalog import DatasetSpec\n", data)
    assert "mine.py stopped with ModuleNotFoundError" in said
    line = next(line for line in said.splitlines() if "import from the rooms: " in line)
    for statement in line.partition("import from the rooms: ")[2].split("; "):
        exec(statement, {})  # the fix can be typed as it stands
