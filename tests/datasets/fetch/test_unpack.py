from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histotune.datasets.fetch.source import Checksums, Unpacked
from histotune.datasets.fetch.unpack import (
    Limits,
    UnsafeMember,
    member_writer,
    read_through,
    safe_member_path,
    unpack_gz,
    visit_tar_gz,
    visit_zip,
)
from histotune.tools.errors import UserError

from .conftest import content

DATA = content(50_000)
LIMITS = Limits(n_members=20, n_bytes=200_000)


def packed(folder: Path, data: bytes, name: str = "x.h5.gz") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def unpacked(data: bytes = DATA, limit_bytes: int = 60_000) -> Unpacked:
    return Unpacked("x.h5", Checksums(md5=hashlib.md5(data).hexdigest()), limit_bytes)


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_a_gzip_file_unpacks_with_its_hashes(tmp_path: Path) -> None:
    digest = unpack_gz(packed(tmp_path, gzip.compress(DATA)), tmp_path, unpacked())
    assert (tmp_path / "x.h5").read_bytes() == DATA
    assert (digest.size_bytes, digest.sha256) == (len(DATA), hashlib.sha256(DATA).hexdigest())
    assert names(tmp_path) == ["x.h5", "x.h5.gz"]


def test_several_gzip_members_are_one_file(tmp_path: Path) -> None:
    unpack_gz(packed(tmp_path, gzip.compress(DATA[:100]) + gzip.compress(DATA[100:])), tmp_path, unpacked())
    assert (tmp_path / "x.h5").read_bytes() == DATA


WHOLE = gzip.compress(DATA)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (WHOLE[: len(WHOLE) // 2], "ends too early"),
        (WHOLE[:-1], "ends too early"),
        (WHOLE[:5], "ends too early"),
        (WHOLE + b"trailing garbage", "truncated or damaged"),
        (WHOLE[:-6] + b"\0\0" + WHOLE[-4:], "CRC"),
        (WHOLE[:20_000] + bytes([WHOLE[20_000] ^ 0xFF]) + WHOLE[20_001:], "truncated or damaged|published"),
        (b"<html>not found</html>", "truncated or damaged"),
        (gzip.compress(DATA[:-1] + b"x"), "MD5"),
        (b"", "not the published file"),
    ],
    ids=["half", "last byte", "header", "garbage", "checksum", "bit", "page", "another file", "empty"],
)
def test_a_broken_gzip_file_leaves_nothing(tmp_path: Path, data: bytes, why: str) -> None:
    with pytest.raises(UserError, match=why):
        unpack_gz(packed(tmp_path, data), tmp_path, unpacked())
    assert names(tmp_path) == ["x.h5.gz"]


@settings(max_examples=40)
@given(cut=st.integers(0, len(WHOLE) - 1))
def test_a_gzip_file_cut_anywhere_is_refused(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    folder = tmp_path_factory.mktemp("gz")
    with pytest.raises(UserError):
        unpack_gz(packed(folder, WHOLE[:cut]), folder, unpacked())
    assert names(folder) == ["x.h5.gz"]


def test_a_bomb_stops_at_the_known_length_in_little_memory(tmp_path: Path) -> None:
    bomb = gzip.compress(bytes(200_000_000), compresslevel=1)
    assert len(bomb) < 1_000_000
    archive = packed(tmp_path, bomb)
    tracemalloc.start()
    with pytest.raises(UserError, match=r"more than 60\.0 kB unpacked"):
        unpack_gz(archive, tmp_path, unpacked())
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 20_000_000
    assert names(tmp_path) == ["x.h5.gz"]


def tar_gz(path: Path, members: list[tuple[tarfile.TarInfo, bytes]]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for info, data in members:
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = link
    info.mode = 0o7777
    return info


def untar(path: Path, folder: Path) -> None:
    folder.mkdir()
    visit_tar_gz(path, LIMITS, member_writer(folder, "top"), "unpacking")


def test_a_tar_unpacks_below_its_folder_without_its_modes(tmp_path: Path) -> None:
    archive = tar_gz(
        tmp_path / "a.tar.gz",
        [
            (member("./", tarfile.DIRTYPE), b""),
            (member("top", tarfile.DIRTYPE), b""),
            (member("./top/b/x.png"), DATA),
            (member("top/y.png"), b""),
        ],
    )
    untar(archive, tmp_path / "out")
    assert names(tmp_path / "out") == ["b", "b/x.png", "y.png"]
    assert (tmp_path / "out/b/x.png").read_bytes() == DATA
    assert not (tmp_path / "out/b/x.png").stat().st_mode & 0o7000


@pytest.mark.parametrize(
    "bad",
    [
        member("/etc/passwd"),
        member("../outside.png"),
        member("top/../../outside.png"),
        member("..\\outside.png"),
        member("C:/outside.png"),
        member("C:outside.png"),
        member("\\\\server\\share\\x"),
        member("top/link.png", tarfile.SYMTYPE, "/etc/passwd"),
        member("top/link.png", tarfile.SYMTYPE, "a.png"),
        member("top/hard.png", tarfile.LNKTYPE, "top/a.png"),
        member("top/device", tarfile.CHRTYPE),
        member("top/pipe", tarfile.FIFOTYPE),
        member("top/block", tarfile.BLKTYPE),
        member("top/a.png"),
        member("TOP/A.PNG"),
        member("top/a.png/inside.png"),
        member("top/x\x1b[2J.png"),
        member("top/nul.txt"),
        member("top/COM1"),
        member("top/dot."),
        member("top/space "),
        member("top/a:stream"),
        member("top/" + "n" * 300),
        member("top/\udcff.png"),
        member("."),
    ],
    ids=lambda info: ascii(info.name)[:30] + info.type.decode(),
)
def test_hostile_members_of_a_tar_are_refused(tmp_path: Path, bad: tarfile.TarInfo) -> None:
    archive = tmp_path / "a.tar.gz"
    with tarfile.open(archive, "w:gz", encoding="utf-8", errors="surrogateescape") as tar:
        good = member("top/a.png")
        good.size = 3
        tar.addfile(good, io.BytesIO(b"abc"))
        tar.addfile(bad)
    before = names(tmp_path)
    with pytest.raises(UserError, match="a member that is not written") as caught:
        untar(archive, tmp_path / "out")
    assert "\x1b" not in str(caught.value)
    assert [name for name in names(tmp_path) if not name.startswith("out")] == before
    assert names(tmp_path / "out") in (["a.png"], [])
    assert not (tmp_path.parent / "outside.png").exists()


def test_a_link_is_never_written_through(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    archive = tar_gz(
        tmp_path / "a.tar.gz",
        [(member("top/d", tarfile.SYMTYPE, str(outside)), b""), (member("top/d/x.png"), b"owned")],
    )
    with pytest.raises(UserError, match="a link"):
        untar(archive, tmp_path / "out")
    assert names(outside) == []


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ([(member(f"top/{n}.png"), b"x") for n in range(21)], "more than 20 members"),
        ([(member(f"top/{n}.png"), bytes(90_000)) for n in range(3)], r"more than 200\.0 kB"),
    ],
)
def test_a_tar_has_limits(tmp_path: Path, members: list[tuple[tarfile.TarInfo, bytes]], why: str) -> None:
    with pytest.raises(UserError, match=why):
        untar(tar_gz(tmp_path / "a.tar.gz", members), tmp_path / "out")


def test_a_bomb_behind_the_end_of_a_tar_is_found(tmp_path: Path) -> None:
    archive = tar_gz(tmp_path / "a.tar.gz", [(member("top/x.png"), b"x")])
    plain = gzip.decompress(archive.read_bytes())
    archive.write_bytes(gzip.compress(plain + bytes(50_000_000), compresslevel=1))
    with pytest.raises(UserError, match="unpacked"):
        untar(archive, tmp_path / "out")
    archive.write_bytes(gzip.compress(plain + bytes(1024) + b"more"))
    with pytest.raises(UserError, match="behind the end"):
        untar(archive, tmp_path / "again")


@settings(max_examples=30)
@given(part=st.floats(0, 0.999))
def test_a_tar_cut_anywhere_is_refused(tmp_path_factory: pytest.TempPathFactory, part: float) -> None:
    folder = tmp_path_factory.mktemp("tar")
    archive = tar_gz(folder / "a.tar.gz", [(member(f"top/{n}.png"), content(3_000, n)) for n in range(3)])
    data = archive.read_bytes()
    archive.write_bytes(data[: int(part * len(data))])
    with pytest.raises(UserError, match=r"truncated or damaged"):
        visit_tar_gz(archive, LIMITS, read_through, "testing")


def test_a_tar_without_compression_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "a.tar.gz"
    with tarfile.open(archive, "w") as tar:
        tar.addfile(member("top/x.png"))
    with pytest.raises(UserError, match="truncated or damaged"):
        untar(archive, tmp_path / "out")


def zipped(path: Path, entries: list[tuple[zipfile.ZipInfo | str, bytes]], **options: object) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for info, data in entries:
            file.writestr(info, data)
    return path


def unzip(path: Path, folder: Path) -> None:
    folder.mkdir()
    visit_zip(path, LIMITS, member_writer(folder), "unpacking")


def with_mode(name: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system = 3
    info.external_attr = mode << 16
    return info


def test_a_zip_unpacks_below_its_folder(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "a.zip", [("train/", b""), ("train/x.tif", DATA), ("train_labels.csv", b"id,label\n")])
    unzip(archive, tmp_path / "out")
    assert names(tmp_path / "out") == ["train", "train/x.tif", "train_labels.csv"]
    assert (tmp_path / "out/train/x.tif").read_bytes() == DATA


@pytest.mark.parametrize(
    "bad",
    [
        "../outside.png",
        "a/../../outside.png",
        "/etc/passwd",
        "C:\\x.png",
        "..\\outside.png",
        "first.png",
        "FIRST.png",
        "first.png/x",
        with_mode("link", 0o120777),
        with_mode("pipe", 0o010644),
        with_mode("device", 0o020644),
    ],
    ids=lambda entry: entry if isinstance(entry, str) else entry.filename,
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_hostile_members_of_a_zip_are_refused_before_a_byte(tmp_path: Path, bad: zipfile.ZipInfo | str) -> None:
    archive = zipped(tmp_path / "a.zip", [("first.png", b"abc"), (bad, b"owned")])
    with pytest.raises(UserError, match="a member that is not written"):
        unzip(archive, tmp_path / "out")
    assert names(tmp_path / "out") == []
    assert not (tmp_path.parent / "outside.png").exists()


def lying_about_its_length(path: Path) -> None:
    """Make the central directory say that the member has 10 bytes."""
    data = bytearray(path.read_bytes())
    place = data.rindex(b"PK\x01\x02")
    data[place + 24 : place + 28] = (10).to_bytes(4, "little")
    path.write_bytes(bytes(data))


def encrypted(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + offset] |= 1
    path.write_bytes(bytes(data))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[200] ^= 0xFF
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (lying_about_its_length, "larger than its header says|truncated or damaged"),
        (encrypted, "encrypted"),
        (cut, "truncated or damaged"),
        (flipped, "truncated or damaged"),
    ],
)
def test_a_broken_zip_is_refused(tmp_path: Path, harm: Callable[[Path], None], why: str) -> None:
    archive = zipped(tmp_path / "a.zip", [("x.png", DATA)])
    harm(archive)
    with pytest.raises(UserError, match=why):
        unzip(archive, tmp_path / "out")


def test_a_zip_has_limits(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="more than 20 members"):
        unzip(zipped(tmp_path / "a.zip", [(f"{n}.png", b"x") for n in range(21)]), tmp_path / "out")
    with pytest.raises(UserError, match=r"more than 200\.0 kB"):
        unzip(zipped(tmp_path / "b.zip", [("bomb.png", bytes(10_000_000))]), tmp_path / "again")
    assert names(tmp_path / "again") == []


@settings(max_examples=50)
@given(name=st.text(max_size=30))
def test_a_safe_path_never_leaves_its_folder(name: str) -> None:
    try:
        path = safe_member_path(name)
    except UnsafeMember:
        return
    assert not path.is_absolute()
    assert ".." not in path.parts
    assert not any(ord(letter) < 32 for letter in str(path))
