"""Damaged and made-up files for every reader: each is read or refused by one message; none ends in a traceback."""

from __future__ import annotations

import gzip
import io
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import polars as pl
import pytest
from PIL import Image

from histotune.datasets.config import DatasetConfig
from histotune.datasets.read import read_dataset
from histotune.datasets.splits.named import load_split, named_split, save_split
from histotune.datasets.tileset import TileSet
from histotune.embeddings.exchange import read_foreign
from histotune.heads.head import Calibration, Decision, Head, HiddenLayer
from histotune.heads.saved_head import load_head, save_head
from histotune.images.decode import PixelReader, PixelSource, decode_image
from histotune.tools.errors import UserError

TRIES = 10_000
QUICK = 150
LIMIT_S = 20
WORDS = (
    b"", b"\x00", b"\xff", b"\n", b"\r\n", b",", b'"', b"\t", b";", b"nan", b"null", b"-1", b"1e999", b"0x10", b"[",
    b"{", b"}", b"path", b"label", b"group", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\x1b[31m", b"=1+1", b"../..",
    b"/dev/zero", b"9" * 400, b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff", b"\x00" * 64, b"IDAT", b"IEND", b"II*\x00",
    b"PAR1", b"OHDR",
)  # fmt: skip


@dataclass(frozen=True)
class Target:
    """A reader, files that it reads, and the name that they are read under."""

    read: Callable[[Path], object]
    samples: tuple[bytes, ...]
    name: str
    forks: bool = False


class TooLongError(Exception):
    """An input took longer than any may."""


def mutated(samples: tuple[bytes, ...], rng: np.random.Generator) -> bytes:
    """Return a sample after one to four changes: bytes flipped, put in, cut out, repeated or taken from another."""
    data = bytearray(samples[rng.integers(len(samples))])
    for _ in range(rng.integers(1, 5)):
        place = int(rng.integers(len(data) + 1))
        length = int(rng.choice([1, 2, 4, 16, 200]))
        match int(rng.integers(7)):
            case 0 if data:
                data[place % len(data)] = int(rng.integers(256))
            case 1 if data:
                data[place % len(data)] ^= 1 << int(rng.integers(8))
            case 2:
                data[place:place] = WORDS[rng.integers(len(WORDS))]
            case 3:
                del data[place : place + length]
            case 4:
                data[place:place] = data[place : place + length]
            case 5:
                other = samples[rng.integers(len(samples))]
                start = int(rng.integers(len(other) + 1))
                data[place : place + length] = other[start : start + length]
            case _:
                data[place : place + length] = rng.bytes(length)
    if rng.random() < 0.05:
        del data[int(rng.integers(len(data) + 1)) :]
    return bytes(data)


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    def ring(number: int, frame: object) -> None:
        raise TooLongError

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def fault_of(target: Target, path: Path) -> str | None:
    """Return what went wrong in a way that it may not; None where the file was read or refused."""
    try:
        with limited(LIMIT_S):
            target.read(path)
    except UserError as error:
        return None if str(error).strip() else "an empty message"
    except TooLongError:
        return f"more than {LIMIT_S} s"
    except BaseException:
        return traceback.format_exc()
    return None


def try_inputs(target: Target, folder: Path, numbers: range) -> list[str]:
    found = []
    for number in numbers:
        data = mutated(target.samples, np.random.default_rng([number, len(target.name)]))
        path = folder / target.name
        path.write_bytes(data)
        fault = fault_of(target, path)
        if fault is not None:
            found.append(f"input {number}: {fault}")
    return found


def try_forked(target: Target, folder: Path, numbers: range) -> list[str]:
    """Try inputs in a child process, since a library in C may end it; a crash is a fault like any other."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  (the process ends with it)
        faults = try_inputs(target, folder, numbers)
        with os.fdopen(writing, "w", encoding="utf-8") as stream:
            json.dump(faults, stream)
        os._exit(0)
    os.close(writing)
    # a library in C may also never end, where no signal handler of Python runs: then the child is killed from here
    watch = threading.Timer(LIMIT_S + len(numbers), os.kill, (child, signal.SIGKILL))
    watch.start()
    with os.fdopen(reading, encoding="utf-8") as stream:
        text = stream.read()
    _, status = os.waitpid(child, 0)
    watch.cancel()
    if status != 0:
        return [
            f"inputs {numbers.start} to {numbers.stop - 1}: the process ended with {os.waitstatus_to_exitcode(status)}"
        ]
    return list(json.loads(text))


# ---- The readers ----


def pixels(side: int = 24) -> np.ndarray:
    return np.random.default_rng(side).integers(0, 256, (side, side, 3), dtype=np.uint8)


def encoded(kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels()).save(stream, kind, **options)
    return stream.getvalue()


def table_rows(separator: str = ",") -> bytes:
    lines = ["path,label,group,mpp,magnification,split"]
    lines += [
        f"t{number}.png,{'ab'[number % 2]},g{number // 2},0.5,40X,{('train', 'test')[number // 4]}"
        for number in range(8)
    ]
    return "\n".join(lines).replace(",", separator).encode()


def read_table(path: Path) -> object:
    for number in range(8):
        tile = path.parent / f"t{number}.png"
        if not tile.exists():
            tile.write_bytes(encoded("PNG"))
    return read_dataset(DatasetConfig(name="tiles", path=path))


def parquet_table() -> bytes:
    stream = io.BytesIO()
    pl.read_csv(table_rows()).write_parquet(stream)
    return stream.getvalue()


def parquet_images() -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    stream = io.BytesIO()
    rows = [{"bytes": encoded("PNG"), "path": f"{number}.png"} for number in range(4)]
    pq.write_table(pa.table({"image": rows, "label": [0, 1, 0, 1]}), stream)
    return stream.getvalue()


def hdf5_rows() -> bytes:
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        file.create_dataset("x", data=np.stack([pixels(8)] * 6), chunks=(2, 8, 8, 3), compression="gzip")
        file["y"] = np.zeros((6, 1, 1, 1), np.uint8)
    return stream.getvalue()


def hdf5_features() -> bytes:
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        file["features"] = np.ones((6, 4), np.float32)
        file["coords"] = np.ones((6, 2), np.int64)
        file["tile_id"] = [f"t{number}" for number in range(6)]
    return stream.getvalue()


def npz_features() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, features=np.ones((6, 4), np.float32), tile_id=np.array([f"t{n}" for n in range(6)]))
    return stream.getvalue()


def read_rows(path: Path) -> object:
    with PixelReader() as reader:
        return [reader.pixels_and_hash(PixelSource(path, row)) for row in range(min(reader.n_rows(path), 8))]


def head_files(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    layer = HiddenLayer(rng.standard_normal((3, 4)), rng.standard_normal(3))
    weight_KH = np.vstack([np.zeros(3), rng.standard_normal(3)])
    head = Head(
        weight_KH, np.array([0.0, 0.3]), ("cls",), (0, 1, 2, 3), ("benign", "malignant"), "tiny", "a" * 64, "b" * 64,
        1e-3, 12, 3, ("g1", "g2", "g3"), layer, Calibration(1.7, nll_before=0.5, nll_after=0.4), Decision(0.4),
    )  # fmt: skip
    save_head(head, folder)
    return folder


def read_head(path: Path) -> object:
    return load_head(path.parent)


def some_tiles(folder: Path) -> TileSet:
    (folder / "tiles.csv").write_bytes(table_rows())
    return read_table(folder / "tiles.csv")  # type: ignore[return-value]


def targets(folder: Path) -> dict[str, Target]:
    images = {
        "png": (encoded("PNG"), encoded("PNG", icc_profile=bytes(300))),
        "jpeg": (encoded("JPEG"),),
        "tiff": tuple(
            encoded("TIFF", compression=one) for one in (None, "tiff_lzw", "jpeg", "packbits", "tiff_adobe_deflate")
        ),
        "bmp": (encoded("BMP"),),
        "webp": (encoded("WEBP"),),
    }
    found = {
        kind: Target(lambda path: decode_image(path.read_bytes(), path, 10**6), samples, f"a.{kind}")
        for kind, samples in images.items()
    }
    head = head_files(folder / "head")
    tiles = some_tiles(folder)
    save_split(named_split("grouped-2-seed0", tiles), folder / "split.json")
    found |= {
        "table-csv": Target(read_table, (table_rows(), table_rows(";"), table_rows("\t")), "table.csv"),
        "table-gz": Target(read_table, (gzip.compress(table_rows(), mtime=0),), "table.csv.gz"),
        "table-parquet": Target(read_table, (parquet_table(),), "table.parquet"),
        "images-parquet": Target(read_rows, (parquet_images(),), "images.parquet"),
        "rows-hdf5": Target(read_rows, (hdf5_rows(),), "rows.h5", forks=True),
        "features-hdf5": Target(read_foreign, (hdf5_features(),), "features.h5", forks=True),
        "features-npz": Target(read_foreign, (npz_features(),), "features.npz"),
        "head-json": Target(read_head, ((head / "head.json").read_bytes(),), "head/head.json"),
        "head-weights": Target(read_head, ((head / "head.safetensors").read_bytes(),), "head/head.safetensors"),
        "split": Target(lambda path: load_split(path, tiles), ((folder / "split.json").read_bytes(),), "split.json"),
    }  # fmt: skip
    return found


NAMES = (
    "png", "jpeg", "tiff", "bmp", "webp", "table-csv", "table-gz", "table-parquet", "images-parquet", "rows-hdf5",
    "features-hdf5", "features-npz", "head-json", "head-weights", "split",
)  # fmt: skip


def check(name: str, folder: Path, tries: int) -> None:
    target = targets(folder)[name]
    attempt = try_forked if target.forks else try_inputs
    step = 100 if target.forks else tries
    faults = [
        fault
        for start in range(0, tries, step)
        for fault in attempt(target, folder, range(start, min(start + step, tries)))
    ]
    assert not faults, f"{len(faults)} of {tries}\n" + "\n".join(faults[:5])


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("name", NAMES)
def test_some_damaged_inputs_end_in_no_traceback(name: str, tmp_path: Path) -> None:
    check(name, tmp_path, QUICK)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_ten_thousand_damaged_inputs_end_in_no_traceback(name: str, tmp_path: Path) -> None:
    check(name, tmp_path, TRIES)
