"""A few groups of tiny tiles and a tiny backbone, for the protocol around training."""

# N tiles

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image

from histotune.datasets.tileset import TileSet, tile_table
from histotune.embeddings.embed import embed
from histotune.embeddings.space import EmbeddingConfig, EmbedRequest
from histotune.finetune.config import FinetuneConfig
from histotune.finetune.tuning import TuningRequest
from histotune.finetune.workbench import TunedTiles, TuningBench
from histotune.heads.config import SweepConfig
from histotune.images.config import LoaderConfig, ViewConfig
from tests.finetune.families import FAMILIES

SPEC = FAMILIES["timm-vit"].spec
OLD_NS = 1_000_000_000_000_000_000  # 2001: settled, so that content hashes are remembered
SWEEP = SweepConfig(penalties=(0.1,), poolings=(("cls", "patch_mean"),), folds=2, honesty="none")
LOOP = {"precision": "fp32", "epochs": 2, "batch_size": 8, "lr": 3e-3, "head_lr": 3e-3}
OFF = {"dihedral": False, "stain": 0.0}


def write_groups(folder: Path, n_groups: int = 24, n_classes: int = 2) -> TileSet:
    """Write two noise tiles per group, a little darker by class."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    paths, labels = [], [number // 2 % n_classes for number in range(2 * n_groups)]
    for number, label in enumerate(labels):
        path = folder / f"{number:03d}.png"
        pixels_HWC = rng.normal(150 - 12 * label, 40, (32, 32, 3)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels_HWC).save(path)
        os.utime(path, ns=(OLD_NS, OLD_NS))
        paths.append(path)
    table = tile_table({
        "tile_id": [path.name for path in paths], "path": [str(path) for path in paths], "label": labels,
        "group_id": [f"case {number // 2:02d}" for number in range(2 * n_groups)],
    })  # fmt: skip
    return TileSet("noise", table, tuple("abcd"[:n_classes]), "", "")


def seen(tiles: TileSet, cache: Path) -> TunedTiles:
    """Return tiles as the tiny backbone sees them."""
    view, loader = ViewConfig(size_px=SPEC.size_px), LoaderConfig(workers=1)
    config = EmbeddingConfig(device="cpu", precision="fp32", batch_size=8, threads=1)
    return TunedTiles(tiles, embed(tiles, EmbedRequest(SPEC, view, config, loader, cache)), SPEC, view, loader, cache)


def bench_of(of: TunedTiles, **changed: object) -> TuningBench:
    """Return a bench of the last block, nothing varied."""
    loop = {**LOOP, **changed.pop("loop", {})}  # type: ignore[dict-item]
    return TuningBench(of, FinetuneConfig.model_validate({"loop": loop, "augment": OFF, **changed}))


def request_of(state: Path | None = None) -> TuningRequest:
    return TuningRequest(SWEEP, state=state)


def all_of(of: TunedTiles) -> np.ndarray:
    return np.ones(len(of.tiles), dtype=bool)


def relabelled(of: TunedTiles, label_by_group: dict[str, int]) -> TunedTiles:
    """Return the same tiles with other labels."""
    labels = [label_by_group[group] for group in of.tiles.table["group_id"]]
    table = of.tiles.table.with_columns(label=pl.Series(labels, dtype=pl.Int32))
    names = tuple("abcd"[: max(labels) + 1])
    return replace(of, tiles=replace(of.tiles, table=table, class_names=names))
