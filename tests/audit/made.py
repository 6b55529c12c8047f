"""Made-up tissue, tile sets over it, and its variants."""

from __future__ import annotations

import io
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from histotune.datasets.tileset import TileSet, tile_table

CLASSES = ("normal", "tumour")


def tissue(seed: int, side_px: int = 96) -> NDArray[np.uint8]:
    """Purple blobs of several sizes on pink, different for every seed."""
    rng = np.random.default_rng(seed)
    grains = sum(gaussian_filter(rng.normal(size=(side_px, side_px)), s) * s for s in (1.5, 4, 10))
    blobs_HW = 1 / (1 + np.exp(-6 * grains))
    pink, purple = np.array([225.0, 150, 190]), np.array([90.0, 50, 130])
    pixels = pink + blobs_HW[:, :, None] * (purple - pink) + rng.normal(0, 4, (side_px, side_px, 3))
    return pixels.clip(0, 255).astype(np.uint8)


def jpeg(pixels: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream))


def brighter(pixels: NDArray[np.uint8], levels: int) -> NDArray[np.uint8]:
    return (pixels.astype(np.int64) + levels).clip(0, 255).astype(np.uint8)


def stained(pixels: NDArray[np.uint8], power: float) -> NDArray[np.uint8]:
    """Multiply the optical density."""
    return (255 * (pixels / 255.0) ** power).round().astype(np.uint8)


def hdf5_tiles(folder: Path, pixels: list[NDArray[np.uint8]], **columns: list[object]) -> TileSet:
    """Write tiles into one HDF5 file; groups, labels and sides as given."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "x.h5"
    with h5py.File(path, "w") as file:
        file["x"] = np.stack(pixels)
    return tile_set(len(pixels), [str(path)] * len(pixels), row=list(range(len(pixels))), **columns)


def png_tiles(folder: Path, pixels: list[NDArray[np.uint8]], **columns: list[object]) -> TileSet:
    """Write tiles as PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:03d}.png" for number in range(len(pixels))]
    for path, one in zip(paths, pixels, strict=True):
        Image.fromarray(one).save(path)
    return tile_set(len(pixels), [str(path) for path in paths], **columns)


def tile_set(n: int, paths: list[str], **columns: object) -> TileSet:
    ids = columns.pop("tile_id", [f"t{number:03d}" for number in range(n)])
    facts: dict[str, object] = {
        "tile_id": ids, "path": paths, "label": [0] * n, "group_id": [f"g{number}" for number in range(n)],
        **columns,
    }  # fmt: skip
    return TileSet("made", tile_table(facts), CLASSES, licence="CC0", citation="made up")
