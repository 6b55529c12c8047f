"""The index of content hashes under damage: never a wrong hash, rebuilt once, said once."""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from histotune.images.content_index import index_damage, remove_index
from histotune.images.hashes import HashIndex

OLD_NS = 1_000_000_000_000_000_000  # 2001: settled long ago


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Return twelve settled files."""
    (tmp_path / "tiles").mkdir()
    made = [tmp_path / "tiles" / f"{number:02d}.png" for number in range(12)]
    for path in made:
        path.write_bytes(path.name.encode())
        os.utime(path, ns=(OLD_NS, OLD_NS))
    return made


def digests(paths: list[Path]) -> tuple[str, ...]:
    return tuple(hashlib.sha256(path.read_bytes()).hexdigest() for path in paths)


def check_damage(index: Path, paths: list[Path], damaged: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever the index holds: right hashes, one warning at the most, and nothing to say the next time."""
    for name in ("-journal", "-wal", "-shm"):
        index.with_name(index.name + name).unlink(missing_ok=True)
    index.write_bytes(damaged)
    caplog.clear()
    for _ in range(2):  # a changed path is missed at first, and found among the others when all are asked for again
        assert HashIndex(index).files(paths) == digests(paths)
    assert len(caplog.records) <= 1, caplog.text
    said = caplog.text
    caplog.clear()
    assert HashIndex(index).files(paths) == digests(paths), said
    assert not caplog.records, f"{said} and then {caplog.text}"
    if index_damage(index) is not None:  # where nobody asks; what verify finds, repair removes
        remove_index(index)
        assert HashIndex(index).files(paths) == digests(paths)
        assert index_damage(index) is None


def tried_places(size: int, tries: int) -> list[int]:
    rng = np.random.default_rng(0)
    return sorted({*range(100), *rng.integers(0, size, tries).tolist()})


@pytest.mark.parametrize("change", [lambda byte: byte ^ 1, lambda byte: byte ^ 0x80, lambda byte: 255 - byte])
def test_a_changed_byte_costs_time_alone(
    tmp_path: Path, paths: list[Path], change: Callable[[int], int], caplog: pytest.LogCaptureFixture
) -> None:
    index = tmp_path / "hashes.sqlite"
    HashIndex(index).files(paths)
    whole = index.read_bytes()
    for place in tried_places(len(whole), 150):
        damaged = bytearray(whole)
        damaged[place] = change(damaged[place])
        check_damage(index, paths, bytes(damaged), caplog)


@pytest.mark.parametrize("size", [0, 1, 99, 100, 4096, 5000])
def test_a_shortened_index_costs_time_alone(
    tmp_path: Path, paths: list[Path], size: int, caplog: pytest.LogCaptureFixture
) -> None:
    index = tmp_path / "hashes.sqlite"
    HashIndex(index).files(paths)
    check_damage(index, paths, index.read_bytes()[:size], caplog)


def test_an_index_of_an_earlier_version_makes_room_for_its_successor(
    tmp_path: Path, paths: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    index = tmp_path / "hashes.sqlite"
    with sqlite3.connect(index) as database:
        database.execute("CREATE TABLE content (path TEXT, row INTEGER, size INTEGER, mtime_ns INTEGER, sha256 BLOB)")
        database.execute("INSERT INTO content VALUES (?, -1, 6, ?, ?)", (str(paths[0]), OLD_NS, bytes(32)))
    check_damage(index, paths, index.read_bytes(), caplog)
    with sqlite3.connect(index) as database:
        assert database.execute("SELECT count(*) FROM sqlite_master WHERE name = 'content'").fetchone() == (0,)


def test_damage_is_left_to_others_where_nothing_may_be_written(
    tmp_path: Path, paths: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    index = tmp_path / "hashes.sqlite"
    index.write_bytes(b"no database" * 100)
    assert HashIndex(index, read_only=True).files(paths) == digests(paths)
    assert index.read_bytes() == b"no database" * 100
    assert len(caplog.records) == 1


def test_a_journal_of_a_damaged_index_is_not_played_into_the_next(
    tmp_path: Path, paths: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    index = tmp_path / "hashes.sqlite"
    index.write_bytes(b"no database" * 100)
    index.with_name("hashes.sqlite-journal").write_bytes(b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7" + b"x" * 600)
    caplog.set_level(logging.WARNING)
    assert HashIndex(index).files(paths) == digests(paths)
    assert HashIndex(index).files(paths) == digests(paths)
    assert index_damage(index) is None
    assert not index.with_name("hashes.sqlite-journal").exists()


def test_names_that_are_not_utf_8_are_remembered(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.png")
    try:
        path.write_bytes(b"x")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    os.utime(path, ns=(OLD_NS, OLD_NS))
    index = HashIndex(tmp_path / "hashes.sqlite")
    assert index.files([path]) == index.files([path]) == digests([path])
    assert index_damage(tmp_path / "hashes.sqlite") is None


@pytest.mark.skipif(os.name == "nt", reason="no inodes")
def test_a_file_replaced_by_one_of_the_same_size_and_time_is_hashed_again(tmp_path: Path) -> None:
    path, other = tmp_path / "a.png", tmp_path / "b.png"
    path.write_bytes(b"one")
    other.write_bytes(b"two")
    for file in (path, other):
        os.utime(file, ns=(OLD_NS, OLD_NS))
    index = HashIndex(tmp_path / "hashes.sqlite")
    index.files([path])
    other.replace(path)  # as unzip, rsync and tar do: the time of the archive, the size of the old one
    assert index.files([path]) == digests([path])
    path.write_bytes(b"six")
    os.utime(path, ns=(OLD_NS, OLD_NS))  # written in place, and its time set back
    assert index.files([path]) == digests([path])
