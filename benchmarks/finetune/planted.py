"""Tiles whose class lies in what a linear probe of frozen features holds poorly, or in what it holds well.

Each case has two plain traits: its stain is blue or violet, and its nuclei are small or large. Either alone is easy to
see in frozen features. In the planted task the class is whether exactly one of the two holds (an exclusive or), which
no linear head of separate traits can say; in the easy task it is the size of the nuclei alone. Every case has a
signature of its own besides: background, density of nuclei, noise.
"""

# S side of a tile, C channels

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import polars as pl
from PIL import Image, ImageDraw, ImageFilter

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

Task = Literal["planted", "easy", "permuted"]
SIDE_PX = 112
BLUE, VIOLET = (83, 71, 148), (114, 59, 138)
RADIUS_SMALL_PX, RADIUS_LARGE_PX = 3.9, 5.7


@dataclass(frozen=True)
class PlantedCohort:
    """What is rendered.

    Attributes:
        task: ``planted``, ``easy``, or ``permuted``: planted with the labels dealt again among cases.
        n_groups: Cases; a quarter of them has each pair of traits.
        n_tiles: Tiles of a case.
        seed: Seed of everything.
    """

    task: Task
    n_groups: int
    n_tiles: int
    seed: int


def write_planted(cohort: PlantedCohort, folder: Path) -> Path:
    """Write the tiles and their table, and return the table's path; what is there already stays."""
    table = folder / "tiles.csv"
    if table.is_file():
        return table
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([cohort.seed, cohort.n_groups])
    traits = np.array([(case // 2 % 2, case % 2) for case in range(cohort.n_groups)])
    label = traits[:, 1] if cohort.task == "easy" else traits[:, 0] ^ traits[:, 1]
    if cohort.task == "permuted":
        label = rng.permutation(label)
    rows = []
    for case in range(cohort.n_groups):
        signature = np.random.default_rng([cohort.seed, case])
        background = signature.normal((232, 196, 214), 7.0)
        n_nuclei = int(signature.integers(10, 22))
        for tile in range(cohort.n_tiles):
            name = f"case{case:03d}-{tile:02d}.png"
            own = np.random.default_rng([cohort.seed, case, tile])
            draw_tile(bool(traits[case, 0]), bool(traits[case, 1]), background, n_nuclei, own).save(folder / name)
            rows.append((name, f"case{case:03d}", "positive" if label[case] else "negative"))
    pl.DataFrame(rows, schema=["path", "group", "label"], orient="row").write_csv(table)
    return table


def draw_tile(
    violet: bool, large: bool, background_C: NDArray[np.float64], n_nuclei: int, rng: np.random.Generator
) -> Image.Image:
    """Draw one tile: nuclei of one size and stain on a background with noise."""
    image = Image.new("RGB", (SIDE_PX, SIDE_PX), tuple(int(value) for value in background_C.clip(0, 255)))
    pen = ImageDraw.Draw(image)
    middle = np.array(VIOLET if violet else BLUE, float)
    for x_px, y_px in rng.uniform(0, SIDE_PX, (n_nuclei, 2)):
        radius_px = (RADIUS_LARGE_PX if large else RADIUS_SMALL_PX) * np.exp(rng.normal(0, 0.12))
        stretch = np.exp(rng.normal(0, 0.15))
        colour = tuple(int(value) for value in (middle + rng.normal(0, 14, 3)).clip(0, 255))
        a_px, b_px = radius_px * stretch, radius_px / stretch
        pen.ellipse((x_px - a_px, y_px - b_px, x_px + a_px, y_px + b_px), fill=colour)
    blurred = np.asarray(image.filter(ImageFilter.GaussianBlur(0.8)), float)
    return Image.fromarray((blurred + rng.normal(0, 7, blurred.shape)).clip(0, 255).astype(np.uint8))
