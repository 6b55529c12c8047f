from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image

from histotune.datasets.tileset import TileSet, tile_table
from histotune.evaluation.findings import Scored
from histotune.images.config import LoaderConfig
from histotune.report.pictures import WIDTH_PX, largest_errors
from histotune.statistics.predictions import PREDICTION_COLUMNS, Predictions

CLASSES = ("benign", "malignant")
# tile, group, true class, probability of class 1
TILES = (("t0", "g0", 0, 0.9), ("t1", "g0", 0, 0.8), ("t2", "g1", 1, 0.3), ("t3", "g2", 1, 0.9), ("t4", "g3", 0, 0.95))


def made_predictions() -> Predictions:
    probability_NK = np.array([[1 - p, p] for _, _, _, p in TILES])
    columns = {
        "tile_id": [tile for tile, *_ in TILES],
        "group_id": [group for _, group, *_ in TILES],
        "y_true": pl.Series([label for _, _, label, _ in TILES], dtype=pl.Int32),
        "probability": pl.Series(probability_NK, dtype=pl.Array(pl.Float64, 2)),
        "logit": pl.Series(np.log(probability_NK), dtype=pl.Array(pl.Float64, 2)),
    }
    rest = {name: ["breakhis 100X"] * len(TILES) for name in PREDICTION_COLUMNS if name not in columns}
    return Predictions(pl.DataFrame({**columns, **rest}).select(PREDICTION_COLUMNS), CLASSES)


def made_tiles(folder: Path) -> TileSet:
    paths = []
    for index, (tile, *_) in enumerate(TILES):
        paths.append(str(folder / f"{tile}.png"))
        Image.new("RGB", (360, 240), (40 * index, 0, 0)).save(paths[-1])
    table = tile_table({"tile_id": [tile for tile, *_ in TILES], "path": paths})
    return TileSet("breakhis", table, CLASSES, "CC BY 4.0", "somebody")


def test_the_most_confident_mistakes_come_first_one_per_group(tmp_path: Path) -> None:
    scored = [
        Scored("in-domain", "probe", made_predictions()),
        Scored("in-domain", "majority class", made_predictions()),
    ]
    found = largest_errors(scored, [made_tiles(tmp_path)], LoaderConfig())
    assert [(item.tile_id, item.y_true, item.y_predicted) for item in found] == [
        ("t4", "benign", "malignant"),
        ("t0", "benign", "malignant"),
        ("t2", "malignant", "benign"),
    ]
    np.testing.assert_allclose([item.probability for item in found], [0.95, 0.9, 0.7])


def test_a_thumbnail_is_a_small_jpeg_of_its_own_tile(tmp_path: Path) -> None:
    scored = [Scored("in-domain", "probe", made_predictions())]
    first = largest_errors(scored, [made_tiles(tmp_path)], LoaderConfig(), n_per_finding=1)[0]
    image = Image.open(io.BytesIO(first.jpeg))
    assert (image.format, image.size) == ("JPEG", (WIDTH_PX, WIDTH_PX * 240 // 360))
    assert abs(image.getpixel((5, 5))[0] - 160) < 4
