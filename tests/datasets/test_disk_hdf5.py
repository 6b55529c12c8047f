"""HDF5 files whose values lie in other files are refused, wherever such a file is read."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histotune.datasets.disk import HEAP_HEADER_BYTES, HEAP_OBJECT, HEAP_START, has_endless_strings, own_dataset
from histotune.datasets.pcam_files import opened_hdf5
from histotune.embeddings.exchange import read_foreign
from histotune.images.decode import PixelReader
from histotune.tools.errors import UserError

SECRET = np.arange(4 * 8 * 8 * 3, dtype=np.uint8).reshape(4, 8, 8, 3)


def external_link(path: Path, name: str, other: Path) -> None:
    with h5py.File(other, "w") as file:
        file[name] = SECRET
    with h5py.File(path, "w") as file:
        file[name] = h5py.ExternalLink(str(other), name)


def broken_link(path: Path, name: str, other: Path) -> None:
    with h5py.File(path, "w") as file:
        file[name] = h5py.ExternalLink(str(other), name)


def virtual(path: Path, name: str, other: Path) -> None:
    with h5py.File(other, "w") as file:
        file[name] = SECRET
    layout = h5py.VirtualLayout(shape=SECRET.shape, dtype=SECRET.dtype)
    layout[:] = h5py.VirtualSource(str(other), name, shape=SECRET.shape)
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset(name, layout)


def external_storage(path: Path, name: str, other: Path) -> None:
    other.write_bytes(SECRET.tobytes())
    with h5py.File(path, "w") as file:
        file.create_dataset(name, SECRET.shape, SECRET.dtype, external=[(str(other), 0, SECRET.nbytes)])


KINDS = (external_link, broken_link, virtual, external_storage)


@pytest.mark.parametrize("kind", KINDS)
def test_values_in_another_file_are_never_read(kind: Callable[[Path, str, Path], None], tmp_path: Path) -> None:
    for name in ("x", "y", "features"):
        kind(tmp_path / f"{name}.h5", name, tmp_path / "other")
    with PixelReader() as reader, pytest.raises(UserError, match="link to elsewhere"):
        reader.n_rows(tmp_path / "x.h5")
    for name in ("x", "y"):
        with opened_hdf5(str(tmp_path / f"{name}.h5")) as file, pytest.raises(UserError, match="link to elsewhere"):
            own_dataset(file, name)
    with pytest.raises(UserError, match="link to elsewhere"):
        read_foreign(tmp_path / "features.h5")


def test_a_group_is_no_data_set(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_group("x")
        assert own_dataset(file, "x") is None
        assert own_dataset(file, "y") is None


def test_a_data_set_that_claims_more_than_its_file_holds_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", (2**40, 8, 8, 3), np.uint8, chunks=(64, 8, 8, 3))
        file.create_dataset("tile_id", (2**40,), h5py.string_dtype(), chunks=(64,))
        file.create_dataset("zeros", data=np.zeros((100_000, 8), np.uint8), compression="gzip", compression_opts=9)
    with h5py.File(tmp_path / "a.h5") as file:
        for name in ("x", "tile_id"):
            with pytest.raises(UserError, match=f'"{name}".*more than the file can hold'):
                own_dataset(file, name)
        assert own_dataset(file, "zeros").shape == (100_000, 8)


def strings_file(path: Path) -> bytes:
    """Write a file with strings of varying length and return its bytes."""
    with h5py.File(path, "w") as file:
        file.create_dataset("tile_id", data=[f"tile {number}" for number in range(6)], dtype=h5py.string_dtype())
        file["features"] = np.zeros((6, 4), np.float32)
    return path.read_bytes()


def test_strings_that_would_never_end_are_refused(tmp_path: Path) -> None:
    """The walk over free space of size 0 is one that the library never ends, whatever signal it is sent."""
    path = tmp_path / "x.h5"
    whole = strings_file(path)
    assert not has_endless_strings(path)
    start = whole.index(HEAP_START)
    first = start + HEAP_HEADER_BYTES
    for index, size in ((0, 0), (3, 2**64 - 16)):
        path.write_bytes(whole[:first] + HEAP_OBJECT.pack(index, 1, 0, size) + whole[first + HEAP_OBJECT.size :])
        assert has_endless_strings(path)
        with pytest.raises(UserError, match="strings lead nowhere"):
            read_foreign(path)


@given(st.data())
@settings(max_examples=15, deadline=None)
def test_a_walk_ends_for_every_damage(data: st.DataObject) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "x.h5"
        whole = bytearray(strings_file(path))
        start = whole.index(HEAP_START)
        for _ in range(data.draw(st.integers(1, 4))):
            whole[data.draw(st.integers(start, len(whole) - 1))] = data.draw(st.integers(0, 255))
        path.write_bytes(bytes(whole))
        if not has_endless_strings(path):
            done = subprocess.run([sys.executable, "-c", READ, str(path)], timeout=60, check=False, capture_output=True)
            assert done.returncode in (0, 1)


READ = "import h5py, sys; print(h5py.File(sys.argv[1])['tile_id'].asstr()[()])"
