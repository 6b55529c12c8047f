"""A folder's manifest finds every change to every file, and to itself."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from histotune.tools.errors import UserError
from histotune.tools.files import hash_json
from histotune.tools.manifest import (
    CLAIM,
    COPY_AGAIN,
    MANIFEST_FILE,
    check_manifest,
    is_listed,
    read_manifest,
    renew_manifest,
    unlist,
    verify_folder,
    write_manifest,
)

FIX = "run it again"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with three files and their manifest."""
    made = tmp_path / "run"
    (made / "head").mkdir(parents=True)
    (made / "scores.json").write_text('{"auroc": 0.91}', encoding="utf-8")
    (made / "head" / "weights").write_bytes(bytes(range(64)))
    (made / "empty").write_bytes(b"")
    (made / "report.html").write_text("<p>drawn</p>", encoding="utf-8")
    write_manifest(made)
    return made


def test_a_folder_as_it_was_written_passes(folder: Path) -> None:
    assert check_manifest(folder, FIX)
    assert sorted(read_manifest(folder)) == ["empty", "head/weights", "scores.json"]
    (folder / "notes.txt").write_text("mine", encoding="utf-8")
    (folder / "report.html").write_text("drawn again", encoding="utf-8")
    assert check_manifest(folder, FIX)


def test_a_folder_of_an_earlier_version_has_none(folder: Path) -> None:
    (folder / MANIFEST_FILE).unlink()
    assert not check_manifest(folder, FIX)
    renew_manifest(folder, "scores.json")
    assert not (folder / MANIFEST_FILE).exists()


def test_every_changed_byte_of_every_file_is_found(folder: Path) -> None:
    for path in (folder / "scores.json", folder / "head" / "weights", folder / MANIFEST_FILE):
        whole = path.read_bytes()
        for place in range(len(whole)):
            for changed in {whole[place] ^ 1, whole[place] ^ 0x20, (whole[place] + 1) % 256} - {whole[place]}:
                path.write_bytes(whole[:place] + bytes([changed]) + whole[place + 1 :])
                if path.name == MANIFEST_FILE and _same(path.read_bytes(), whole):
                    continue
                with pytest.raises(UserError) as caught:
                    check_manifest(folder, FIX)
                assert (COPY_AGAIN if path.name == MANIFEST_FILE else FIX) in str(caught.value)
        path.write_bytes(whole)
    assert check_manifest(folder, FIX)


def _same(one: bytes, other: bytes) -> bool:
    """Whether JSON says the same: a space for a line feed changes nothing."""
    try:
        return bool(json.loads(one) == json.loads(other))
    except ValueError:
        return False


@pytest.mark.parametrize("size", range(3))
def test_shortened_and_missing_files_are_named(folder: Path, size: int) -> None:
    path = folder / "scores.json"
    path.write_bytes(path.read_bytes()[:size])
    (folder / "head" / "weights").unlink()
    with pytest.raises(UserError, match=r"head/weights \(missing\), scores.json \(changed\)"):
        check_manifest(folder, FIX)


def test_a_manifest_never_leads_out_of_its_folder(folder: Path) -> None:
    (folder.parent / "secret").write_text("x", encoding="utf-8")
    for name in ("../secret", "/etc/passwd", ""):
        files = {name: "0" * 64}
        text = json.dumps({"format": "histotune manifest 1", "files": files, "sha256": hash_json(files)})
        (folder / MANIFEST_FILE).write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match="manifest is damaged"):
            check_manifest(folder, FIX)


def test_added_and_rewritten_files_are_taken_up(folder: Path) -> None:
    (folder / "scores.json").write_text("{}", encoding="utf-8")
    (folder / "added").mkdir()
    (folder / "added" / "study.json").write_text("[]", encoding="utf-8")
    renew_manifest(folder, "scores.json", "added/study.json")
    assert check_manifest(folder, FIX)
    (folder / "added" / "study.json").write_text("[1]", encoding="utf-8")
    with pytest.raises(UserError, match=r"added/study\.json"):
        check_manifest(folder, FIX)


def test_many_changed_files_are_counted(folder: Path) -> None:
    for number in range(30):
        (folder / f"{number:02d}").write_bytes(b"a")
    write_manifest(folder)
    for number in range(30):
        os.truncate(folder / f"{number:02d}", 0)
    with pytest.raises(UserError, match="and 20 more"):
        check_manifest(folder, FIX)


def test_a_moved_folder_is_still_itself(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "elsewhere")
    assert check_manifest(tmp_path / "elsewhere", FIX)


def test_only_the_named_files_are_written_down_or_compared(folder: Path) -> None:
    write_manifest(folder, "scores.json")
    assert sorted(read_manifest(folder)) == ["scores.json"]
    write_manifest(folder)
    (folder / "head" / "weights").write_bytes(b"other")
    assert check_manifest(folder, FIX, "scores.json")
    with pytest.raises(UserError, match=r"weights \(changed\)"):
        check_manifest(folder, FIX)
    with pytest.raises(UserError, match=r"notes\.txt"):
        check_manifest(folder, FIX, "notes.txt")


def test_a_file_that_is_taken_out_is_listed_no_more(folder: Path) -> None:
    assert is_listed(folder, "scores.json")
    unlist(folder, "scores.json")
    assert not is_listed(folder, "scores.json") and is_listed(folder, "empty")
    renew_manifest(folder, "scores.json")
    assert is_listed(folder, "scores.json")


@pytest.mark.parametrize(
    ("name", "facts"),
    [("provenance.json", CLAIM), ("matrix.json", CLAIM), ("transfer.json", {"provenance": CLAIM})],
)
def test_a_folder_that_says_it_has_a_manifest_is_refused_without(
    folder: Path, caplog: pytest.LogCaptureFixture, name: str, facts: dict[str, object]
) -> None:
    (folder / name).write_text(json.dumps({"n": 1}), encoding="utf-8")
    (folder / MANIFEST_FILE).unlink()
    verify_folder(folder, FIX)
    assert "can't be told" in caplog.text
    (folder / name).write_text(json.dumps(facts), encoding="utf-8")
    with pytest.raises(UserError, match=r"which is gone(.|\n)*copy the folder again"):
        verify_folder(folder, FIX)
