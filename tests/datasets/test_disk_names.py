"""Names that are no UTF-8, and files that are none: listed with the command that helps, or skipped and counted."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from histotune.datasets.config import DatasetConfig
from histotune.datasets.read import read_dataset
from histotune.datasets.unlabelled import read_unlabelled_images
from histotune.tools.errors import UserError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes, and pipes")
ODD = os.fsdecode(b"caf\xe9")


def image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (len(path.name), 90, 60)).save(path, "PNG")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for label in "ab":
        for number in range(3):
            image(tmp_path / "tiles" / label / f"g{number}.png")
    return tmp_path / "tiles"


def read(folder: Path, name: str = "tiles") -> object:
    return read_dataset(DatasetConfig.model_validate({"name": name, "path": folder}))


def refusal(folder: Path, name: str = "tiles") -> UserError:
    with pytest.raises(UserError) as caught:
        read(folder, name)
    return caught.value


@pytest.mark.parametrize("place", [f"a/{ODD}.png", f"{ODD}/g7.png", f"a/{ODD}/{ODD}.PNG"])
def test_images_under_such_names_are_listed_and_the_command_renames_them(folder: Path, place: str) -> None:
    image(folder / place)
    error = refusal(folder)
    assert "not UTF-8" in error.what
    assert r"caf\xe9" in str(error.value)
    assert error.fix is not None
    subprocess.run(["bash", "-c", error.fix.split("rename them: ")[1]], check=True)
    tiles = read(folder)
    assert any("café" in name for name in tiles.tile_ids)  # type: ignore[attr-defined]
    assert len(tiles) == 7  # type: ignore[arg-type]


@pytest.mark.parametrize("place", [f"a/{ODD}.txt", f"{ODD}/notes", f"a/.{ODD}.png", f".{ODD}/g7.png"])
def test_other_files_under_such_names_are_counted(folder: Path, place: str) -> None:
    image(folder / place)
    (note,) = [note for note in read(folder).notes if note.startswith("Skipped")]  # type: ignore[attr-defined]
    assert note.startswith("Skipped 1 file that is no image by name, such as ")
    assert r"caf\xe9" in note


@pytest.mark.parametrize("name", ["breakhis", "patch_camelyon"])
def test_every_reader_of_folders_refuses_them(tmp_path: Path, name: str) -> None:
    image(tmp_path / "data" / ODD / "SOB_B_A-14-22549AB-40-001.png")
    image(tmp_path / "data" / "SOB_B_A-14-22549AB-40-002.png")
    assert "not UTF-8" in refusal(tmp_path / "data", name).what


def test_a_folder_below_such_a_name_is_refused_and_the_command_renames_that(folder: Path, tmp_path: Path) -> None:
    (tmp_path / ODD).mkdir()
    shutil.move(folder, tmp_path / ODD / "tiles")
    error = refusal(tmp_path / ODD / "tiles")
    assert error.fix is not None
    subprocess.run(["bash", "-c", error.fix.split("rename it: ")[1]], check=True)
    assert len(read(tmp_path / "café" / "tiles")) == 6  # type: ignore[arg-type]


def test_a_table_below_such_a_name_is_refused(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ODD).mkdir()
    shutil.move(folder, tmp_path / ODD / "tiles")
    monkeypatch.chdir(tmp_path / ODD)
    Path("tiles.csv").write_text("path,label\ntiles/a/g0.png,a\ntiles/b/g0.png,b\n", encoding="utf-8")
    assert "not UTF-8" in refusal(Path("tiles.csv")).what


def test_pipes_and_devices_named_like_images_are_listed(folder: Path) -> None:
    os.mkfifo(folder / "a" / "pipe.png")
    (folder / "a" / "null.png").symlink_to(os.devnull)
    error = refusal(folder)
    assert "a/pipe.png (a device or pipe)" in str(error.value)
    assert "a/null.png (a device or pipe)" in str(error.value)


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.csv.gz", "t.parquet"])
def test_a_pipe_in_place_of_a_table_is_one_message(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    assert "a folder, a device or a pipe" in refusal(tmp_path / name).what


@pytest.mark.parametrize("part", ["x", "y"])
def test_a_pipe_in_place_of_an_hdf5_file_is_one_message(pcam: Path, part: str) -> None:
    path = pcam / f"camelyonpatch_level_2_split_train_{part}.h5"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError):
        read(pcam, "patch_camelyon")


def test_what_a_folder_to_predict_holds_besides_images_is_listed_and_counted(folder: Path) -> None:
    for name in ("._g0.png", ".DS_Store", "notes.txt", f"{ODD}.txt"):
        (folder / "a" / name).write_bytes(b"x")
    (folder / "a" / "gone.png").symlink_to("nowhere")
    os.mkfifo(folder / "a" / "pipe.png")
    image(folder / ".hidden" / "g1.png")
    tiles = read_unlabelled_images([folder], ("a", "b"))
    assert len(tiles) == 6
    assert tiles.tile_ids[0] == str(folder / "a" / "g0.png")
    assert tiles.notes == (
        "Skipped 7 files: .hidden/g1.png (hidden), a/.DS_Store (hidden), a/._g0.png (hidden), "
        r"a/caf\xe9.txt (no image by name), a/gone.png (a broken link), a/notes.txt (no image by name), "
        "a/pipe.png (a device or pipe).",
    )
    image(folder / "a" / f"{ODD}.png")
    with pytest.raises(UserError, match="not UTF-8"):
        read_unlabelled_images([folder], ("a", "b"))


def test_a_folder_without_an_image_to_predict_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "._a.png").write_bytes(b"x")
    with pytest.raises(UserError, match=r"no image here.*\._a\.png \(hidden\)"):
        read_unlabelled_images([tmp_path], ("a", "b"))
