"""What embedding costs beyond the network, on PatchCamelyon: the whole pass against the bare forward."""

from __future__ import annotations

import shutil
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.harness import (
    BOUND_REPEATS,
    Arm,
    Claim,
    Part,
    Result,
    alternate,
    cores,
    measured,
    missing_hardware,
    not_measured,
)

if TYPE_CHECKING:
    import torch

    from histotune.backbones.network import Network
    from histotune.backbones.spec import BackboneSpec
    from histotune.datasets.tileset import TileSet
    from histotune.embeddings.space import Embeddings

N_CORES, N_TILES, BATCH, BLOCK = 2, 192, 32, 1_000
BACKBONE = "random/timm/vit_small_patch16_224"
CLAIM = Claim(
    "engine_pcam",
    "embedding patches of PatchCamelyon's HDF5 files with ViT-S/16 in fp32, images per second over the bare forward's,"
    " on 2 cores",
    "x",
    0.93,
    "at least",
    f"{N_TILES} patches of 96 x 96 px, hashed, read, resized to 224 px by Pillow, embedded, written, verified and read"
    " back into an empty cache, without loading the network, which is timed beside it and subtracted (a long pass pays"
    f" it once); against the network called on normalised float32 tensors in memory, batches of {BATCH}, torch's 2"
    " threads, nothing else running; random weights; in turns, median and 95 % bound of 7 rounds after 1 warm-up.",
    by_bound=True,
)
# N images, S side, C channels


@dataclass(frozen=True)
class Pass:
    """How a cold pass is run.

    Attributes:
        spec: The backbone.
        cache: Emptied before every pass.
        size_px: Side of the network's input; 0 for the documented one.
        storage: How rows are kept.
        precision: Of the matrix products.
    """

    spec: BackboneSpec
    cache: Path
    size_px: int = 0
    storage: str = "fp32"
    precision: str = "fp32"


def measure() -> tuple[Result, ...]:
    """Time the pass, loading the network, and the bare forward in turns."""
    from histotune.backbones.network import build_network
    from histotune.datasets.config import DatasetConfig
    from histotune.datasets.read import read_dataset

    lacking = missing_hardware(n_cpus=N_CORES)
    if lacking:
        return (not_measured(CLAIM, lacking),)
    with tempfile.TemporaryDirectory(prefix="histotune-engine-") as name, cores(N_CORES):
        folder = Path(name)
        write_patches(folder / "data", N_TILES)
        tiles = read_dataset(DatasetConfig(name="patch_camelyon", path=folder / "data"))
        spec, cache = found_backbone(BACKBONE), folder / "cache"
        network, batches = build_network(spec), float_batches(N_TILES, spec.size_px)
        seconds = alternate(
            [
                Arm("engine", lambda: cold(tiles, Pass(spec, cache)), prepare=lambda: _empty(cache)),
                Arm("load", lambda: load(spec)),
                Arm("bare", lambda: forward(network, batches)),
            ],
            repeats=BOUND_REPEATS,
        )
    engine = [whole - loading for whole, loading in zip(seconds["engine"], seconds["load"], strict=True)]
    shares = [bare / ours for bare, ours in zip(seconds["bare"], engine, strict=True)]
    parts = [Part("engine, images/s", N_TILES / statistics.median(engine)),
             Part("bare forward, images/s", N_TILES / statistics.median(seconds["bare"])),
             Part("loading the network, s", statistics.median(seconds["load"]))]  # fmt: skip
    return (measured(CLAIM, shares, parts, N_CORES),)


def write_patches(folder: Path, n_rows: int) -> None:
    """Write x, y and meta as PatchCamelyon's unpacked files hold them: uint8, uncompressed; no two patches are equal.

    Args:
        folder: Takes the three files of the part ``test``.
        n_rows: Patches.
    """
    import h5py

    folder.mkdir(parents=True)
    rng = np.random.default_rng(n_rows)
    stem = "camelyonpatch_level_2_split_test"
    grain_SSC = rng.integers(0, 30, (96, 96, 3), dtype=np.uint8)
    with h5py.File(folder / f"{stem}_x.h5", "w") as file:
        x = file.create_dataset("x", (n_rows, 96, 96, 3), np.uint8)
        for start in range(0, n_rows, BLOCK):
            coarse_NTTC = rng.integers(60, 220, (min(BLOCK, n_rows - start), 16, 16, 3), dtype=np.uint8)
            x[start : start + BLOCK] = coarse_NTTC.repeat(6, axis=1).repeat(6, axis=2) + grain_SSC
    labels = (np.arange(n_rows) % 2).astype(np.uint8)
    with h5py.File(folder / f"{stem}_y.h5", "w") as file:
        file["y"] = labels.reshape(-1, 1, 1, 1)
    lines = ["coord_y,coord_x,tumor_patch,center_tumor_patch,wsi"]
    lines += [f"0,0,True,{bool(label)},camelyon16_test_{row % 48:03d}" for row, label in enumerate(labels.tolist())]
    (folder / f"{stem}_meta.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def found_backbone(name: str) -> BackboneSpec:
    """Return a backbone's spec."""
    from histotune.backbones.catalog import find_backbone
    from histotune.backbones.entries import BackboneConfig

    return find_backbone(BackboneConfig(name=name))


def cold(tiles: TileSet, how: Pass) -> Embeddings:
    """Embed every tile into an empty cache.

    Args:
        tiles: What is embedded; no two of equal content.
        how: Backbone, cache, precision.

    Returns:
        The embeddings.

    Raises:
        RuntimeError: Some rows were there already.
    """
    from histotune.backbones.catalog import documented_view
    from histotune.embeddings.embed import embed
    from histotune.embeddings.space import EmbeddingConfig, EmbedRequest
    from histotune.images.config import LoaderConfig

    view = documented_view(how.spec)
    view = view.model_copy(update={"size_px": how.size_px or view.size_px})
    settings = {"threads": N_CORES, "batch_size": BATCH, "precision": how.precision, "storage": how.storage}
    config = EmbeddingConfig.model_validate({"device": "cpu", **settings})
    embeddings = embed(tiles, EmbedRequest(how.spec, view, config, LoaderConfig(workers=N_CORES), how.cache))
    if embeddings.n_computed != len(tiles):
        raise RuntimeError("the pass was not cold")
    return embeddings


def load(spec: BackboneSpec) -> None:
    """Load a backbone as a pass does."""
    from histotune.backbones.engine import load_backbone
    from histotune.tools.devices import find_device

    load_backbone(spec, find_device("cpu"), "fp32")


def float_batches(n_images: int, size_px: int) -> list[torch.Tensor]:
    """Return normalised noise, float32 (32, 3, S, S) per batch."""
    import torch

    noise = torch.Generator().manual_seed(0)
    sizes = [min(BATCH, n_images - start) for start in range(0, n_images, BATCH)]
    return [torch.randn(size, 3, size_px, size_px, generator=noise) for size in sizes]


def forward(network: Network, batches: list[torch.Tensor]) -> None:
    """Call a network on batches in memory, on torch's threads.

    Args:
        network: In evaluation mode.
        batches: Normalised pixels.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(N_CORES)
    with torch.inference_mode():
        for x_BCSS in batches:
            network.outputs(x_BCSS)
    torch.set_num_threads(before)


def _empty(cache: Path) -> None:
    shutil.rmtree(cache, ignore_errors=True)
