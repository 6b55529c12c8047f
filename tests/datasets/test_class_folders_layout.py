"""What folders mean: class above group, group above class, or class alone; asked about where it may be either."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from histotune.datasets.config import DatasetConfig
from tests.datasets.test_class_folders_levels import message, read, write_images


def settings_in(text: str) -> list[str]:
    return re.findall(r"--set source\.layout=(\S+?)(?=[\s,;.]|$)", text)


@pytest.mark.parametrize("part", ["", "train/"])
def test_patients_above_classes_are_read_as_asked_for(tmp_path: Path, part: str) -> None:
    write_images(tmp_path, *(f"{part}p{number}/{number % 2}/x.png" for number in range(4)))
    assert "group/class" in settings_in(message(tmp_path))
    tiles = read(tmp_path, layout="group/class")
    assert tiles.class_names == ("0", "1")
    assert tiles.table["group_id"].to_list() == ["p0", "p1", "p2", "p3"]
    assert set(tiles.table["split"]) == ({"train"} if part else {None})
    assert any("Groups are the names of folders: 4 by the layout group/class" in note for note in tiles.notes)
    assert len(read(tmp_path, layout="class").class_names) == 4


@pytest.mark.parametrize("part", ["", "test/"])
def test_classes_above_patients_are_read_as_asked_for(
    tmp_path: Path, part: str, caplog: pytest.LogCaptureFixture
) -> None:
    write_images(tmp_path, *(f"{part}{kind}/p{number}/x.png" for kind, number in (("A", 1), ("A", 2), ("B", 3))))
    with caplog.at_level(logging.WARNING, "histotune"):
        tiles = read(tmp_path)
    assert tiles.class_names == ("A", "B") and tiles.n_groups == 0
    assert set(settings_in(caplog.text)) == {"class/group", "group/class", "class"}
    asked = read(tmp_path, layout="class/group")
    assert asked.class_names == ("A", "B") and asked.table["group_id"].to_list() == ["p1", "p2", "p3"]
    assert not asked.asked
    assert not read(tmp_path, layout="class").asked


@pytest.mark.parametrize("inner", [("tumor", "stroma"), ("0", "1"), ("x", "y", "z"), ("40X", "100X")])
def test_folders_of_the_same_names_in_all_are_refused(tmp_path: Path, inner: tuple[str, ...]) -> None:
    write_images(tmp_path, *(f"outer{number}/{name}/a.png" for number in range(3) for name in inner))
    text = message(tmp_path)
    said = settings_in(text)
    assert {"group/class", "class"} <= set(said)
    for layout in said:
        read(tmp_path, layout=layout)
    assert set(read(tmp_path, layout="group/class").class_names) == set(inner)


def test_known_classes_above_the_same_folders_are_read_and_asked_about(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_images(tmp_path, *(f"{kind}/{zoom}/a.png" for kind in ("benign", "malignant") for zoom in ("40X", "100X")))
    with caplog.at_level(logging.WARNING, "histotune"):
        tiles = read(tmp_path)
    assert tiles.class_names == ("benign", "malignant")
    assert "the classes are benign, malignant" in caplog.text
    assert set(settings_in(caplog.text)) == {"class/group", "group/class", "class"}


def test_one_folder_within_each_class_is_no_question(tmp_path: Path) -> None:
    write_images(tmp_path, "A/images/1.png", "B/images/2.png")
    assert read(tmp_path).class_names == ("A", "B") and read(tmp_path).asked == ()


def test_images_that_lie_too_high_for_a_layout_are_named(tmp_path: Path) -> None:
    write_images(tmp_path, "A/p1/1.png", "B/2.png")
    text = message(tmp_path, layout="class/group")
    assert "B/2.png" in text and "FOLDER/class/group/image.png" in text


@pytest.mark.parametrize(
    "settings",
    [
        {"layout": "class/group", "class_level": 2},
        {"layout": "group/class", "group_pattern": "(?P<group>x)"},
        {"layout": "class/patient"},
        {"name": "breakhis", "layout": "class/group"},
    ],
)
def test_settings_that_contradict_each_other_are_refused(tmp_path: Path, settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        DatasetConfig.model_validate({"name": "tiles", "path": tmp_path, **settings})


def test_a_layout_is_for_folders(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png")
    (tmp_path / "tiles.csv").write_text("path,label\na.png,x\n", encoding="utf-8")
    assert "layout is for class folders" in message(tmp_path / "tiles.csv", layout="class/group")
