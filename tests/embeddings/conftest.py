"""Small tile sets on disk and requests for them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from histotune.backbones.catalog import colour_histogram
from histotune.backbones.spec import BackboneSpec
from histotune.datasets.tileset import TileSet, tile_table
from histotune.embeddings.space import EmbeddingConfig, EmbedRequest
from histotune.images.config import LoaderConfig, ViewConfig

OLD_NS = 1_000_000_000_000_000_000  # 2001: settled, so that content hashes are remembered


def write_tiles(folder: Path, n: int, seed: int = 0) -> TileSet:
    """Write noise tiles of 32 x 40 px and return their tile set."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    paths = []
    for number in range(n):
        path = folder / f"{seed}-{number:03d}.png"
        Image.fromarray(rng.integers(0, 256, (32, 40, 3), dtype=np.uint8)).save(path)
        os.utime(path, ns=(OLD_NS, OLD_NS))
        paths.append(path)
    return tile_set(paths)


def tile_set(paths: list[Path]) -> TileSet:
    """Return a tile set of image files, tile ids by file name."""
    table = tile_table({
        "tile_id": [path.name for path in paths], "path": [str(path) for path in paths],
        "label": [number % 2 for number in range(len(paths))],
    })  # fmt: skip
    return TileSet("noise", table, ("a", "b"), "", "")


@pytest.fixture
def request_for(tmp_path: Path) -> Callable[..., EmbedRequest]:
    """Return a function that builds a request: colour histogram at 14 px on one CPU thread, small shards."""

    def build(
        spec: BackboneSpec | None = None, cache: Path = tmp_path / "cache", size_px: int = 14, **embedding: object
    ) -> EmbedRequest:
        settings = {"device": "cpu", "precision": "fp32", "batch_size": 2, "shard_tiles": 4, "threads": 1, **embedding}
        view = ViewConfig(size_px=size_px)
        config = EmbeddingConfig(**settings)
        return EmbedRequest(spec or colour_histogram(), view, config, LoaderConfig(workers=2), cache)

    return build
