"""Listing a folder: quick, trapped by no link, clear about what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from histotune.datasets.disk import list_files, name_some
from histotune.tools.errors import UserError


def message(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        list_files(path)
    return str(caught.value)


def test_files_are_absolute_and_sorted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b/2.txt", "a/1.txt", "0.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert list_files(Path("a")).paths == (str(tmp_path / "a" / "1.txt"),)
    assert list_files(tmp_path).paths == tuple(str(tmp_path / name) for name in ("0.txt", "a/1.txt", "b/2.txt"))


def test_the_home_folder_may_be_written_as_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "1.txt").write_text("", encoding="utf-8")
    assert list_files(Path("~")).paths == (str(tmp_path / "1.txt"),)


def test_links_in_a_circle_are_followed_once(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.txt").write_text("", encoding="utf-8")
    (tmp_path / "a" / "up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "again").symlink_to(tmp_path / "a", target_is_directory=True)
    names = [Path(path).name for path in list_files(tmp_path).paths]
    assert names == ["1.txt"]


def test_a_linked_folder_is_read(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "1.txt").write_text("", encoding="utf-8")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "link").symlink_to(tmp_path / "real", target_is_directory=True)
    assert list_files(tmp_path / "data").paths == (str(tmp_path / "data" / "link" / "1.txt"),)


def test_a_broken_link_is_listed_so_that_it_can_be_reported(tmp_path: Path) -> None:
    (tmp_path / "1.png").symlink_to(tmp_path / "gone.png")
    assert list_files(tmp_path).paths == (str(tmp_path / "1.png"),)


def test_a_missing_folder(tmp_path: Path) -> None:
    text = message(tmp_path / "no" / "where")
    assert text.startswith("this folder does not exist: ")
    assert f"{tmp_path} exists" in text


@pytest.mark.parametrize("inside", [None, "folder"])
def test_an_empty_folder(tmp_path: Path, inside: str | None) -> None:
    if inside:
        (tmp_path / inside).mkdir()
    assert message(tmp_path).startswith("this folder holds no files: ")


def test_an_archive_in_place_of_a_folder(tmp_path: Path) -> None:
    archive = tmp_path / "BreaKHis_v1.tar.gz"
    archive.write_bytes(b"")
    assert f"fix: unpack it (tar -xf {archive})" in message(archive)


def test_a_file_in_place_of_a_folder(tmp_path: Path) -> None:
    image = tmp_path / "1.png"
    image.write_bytes(b"")
    assert f"fix: pass the folder that holds it: --data {tmp_path}" in message(image)


def test_long_lists_are_cut_with_a_count() -> None:
    assert name_some(["a", "b"], 2) == "a, b"
    assert name_some(["a", "b", "c", "d"], 2) == "a, b and 2 more"


def test_the_records_of_a_fetch_are_no_data(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    (tmp_path / ".fetch" / "staging").mkdir(parents=True)
    (tmp_path / ".fetch" / "staging" / "b.png").write_bytes(b"x")
    assert [Path(path).name for path in list_files(tmp_path).paths] == ["a.png"]
