"""Files in the real formats of both data sets, made for tests: minimal PNG headers, small HDF5 files."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

PNG_START = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
FOLDER_BY_TUMOUR = {
    "A": "adenosis", "F": "fibroadenoma", "PT": "phyllodes_tumor", "TA": "tubular_adenoma",
    "DC": "ductal_carcinoma", "LC": "lobular_carcinoma", "MC": "mucinous_carcinoma", "PC": "papillary_carcinoma",
}  # fmt: skip
# The real accessions that share a number are here under their real names; the other numbers are made up.
SLIDES_BY_TUMOUR = {
    "A": ["22549AB", "22549CD", "22549G", "29960CD"],
    "F": ["29960AB", "21998CD", "21998EF", *(str(40001 + i) for i in range(7))],
    "PT": ["21998AB", "40021", "40022EF"],
    "TA": ["16184", "16184CD", *(f"{40031 + i}C" for i in range(5))],
    "DC": ["13412", *(str(40101 + i) for i in range(37))],
    "LC": ["13412", "15570", "15570C", "40202", "40203"],
    "MC": ["18842", "18842D", "19979", "19979C", *(str(40301 + i) for i in range(5))],
    "PC": [f"{40401 + i}B" for i in range(6)],
}
COUNTS_BY_MAGNIFICATION = {"40": (625, 1370), "100": (644, 1437), "200": (623, 1390), "400": (588, 1232)}


def real_data(name: str) -> Path:
    """Return a folder of real samples, or skip with the reason."""
    default = Path(__file__).parents[3] / "shared" / "data"
    folder = Path(os.environ.get("HISTOTUNE_REAL_DATA", default)) / name
    if not folder.is_dir():
        pytest.skip(f"real sample {name} is not beside the project (set HISTOTUNE_REAL_DATA)")
    return folder


def png_header(width_px: int = 700, height_px: int = 460) -> bytes:
    return PNG_START + struct.pack(">II", width_px, height_px)


def write_image(folder: Path, name: str, data: bytes | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes(png_header() if data is None else data)
    return path


def tree_folder(root: Path, name: str) -> Path:
    """Return the folder of an image in the data set's own tree."""
    sob, letter, rest = name.split("_")
    tumour, year, slide, magnification, _ = rest.split("-")
    side = "benign" if letter == "B" else "malignant"
    base = root / "BreaKHis_v1" / "histology_slides" / "breast" / side / "SOB" / FOLDER_BY_TUMOUR[tumour]
    return base / f"{sob}_{letter}_{tumour}_{year}-{slide}" / f"{magnification}X"


def full_size_names() -> list[str]:
    """Return 7,909 names with the data set's counts per magnification and class, over its 82 patients."""
    names = []
    for magnification, counts in COUNTS_BY_MAGNIFICATION.items():
        for letter, tumours, n in zip("BM", (("A", "F", "PT", "TA"), ("DC", "LC", "MC", "PC")), counts, strict=True):
            patients = [(tumour, slide) for tumour in tumours for slide in SLIDES_BY_TUMOUR[tumour]]
            for image in range(n):
                tumour, slide = patients[image % len(patients)]
                names.append(f"SOB_{letter}_{tumour}-14-{slide}-{magnification}-{image // len(patients) + 1:03d}.png")
    return names


def write_part(
    folder: Path, part: str, labels: list[int], slides: list[str] | None = None, nested: bool = False
) -> None:
    """Write x, y and optionally meta of one PatchCamelyon part."""
    stem = f"camelyonpatch_level_2_split_{part}"
    for kind, name, data in (
        ("x", f"{stem}_x.h5", np.zeros((len(labels), 96, 96, 3), np.uint8)),
        ("y", f"{stem}_y.h5", np.array(labels, np.uint8).reshape(-1, 1, 1, 1)),
    ):
        path = folder / name / name if nested else folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(path, "w") as file:
            file.create_dataset(kind, data=data, compression="gzip" if kind == "x" else None)
    if slides is not None:
        rows = [f"{i},0,0,True,{bool(y)},{s}" for i, (y, s) in enumerate(zip(labels, slides, strict=True))]
        table = "\n".join([",coord_y,coord_x,tumor_patch,center_tumor_patch,wsi", *rows])
        (folder / f"{stem}_meta.csv").write_text(table + "\n", encoding="utf-8")


def encoded(pixels_HWC: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    """Return an image file's bytes."""
    stream = io.BytesIO()
    Image.fromarray(pixels_HWC).save(stream, kind, **options)
    return stream.getvalue()


def write_image_parquet(
    path: Path, images: Sequence[bytes | None], labels: Sequence[object] | None = None, **options: object
) -> Path:
    """Write images as Hugging Face does: a struct of bytes and path, and a label."""
    cells = [{"bytes": data, "path": None} for data in images]
    columns = {"image": pa.array(cells, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))}
    if labels is not None:
        columns["label"] = pa.array(labels)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, **options)
    return path
