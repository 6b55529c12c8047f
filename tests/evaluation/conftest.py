"""Small data sets with known structure, without images or networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from histotune.backbones.spec import ColumnBlock
from histotune.datasets.tileset import TileSet, tile_table
from histotune.embeddings.space import Embeddings, EmbeddingSpace
from histotune.evaluation.material import Material


@dataclass(frozen=True)
class Cohort:
    """How strongly embeddings show the class and the group."""

    n_groups: int = 16
    tiles_per_group: int = 6
    class_effect: float = 0.8
    group_effect: float = 1.0
    seed: int = 0
    magnifications: tuple[str, ...] = ("100X", "400X")
    synthetic: bool = False


def make_material(cohort: Cohort) -> Material:
    rng = np.random.default_rng(cohort.seed)
    direction, dim = rng.normal(size=40), 40
    columns: dict[str, list[object]] = {
        name: [] for name in ("tile_id", "path", "label", "group_id", "source_patient_id", "magnification", "mpp")
    }
    rows = []
    for group in range(cohort.n_groups):
        label = group % 2
        signature = cohort.group_effect * rng.normal(size=dim)
        for magnification in cohort.magnifications:
            for tile in range(cohort.tiles_per_group):
                name = f"g{group:02d}-{magnification}-{tile}"
                values = (name, name, label, f"g{group:02d}", f"g{group:02d}", magnification, 1.0)
                for column, value in zip(columns.values(), values, strict=True):
                    column.append(value)
                center = signature + cohort.class_effect * (label - 0.5) * direction / np.linalg.norm(direction) * 4
                rows.append(center + rng.normal(size=dim))
    n = len(rows)
    columns |= {"mpp_source": ["user"] * n, "mpp_factor": [1.0] * n, "width_px": [448] * n, "height_px": [448] * n}
    tiles = TileSet("toy", tile_table(columns), ("benign", "malignant"), "CC0", "nobody", synthetic=cohort.synthetic)
    order = np.argsort(np.array(columns["tile_id"]))
    space = EmbeddingSpace("space", "toy", "w", "", "v", "fp32", "s", "n")
    matrix = np.array(rows, dtype=np.float32)[order]
    embeddings = Embeddings(matrix, (ColumnBlock("pooled", 0, dim),), tiles.tile_ids, space, 0, "pixels")
    return Material(tiles, embeddings, np.full(n, 2.0), "view", ("pooled",))


@pytest.fixture
def material() -> Callable[..., Material]:
    """Return a factory of materials; keyword arguments are those of Cohort."""
    return lambda **changes: make_material(Cohort(**changes))
