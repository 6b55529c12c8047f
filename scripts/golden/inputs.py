"""Small data sets in the real layouts, drawn from fixed seeds. N tiles, H height, W width, C colours."""

from __future__ import annotations

import csv
import hashlib
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from .scene import Edit

SETTLED_S = 1_000_000_000
"""Time of change of every input: files that are seconds old would be treated with suspicion, and now and then only."""
FOLDER_BY_TUMOUR = {
    "A": "benign/SOB/adenosis", "F": "benign/SOB/fibroadenoma", "TA": "benign/SOB/tubular_adenoma",
    "DC": "malignant/SOB/ductal_carcinoma", "MC": "malignant/SOB/mucinous_carcinoma",
    "LC": "malignant/SOB/lobular_carcinoma",
}  # fmt: skip
COLOUR_BY_TUMOUR = {
    "A": (185, 150, 200), "F": (190, 190, 120), "TA": (200, 120, 160),
    "DC": (165, 130, 180), "MC": (120, 160, 210), "LC": (150, 120, 150),
}  # fmt: skip
TISSUES = {"adipose": (190, 165, 200), "mucus": (150, 170, 220), "stroma": (180, 140, 195), "tumour": (160, 130, 190)}
PARTS = ("train", "valid", "test")
PATIENTS = Path(__file__).with_name("published_patients.csv")


def settle(folder: Path) -> None:
    """Give every file below a folder the same old time of change."""
    for path in folder.rglob("*"):
        if path.is_file():
            os.utime(path, (SETTLED_S, SETTLED_S))


def draw(rng: np.random.Generator, colour: NDArray[Any], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return a noisy tile of a mean colour, (H, W, 3)."""
    pixels_HWC = rng.normal(colour, 22.0, (*size, 3))
    return pixels_HWC.clip(0, 255).astype(np.uint8)


def write_png(path: Path, pixels_HWC: NDArray[np.uint8]) -> None:
    """Write a tile, with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels_HWC).save(path)


def breakhis_path(root: Path, tumour: str, slide: str, magnification: int, number: int) -> Path:
    """Return an image's place in BreakHis's own tree."""
    kind = FOLDER_BY_TUMOUR[tumour]
    name = f"SOB_{kind[0].upper()}_{tumour}"
    folder = root / "BreaKHis_v1/histology_slides/breast" / kind / f"{name}_14-{slide}" / f"{magnification}X"
    return folder / f"{name}-14-{slide}-{magnification}-{number:03d}.png"


def breakhis(
    name: str = "breakhis",
    n_cases: int = 6,
    magnifications: tuple[int, ...] = (100, 400),
    n_tiles: int = 3,
    seed: int = 0,
) -> Edit:
    """Return what writes a BreakHis tree: ``n_cases`` of each of two tumour types, each with a tint of its own."""

    def write(folder: Path) -> None:
        rng = np.random.default_rng(seed)
        for tumour, first in (("A", 1000), ("DC", 1500)):
            for case in range(n_cases):
                tint = rng.normal(0, 12, 3)
                for magnification in magnifications:
                    for number in range(1, n_tiles + 1):
                        path = breakhis_path(folder / name, tumour, str(first + case), magnification, number)
                        write_png(path, draw(rng, COLOUR_BY_TUMOUR[tumour] + tint, (46, 70)))
        settle(folder / name)

    return write


def published_breakhis(name: str = "breakhis", most_per_patient: int = 2, size: tuple[int, int] = (23, 35)) -> Edit:
    """Return what writes the first 40X images of every patient in the splits of eva and THUNDER."""

    def write(folder: Path) -> None:
        rng = np.random.default_rng(7)
        with PATIENTS.open(encoding="utf-8") as stream:
            for row in csv.DictReader(stream):
                tint = rng.normal(0, 10, 3)
                for number in range(1, 1 + min(most_per_patient, int(row["n_40x"]))):
                    path = breakhis_path(folder / name, row["tumour"], row["patient"], 40, number)
                    write_png(path, draw(rng, COLOUR_BY_TUMOUR[row["tumour"]] + tint, size))
        settle(folder / name)

    return write


def patches(rng: np.random.Generator, n_tiles: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return PatchCamelyon patches, every other one with a darker centre, and their labels."""
    y_N = np.arange(n_tiles) % 2
    x_NHWC = rng.normal(150, 20, (n_tiles, 96, 96, 3))
    x_NHWC += rng.normal(0, 15, (n_tiles, 1, 1, 3))
    x_NHWC[y_N == 1, 32:64, 32:64] -= 45
    return x_NHWC.clip(0, 255).astype(np.uint8), y_N.astype(np.uint8)


def pcam(name: str = "pcam", n_per_part: int = 40, n_slides: int = 10, with_slides: bool = True) -> Edit:
    """Return what writes PatchCamelyon's HDF5 files, with the tables that name the slides."""

    def write(folder: Path) -> None:
        import h5py

        root = folder / name
        root.mkdir(parents=True)
        rng = np.random.default_rng(1)
        for part in PARTS:
            x_NHWC, y_N = patches(rng, n_per_part)
            stem = f"camelyonpatch_level_2_split_{part}"
            for kind, values in (("x", x_NHWC), ("y", y_N.reshape(-1, 1, 1, 1))):
                with h5py.File(root / f"{stem}_{kind}.h5", "w") as file:
                    file[kind] = values
            if with_slides:
                lines = ["coord_y,coord_x,tumor_patch,center_tumor_patch,wsi"]
                lines += [f"0,0,{bool(y)},{bool(y)},{part}_{row % n_slides}" for row, y in enumerate(y_N)]
                (root / f"{stem}_meta.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        settle(root)

    return write


def kaggle_pcam(name: str = "kaggle", n_tiles: int = 24) -> Edit:
    """Return what writes the layout of Kaggle's copy: a TIFF per patch, one table of labels."""

    def write(folder: Path) -> None:
        root = folder / name
        (root / "train").mkdir(parents=True)
        x_NHWC, y_N = patches(np.random.default_rng(2), n_tiles)
        rows = ["id,label"]
        for number in range(n_tiles):
            identity = hashlib.sha1(str(number).encode(), usedforsecurity=False).hexdigest()
            Image.fromarray(x_NHWC[number]).save(root / "train" / f"{identity}.tif")
            rows.append(f"{identity},{y_N[number]}")
        (root / "train_labels.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
        settle(root)

    return write


def hub_pcam(name: str = "hub", n_per_part: int = 8) -> Edit:
    """Return what writes the hub's copy: parquet files that hold the images in their cells."""

    def write(folder: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        rng = np.random.default_rng(3)
        (folder / name / "data").mkdir(parents=True)
        for part in PARTS:
            x_NHWC, y_N = patches(rng, n_per_part)
            cells = [{"bytes": png_bytes(pixels_HWC), "path": None} for pixels_HWC in x_NHWC]
            struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
            table = pa.table({"image": pa.array(cells, struct), "label": pa.array(y_N.astype(bool))})
            pq.write_table(table, folder / name / "data" / f"{part}-00000-of-00001.parquet", row_group_size=4)
        settle(folder / name)

    return write


def png_bytes(pixels_HWC: NDArray[np.uint8]) -> bytes:
    """Return a tile as the bytes of a PNG file."""
    stream = io.BytesIO()
    Image.fromarray(pixels_HWC).save(stream, "PNG")
    return stream.getvalue()


def tissues(name: str, seed: int, classes: tuple[str, ...] = ("adipose", "stroma", "tumour")) -> Edit:
    """Return what writes a table of six groups of tiles per tissue; another seed is another laboratory."""

    def write(folder: Path) -> None:
        rng = np.random.default_rng(seed)
        lines = ["path,label,group,mpp"]
        for tissue in classes:
            for group in range(6):
                tint = rng.normal(0, 14, 3)
                for tile in range(3):
                    path = f"img/{tissue}_{group}_{tile}.png"
                    write_png(folder / name / path, draw(rng, TISSUES[tissue] + tint, (40, 40)))
                    lines.append(f"{path},{tissue},{name}-{tissue}-{group},0.5")
        (folder / name / "tiles.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        settle(folder / name)

    return write


def sited_tiles(name: str = "sited") -> Edit:
    """Return what writes a table of two classes from two laboratories, with every column that a table may have."""

    def write(folder: Path) -> None:
        rng = np.random.default_rng(11)
        columns = ("path", "label", "group", "slide", "site", "scanner", "stain", "mpp", "magnification")
        rows: list[tuple[Any, ...]] = [columns]
        for number in range(24):
            label, site = ("normal", "tumor")[number % 2], ("Graz", "Lyon")[number // 2 % 2]
            tint = rng.normal(0, 10, 3) + (8 if site == "Lyon" else 0)
            for tile in range(3):
                path = f"img/{number:02d}_{tile}.png"
                colour = np.array([170, 150, 190]) - (14 if label == "tumor" else 0)
                write_png(folder / name / path, draw(rng, colour + tint, (40, 48)))
                slide = f"s{number:02d}{'ab'[tile % 2]}"
                rows.append((path, label, f"p{number:02d}", slide, site, f"scan{number % 3}", "H&E", 0.5, "20X"))
        write_rows(folder / name / "tiles.csv", rows)
        settle(folder / name)

    return write


def class_folders(name: str = "folders") -> Edit:
    """Return what writes class folders: two classes, six groups each, the group in the file's name."""

    def write(folder: Path) -> None:
        rng = np.random.default_rng(12)
        for label, name_of_class in enumerate(("benign", "malignant")):
            for number in range(18):
                colour = np.array([170, 150, 190]) - 12 * label + 4 * (number // 3)
                path = folder / name / name_of_class / f"{name_of_class[0]}{number // 3}_{number}.png"
                write_png(path, draw(rng, colour, (24, 32)))
        settle(folder / name)

    return write


def nuclei(name: str = "drawn") -> Edit:
    """Return what writes BreakHis images of drawn nuclei, 9 um wide at 0.3 and 1.2 um per pixel."""

    def write(folder: Path) -> None:
        for tumour in ("A", "DC"):
            for magnification, diameter_px in ((100, 7.5), (400, 30.0)):
                slide = str(1000 + len(tumour))
                path = breakhis_path(folder / name, tumour, slide, magnification, 1)
                write_png(path, draw_nuclei(diameter_px, 300, 400, seed=magnification + len(tumour)))
        settle(folder / name)

    return write


def draw_nuclei(diameter_px: float, height_px: int, width_px: int, seed: int) -> NDArray[np.uint8]:
    """Return haematoxylin discs on pale eosin by Beer and Lambert's law, with sensor noise, (H, W, 3)."""
    rng = np.random.default_rng(seed)
    y_HW, x_HW = np.mgrid[:height_px, :width_px] + 0.5
    plane_HW = np.zeros((height_px, width_px))
    for y, x in apart(rng, diameter_px, (height_px, width_px)):
        plane_HW = np.maximum(plane_HW, np.clip(diameter_px / 2 - np.hypot(y_HW - y, x_HW - x) + 0.5, 0, 1))
    nuclei_HWC = plane_HW[:, :, None]
    haematoxylin, eosin = np.array([1.05, 1.15, 0.55]), np.array([0.12, 0.75, 0.42])
    light_HWC = np.exp(-nuclei_HWC * haematoxylin - (0.45 - 0.3 * nuclei_HWC) * eosin)
    noise_HWC = 2.0 * rng.standard_normal(light_HWC.shape)
    image_HWC: NDArray[np.uint8] = (240 * light_HWC + noise_HWC).clip(0, 255).astype(np.uint8)
    return image_HWC


def apart(rng: np.random.Generator, diameter_px: float, size: tuple[int, int]) -> Iterator[tuple[float, float]]:
    """Yield the centres of discs that do not touch, until they cover 15 % of a plane."""
    placed: list[tuple[float, float]] = []
    wanted = 0.15 * size[0] * size[1] / (np.pi / 4 * diameter_px**2)
    for _ in range(20_000):
        if len(placed) >= wanted:
            return
        y, x = rng.uniform(0, size[0]), rng.uniform(0, size[1])
        if all(np.hypot(y - other_y, x - other_x) > 1.15 * diameter_px for other_y, other_x in placed):
            placed.append((y, x))
            yield y, x


def authors_folds(name: str = "folds", images: str = "breakhis") -> Edit:
    """Return what writes the authors' fold files (``dsfold1.txt`` and on) for the images of a BreakHis tree."""

    def write(folder: Path) -> None:
        paths = sorted((folder / images).rglob("*.png"))
        slides = sorted({path.name.split("-")[2] for path in paths})
        (folder / name).mkdir()
        for fold in range(1, 6):
            lines = []
            for path in paths:
                _, _, slide, magnification, _ = path.name.split("-")
                side = "test" if slides.index(slide) % 5 == fold - 1 else "train"
                lines.append(f"{path.name}|{magnification}|{fold}|{side}")
            (folder / name / f"dsfold{fold}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        settle(folder / name)

    return write


def write_rows(path: Path, rows: Sequence[Sequence[Any]]) -> None:
    """Write a CSV file."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows(rows)
