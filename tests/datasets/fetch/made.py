"""Small copies of both data sets at their homes: the same kinds of files, published with their own sums."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from histotune.datasets.fetch.fetch_breakhis import BreakhisHome
from histotune.datasets.fetch.fetch_pcam import PcamHome
from histotune.datasets.fetch.source import FILES, SOURCES, Checksums, RemoteFile, Unpacked
from histotune.datasets.fetch.unpack import Limits

from ..fakes import png_header, tree_folder
from .conftest import sums
from .server import Server

BREAKHIS_ARCHIVE = FILES["breakhis"][0].name
ROWS = {"train": 6, "valid": 4, "test": 4}
COUNTS = {("40X", "B"): 2, ("40X", "M"): 3, ("100X", "M"): 1}


def h5_bytes(name: str, data: np.ndarray) -> bytes:
    """Return an HDF5 file as bytes."""
    memory = io.BytesIO()
    with h5py.File(memory, "w") as file:
        file.create_dataset(name, data=data)
    return memory.getvalue()


def pcam_content() -> dict[str, bytes]:
    """Return the unpacked files of a small PatchCamelyon by name."""
    rng = np.random.default_rng(0)
    files = {}
    for part, rows in ROWS.items():
        stem = f"camelyonpatch_level_2_split_{part}"
        labels = (np.arange(rows) % 2).astype(np.uint8).reshape(-1, 1, 1, 1)
        files[f"{stem}_x.h5"] = h5_bytes("x", rng.integers(0, 256, (rows, 96, 96, 3), dtype=np.uint8))
        files[f"{stem}_y.h5"] = h5_bytes("y", labels)
        lines = [f"{row},0,0,True,{bool(row % 2)},{part}_{row // 2}" for row in range(rows)]
        files[f"{stem}_meta.csv"] = "\n".join(
            [",coord_y,coord_x,tumor_patch,center_tumor_patch,wsi", *lines, ""]
        ).encode()
    return files


def pcam_home(server: Server) -> PcamHome:
    """Serve a small PatchCamelyon and publish its sums."""
    files = []
    for name, data in pcam_content().items():
        packed, known = (data, None) if name.endswith(".csv") else (gzip.compress(data, mtime=0), name)
        served = name if known is None else f"{name}.gz"
        server.files[served] = packed
        inside = None if known is None else Unpacked(name, Checksums(md5=sums(data).md5), len(data) + 1_000)
        files.append(RemoteFile(served, (server.url(served),), len(packed), inside is not None, sums(packed), inside))
    return PcamHome(SOURCES["pcam"][0], tuple(sorted(files, key=lambda file: file.about_bytes)))


def breakhis_names(counts: dict[tuple[str, str], int] | None = None) -> list[str]:
    """Return real-looking names in these numbers."""
    names = []
    for (magnification, letter), n in (COUNTS if counts is None else counts).items():
        tumour = "A" if letter == "B" else "DC"
        names += [f"SOB_{letter}_{tumour}-14-4000{i}-{magnification[:-1]}-{i + 1:03d}.png" for i in range(n)]
    return names


def breakhis_archive(counts: dict[tuple[str, str], int] | None = None, padding: int = 500) -> bytes:
    """Return a .tar.gz in the layout of the real one."""
    rng = np.random.default_rng(1)
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w:gz") as tar:
        readme = tarfile.TarInfo("BreaKHis_v1/README.txt")
        tar.addfile(readme, io.BytesIO(b""))
        for name in breakhis_names(counts):
            data = png_header() + rng.integers(0, 256, padding, dtype=np.uint8).tobytes()
            info = tarfile.TarInfo((tree_folder(Path(), name) / name).as_posix())
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return memory.getvalue()


def breakhis_home(server: Server, data: bytes | None = None) -> BreakhisHome:
    """Serve a small BreakHis, whose sums nobody published."""
    archive = breakhis_archive() if data is None else data
    server.files[BREAKHIS_ARCHIVE] = archive
    file = RemoteFile(BREAKHIS_ARCHIVE, (server.url(BREAKHIS_ARCHIVE),), len(archive), False, Checksums())
    return BreakhisHome(SOURCES["breakhis"][0], file, Limits(100, 1_000_000), COUNTS)


def kaggle_breakhis(folder: Path) -> None:
    """Write a small BreakHis as Kaggle arranges it."""
    for name in breakhis_names():
        path = tree_folder(folder / "BreaKHis_v1", name) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png_header())
    (folder / "Folds.csv").write_text("fold,mag,grp,filename\n")


def kaggle_pcam(folder: Path, n: int = 3, skip: int = 0) -> None:
    """Write Kaggle's copy of PatchCamelyon: labels, and TIFFs named by an id."""
    ids = [hashlib.sha1(str(i).encode()).hexdigest() for i in range(n)]
    for part in ("train", "test"):
        (folder / part).mkdir(parents=True)
    for name in ids[skip:]:
        (folder / "train" / f"{name}.tif").write_bytes(b"II*\0")
    (folder / "test" / f"{'a' * 40}.tif").write_bytes(b"II*\0")
    (folder / "train_labels.csv").write_text("id,label\n" + "".join(f"{name},{i % 2}\n" for i, name in enumerate(ids)))


def zip_of(folder: Path, path: Path) -> Path:
    """Pack a folder into a zip."""
    with zipfile.ZipFile(path, "w") as file:
        for member in sorted(folder.rglob("*")):
            file.write(member, member.relative_to(folder).as_posix())
    return path


@dataclass
class Tree:
    """What lies below a folder."""

    folder: Path

    def names(self) -> list[str]:
        paths = (path.relative_to(self.folder) for path in self.folder.rglob("*") if path.is_file())
        return sorted(path.as_posix() for path in paths if path.as_posix() != ".fetch/lock")
