"""The index of content hashes: right after every change, only faster without one."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from histotune.images import hashes
from histotune.images.content_index import FileState
from histotune.images.decode import PixelReader, PixelSource, content_hash
from histotune.images.hashes import HashIndex
from histotune.tools.errors import UserError

OLD_NS = 1_000_000_000_000_000_000  # 2001: settled long ago


def write_old(path: Path, data: bytes, mtime_ns: int = OLD_NS) -> Path:
    path.write_bytes(data)
    os.utime(path, ns=(mtime_ns, mtime_ns))
    return path


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Return the list of files that were really hashed."""
    seen: list[Path] = []
    original = hashes.hash_file
    monkeypatch.setattr(hashes, "hash_file", lambda path: (seen.append(path), original(path))[1])
    return seen


def test_files_are_hashed_once(tmp_path: Path, counted: list[Path]) -> None:
    paths = [write_old(tmp_path / name, name.encode()) for name in "abc"]
    index = HashIndex(tmp_path / "cache" / "hashes.sqlite")
    expected = tuple(hashlib.sha256(name.encode()).hexdigest() for name in "abc")
    assert index.files(paths) == expected
    assert len(counted) == 3
    assert index.files(paths[::-1]) == expected[::-1]
    assert len(counted) == 3


@pytest.mark.parametrize("change", ["size", "mtime"])
def test_a_changed_file_is_hashed_again(tmp_path: Path, change: str) -> None:
    path = write_old(tmp_path / "a", b"one")
    index = HashIndex(tmp_path / "hashes.sqlite")
    index.files([path])
    write_old(path, b"other", OLD_NS) if change == "size" else write_old(path, b"two", OLD_NS + 1)
    assert index.files([path]) == (hashlib.sha256(path.read_bytes()).hexdigest(),)


@pytest.fixture
def untold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand for storage that changes files without a trace: a file's state is its path alone."""
    monkeypatch.setattr(FileState, "of", classmethod(lambda cls, path, status: cls(path, 3, OLD_NS, OLD_NS, 1)))


@pytest.mark.usefixtures("untold")
def test_a_change_without_a_trace_is_found_by_hashing_again_and_then_remembered(tmp_path: Path) -> None:
    path, place = write_old(tmp_path / "a", b"one"), tmp_path / "hashes.sqlite"
    first = HashIndex(place).files([path])
    write_old(path, b"two")
    assert HashIndex(place).files([path]) == first  # nothing tells of the change
    again = HashIndex(place, rehash=True)
    assert again.known_tiles([PixelSource(path)]) == {}
    assert again.files([path]) == (hashlib.sha256(b"two").hexdigest(),)
    assert HashIndex(place).files([path]) == (hashlib.sha256(b"two").hexdigest(),)


@pytest.mark.usefixtures("untold")
def test_rows_are_hashed_again_too(tmp_path: Path) -> None:
    path, place = tmp_path / "x.h5", tmp_path / "hashes.sqlite"
    found = []
    for value in (1, 2):
        with h5py.File(path, "w") as file:
            file["x"] = np.full((2, 4, 4, 3), value, np.uint8)
        os.utime(path, ns=(OLD_NS, OLD_NS))
        with PixelReader() as reader:
            found.append(HashIndex(place, rehash=True).tiles([PixelSource(path, 0)], reader))
    assert found[0] != found[1]


def test_a_file_written_just_now_is_not_trusted_yet(tmp_path: Path, counted: list[Path]) -> None:
    path = write_old(tmp_path / "a", b"one", time.time_ns())
    index = HashIndex(tmp_path / "hashes.sqlite")
    index.files([path])
    index.files([path])
    assert len(counted) == 2


def test_hdf5_rows_are_read_once_and_only_where_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x_NHWC = np.random.default_rng(0).integers(0, 256, (700, 4, 4, 3), dtype=np.uint8)
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file["x"] = x_NHWC
    os.utime(path, ns=(OLD_NS, OLD_NS))
    index, n_rows = HashIndex(tmp_path / "hashes.sqlite"), []
    original = PixelReader.rows

    def counting(reader: PixelReader, file: Path, start: int, stop: int) -> np.ndarray:
        n_rows.append(stop - start)
        return original(reader, file, start, stop)

    with PixelReader() as reader:
        expected = tuple(content_hash(reader.raw(PixelSource(path, row))) for row in range(700))
        monkeypatch.setattr(PixelReader, "rows", counting)
        some = [650, 3, 4, 5, 650]
        assert index.tiles([PixelSource(path, row) for row in some], reader) == tuple(expected[row] for row in some)
        assert sorted(n_rows) == [1, 3]
        assert index.tiles([PixelSource(path, row) for row in range(700)], reader) == expected
        assert sum(n_rows) == 700
        assert index.tiles([PixelSource(path, row) for row in range(700)], reader) == expected
        assert sum(n_rows) == 700
    assert max(n_rows) <= hashes.ROWS_PER_READ


def test_missing_files_are_listed_together(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        HashIndex(None).files([tmp_path / "a", tmp_path / "b"])
    assert str(caught.value).count("can't be read") == 2


def test_a_damaged_index_only_costs_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_old(tmp_path / "a", b"one")
    database = tmp_path / "hashes.sqlite"
    database.write_bytes(b"this is no database" * 100)
    index = HashIndex(database)
    expected = (hashlib.sha256(b"one").hexdigest(),)
    assert index.files([path]) == expected
    assert "damaged" in caplog.text
    assert index.files([path]) == expected


def test_an_index_that_cannot_be_written_only_warns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_old(tmp_path / "a", b"one")
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    assert HashIndex(tmp_path / "file" / "hashes.sqlite").files([path]) == (hashlib.sha256(b"one").hexdigest(),)
    assert "can't be remembered" in caplog.text


def test_forget(tmp_path: Path, counted: list[Path]) -> None:
    path = write_old(tmp_path / "a", b"one")
    index = HashIndex(tmp_path / "hashes.sqlite")
    index.files([path])
    index.forget(path)
    index.files([path])
    assert len(counted) == 2


def test_two_processes_fill_one_index(tmp_path: Path) -> None:
    for number in range(60):
        write_old(tmp_path / f"{number}.tile", str(number).encode())
    code = (
        "import sys; from pathlib import Path; from histotune.images.hashes import HashIndex\n"
        "folder = Path(sys.argv[1]); index = HashIndex(folder / 'hashes.sqlite')\n"
        "[index.files([path]) for path in sorted(folder.glob('*.tile'))]\n"
    )
    command = [sys.executable, "-W", "error", "-c", code, str(tmp_path)]
    runs = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    assert [run.communicate(timeout=60)[1] for run in runs] == ["", ""]
    index = HashIndex(tmp_path / "hashes.sqlite")
    for number in range(60):
        assert index.files([tmp_path / f"{number}.tile"]) == (hashlib.sha256(str(number).encode()).hexdigest(),)


@pytest.mark.skipif(sys.platform == "win32", reason="pipes")
def test_a_pipe_or_a_folder_is_refused_unopened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(UserError) as caught:
        HashIndex(None).files([tmp_path / "pipe.png", tmp_path / "folder.png"])
    assert str(caught.value).count("not a regular file") == 2


def test_what_is_known_is_told_without_reading(tmp_path: Path, counted: list[Path]) -> None:
    known, new = write_old(tmp_path / "a", b"one"), write_old(tmp_path / "b", b"two")
    path = tmp_path / "cache" / "hashes.sqlite"
    (digest,) = HashIndex(path).files([known])
    assert HashIndex(path).known_tiles([PixelSource(new), PixelSource(known)]) == {PixelSource(known): digest}
    write_old(known, b"other")
    assert HashIndex(path).known_tiles([PixelSource(known)]) == {}
    assert counted == [known]
    with pytest.raises(UserError, match="can't be read"):
        HashIndex(path).known_tiles([PixelSource(tmp_path / "gone")])


def test_known_rows_of_an_hdf5_file(tmp_path: Path) -> None:
    file_path = tmp_path / "x.h5"
    with h5py.File(file_path, "w") as file:
        file["x"] = np.arange(4 * 2 * 2 * 3, dtype=np.uint8).reshape(4, 2, 2, 3)
    os.utime(file_path, ns=(OLD_NS, OLD_NS))
    index, sources = HashIndex(tmp_path / "hashes.sqlite"), [PixelSource(file_path, row) for row in range(4)]
    with PixelReader() as reader:
        digests = index.tiles(sources[1:3], reader)
    assert index.known_tiles(sources) == dict(zip(sources[1:3], digests, strict=True))


def test_an_index_that_only_reads_writes_nothing(tmp_path: Path) -> None:
    path = write_old(tmp_path / "a", b"one")
    HashIndex(tmp_path / "cache" / "hashes.sqlite", read_only=True).files([path])
    assert not (tmp_path / "cache").exists()
