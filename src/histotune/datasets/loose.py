"""Image files without labels, for prediction."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from histotune.datasets.headers import IMAGE_SUFFIXES
from histotune.datasets.tileset import TileSet, tile_table
from histotune.tools.errors import UserError, raise_together

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def read_loose_images(paths: Sequence[Path], class_names: tuple[str, ...], mpp: float | None = None) -> TileSet:
    """List image files and folders of images as unlabelled tiles.

    Args:
        paths: Files, or folders that are searched through.
        class_names: Names of the head that will predict.
        mpp: Scale of all images, um/px; None where it is not known.

    Returns:
        A tile per image; tile ids are the paths as given.

    Raises:
        UserError: Something is missing, is no image by its name, a folder holds none, or the scale is no positive
            number; all reported together.
    """
    errors, files = [], []
    if mpp is not None and not 0 < mpp < math.inf:
        errors.append(UserError("--mpp takes a positive number of um/px", value=mpp, fix="--mpp 0.25"))
    for path in paths:
        found = _images_in(path)
        if found:
            files += found
        else:
            what = "no such file or folder" if not path.exists() else "no image here"
            errors.append(UserError(what, value=path, allowed=", ".join(IMAGE_SUFFIXES)))
    raise_together(errors)
    names = sorted({str(file) for file in files})
    table = tile_table({"tile_id": names, "path": names, **({} if mpp is None else _scale(names, mpp))})
    return TileSet("images", table, class_names, licence="the user's own", citation="")


def _scale(names: list[str], mpp: float) -> dict[str, object]:
    """Columns that a view with a target scale needs."""
    sizes = [_size_px(name) for name in names]
    return {
        "mpp": [mpp] * len(names),
        "mpp_source": ["user"] * len(names),
        "width_px": [width_px for width_px, _ in sizes],
        "height_px": [height_px for _, height_px in sizes],
    }


def _size_px(path: str) -> tuple[int | None, int | None]:
    """Read an image's size from its header; unknown where there is none, which whoever decodes it explains."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None, None


def _images_in(path: Path) -> list[Path]:
    if path.is_dir():
        return [file for file in sorted(path.rglob("*")) if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file()]
    return [path] if path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES else []
