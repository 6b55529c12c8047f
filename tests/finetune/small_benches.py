"""A workbench over a few noise tiles and a tiny backbone, for sizes and times."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image

from histotune.backbones.spec import BackboneSpec
from histotune.datasets.tileset import TileSet, tile_table
from histotune.embeddings.embed import embed
from histotune.embeddings.space import EmbeddingConfig, EmbedRequest
from histotune.finetune.config import FinetuneConfig
from histotune.finetune.workbench import TunedTiles, TuningBench
from histotune.images.config import LoaderConfig, ViewConfig

OLD_NS = 1_000_000_000_000_000_000  # 2001: settled, so that content hashes are remembered
DEPTH, DIM, SIDE_PX = 6, 32, 32
VIT = BackboneSpec(
    "small", "timm", "vit_tiny_patch16_224", weights="random", size_px=SIDE_PX, default_pooling=("cls", "patch_mean"),
    model_args=(("img_size", SIDE_PX), ("patch_size", 4), ("embed_dim", DIM), ("depth", DEPTH), ("num_heads", 2)),
)  # fmt: skip


def noise_tiles(folder: Path, n: int = 24) -> TileSet:
    """Write noise tiles, darker by class, two tiles per group."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    paths, labels = [], [number // 2 % 2 for number in range(n)]
    for number, label in enumerate(labels):
        path = folder / f"{number:03d}.png"
        pixels_HWC = rng.normal(170 - 40 * label, 40, (40, 48, 3)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels_HWC).save(path)
        os.utime(path, ns=(OLD_NS, OLD_NS))
        paths.append(path)
    table = tile_table({
        "tile_id": [path.name for path in paths], "path": [str(path) for path in paths], "label": labels,
        "group_id": [f"case {number // 2}" for number in range(n)],
    })  # fmt: skip
    return TileSet("noise", table, ("a", "b"), "", "")


def small_tiles(folder: Path, spec: BackboneSpec = VIT, n: int = 24) -> TunedTiles:
    """Return noise tiles with their embeddings."""
    tiles = noise_tiles(folder / "tiles", n)
    view, loader, cache = ViewConfig(size_px=spec.size_px), LoaderConfig(workers=1), folder / "cache"
    config = EmbeddingConfig(device="cpu", precision="fp32", batch_size=8, threads=1)
    embeddings = embed(tiles, EmbedRequest(spec, view, config, loader, cache))
    return TunedTiles(tiles, embeddings, spec, view, loader, cache)


def small_bench(of: TunedTiles, **changed: object) -> TuningBench:
    """Return a workbench; settings as ``loop__batch_size=8``."""
    data: dict[str, object] = {}
    for name, value in changed.items():
        part, _, own = name.partition("__")
        if own:
            section = data.setdefault(part, {})
            assert isinstance(section, dict)
            section[own] = value
        else:
            data[part] = value
    return TuningBench(of, FinetuneConfig.model_validate(data))
