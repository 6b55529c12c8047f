"""Messages about a folder name the setting that it comes from."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from histotune.studies.config import ExperimentConfig
from histotune.tools.atomic import atomic_path, explained_os_errors, require_writable
from histotune.tools.errors import UserError, name_setting, setting_of


def test_the_nearest_folder_above_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name_setting(tmp_path / "cache", "--cache FOLDER")
    name_setting(tmp_path / "cache" / "kept", "--set ledger=FOLDER")
    assert setting_of(tmp_path / "cache" / "fits" / "a") == "--cache FOLDER"
    assert setting_of(tmp_path / "cache" / "kept" / "ledger.jsonl") == "--set ledger=FOLDER"
    assert setting_of(tmp_path / "run") == "--out FOLDER"
    monkeypatch.chdir(tmp_path)
    assert setting_of(Path("cache/../cache")) == "--cache FOLDER"


def test_a_config_names_its_folders(tmp_path: Path) -> None:
    ExperimentConfig(recipe="x", cache=tmp_path / "c", ledger=tmp_path / "l")
    assert setting_of(tmp_path / "c" / "embeddings") == "--cache FOLDER"
    assert setting_of(tmp_path / "l" / "trials" / "v1") == "--set ledger=FOLDER"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.ENAMETOOLONG])
def test_whatever_the_system_refuses_names_the_setting(tmp_path: Path, number: int) -> None:
    name_setting(tmp_path / "cache", "--cache FOLDER")
    with pytest.raises(UserError) as caught, explained_os_errors(tmp_path / "cache" / "a"):
        raise OSError(number, os.strerror(number))
    assert "--cache FOLDER" in str(caught.value.fix)
    assert "--out" not in str(caught.value.fix)


@pytest.mark.parametrize(
    "words",
    [
        "Error while serializing: I/O error: No space left on device (os error 28)",
        "parquet: File out of specification: underlying IO error: Disk quota exceeded (os error 122)",
        "Can't synchronously write data (file write failed: errno = 28, error message = 'No space left on device')",
    ],
)
def test_libraries_that_lose_the_number_are_understood_by_their_words(tmp_path: Path, words: str) -> None:
    with pytest.raises(UserError, match="the disk is full"), explained_os_errors(tmp_path / "a"):
        raise RuntimeError(words)


def test_other_errors_pass_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), explained_os_errors(tmp_path):
        raise ZeroDivisionError("errno 280")


def test_too_long_a_name_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="longer than the file system allows"), atomic_path(tmp_path / ("x" * 250)):
        pytest.fail("begun")


def test_a_look_whether_a_file_can_be_written_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "state" / "ledger.jsonl"
    require_writable(path)
    assert list(path.parent.iterdir()) == []
    path.write_text("kept", encoding="utf-8")
    (path.parent / ".ledger.jsonl.abcd1234.partial").write_bytes(b"of a killed run")
    require_writable(path)
    assert path.read_text(encoding="utf-8") == "kept"
    assert list(path.parent.iterdir()) == [path]
