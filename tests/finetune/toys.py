"""Small trainings: networks of a few layers on numbers, and tiny backbones on tiles of a few pixels."""

# N tiles, D columns, K classes

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from histotune.backbones.network import Network, Outputs
from histotune.backbones.spec import BackboneSpec
from histotune.datasets.tileset import TileSet, tile_table
from histotune.embeddings.embed import embed
from histotune.embeddings.space import EmbeddingConfig, Embeddings, EmbedRequest
from histotune.finetune.config import FinetuneConfig, LoopConfig
from histotune.finetune.loop import TrainingTask
from histotune.finetune.tuned_model import LinearHead, TunedModel
from histotune.finetune.workbench import TunedTiles, TuningBench
from histotune.heads.head import Head
from histotune.images.config import LoaderConfig, ViewConfig

Float = NDArray[np.float64]
Int = NDArray[np.int64]

OLD_NS = 1_000_000_000_000_000_000  # 2001: settled, so that content hashes are remembered
WIDTH = 5


@dataclass
class Numbers:
    """Random columns as a network's input, a little other in every view; ``on_batch`` is called before each batch."""

    x_ND: Float
    on_batch: Callable[[int], None] | None = None
    n_batches: int = 0

    def tensor(self, rows: Int, view: int) -> torch.Tensor:
        if self.on_batch is not None:
            self.on_batch(self.n_batches)
        self.n_batches += 1
        return torch.from_numpy(self.x_ND[rows] + 0.1 * view)


def read(module: torch.nn.Module, x: torch.Tensor) -> Outputs:
    return {"pooled": module(x)}


def perceptron(dropout: float = 0.0) -> Network:
    """Return three layers in float64, the same every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        layers = [torch.nn.Linear(WIDTH, 8), torch.nn.GELU(), torch.nn.Dropout(dropout), torch.nn.LayerNorm(8)]
        module = torch.nn.Sequential(*layers, torch.nn.Linear(8, 4)).double()
    return Network(module, partial(read, module), convolutional=False)


def linear_head(n_columns: int, n_classes: int, blocks: tuple[str, ...] = ("pooled",)) -> LinearHead:
    """Return a head of moderate weights; row 0 is zero for two classes."""
    rng = np.random.default_rng(5)
    weight_KD, bias_K = rng.normal(0, 0.3, (n_classes, n_columns)), rng.normal(0, 0.1, n_classes)
    if n_classes == 2:
        weight_KD[0], bias_K[0] = 0.0, 0.0
    return LinearHead(weight_KD, bias_K, rng.normal(0, 0.1, n_columns), rng.uniform(0.5, 1.5, n_columns), blocks)


def toy_task(n_train: int = 45, n_tuning: int = 11, n_classes: int = 3, dropout: float = 0.0) -> TrainingTask:
    """Return a training of the perceptron; labels follow from the first columns, so that there is much to learn."""
    rng = np.random.default_rng(0)
    n = n_train + n_tuning
    x_ND = rng.normal(size=(n, WIDTH))
    labels_N = np.argmax(x_ND[:, :n_classes], axis=1)
    model = TunedModel(perceptron(dropout), linear_head(4, n_classes), torch.float64)
    groups = tuple(f"g{number % 7}" for number in range(n))
    rows = np.arange(n)
    return TrainingTask(model, {}, Numbers(x_ND), labels_N, groups, rows[:n_train], rows[n_train:], n_views=2)


def toy_loop(**changed: object) -> LoopConfig:
    return LoopConfig.model_validate({
        "precision": "fp64", "lr": 0.02, "head_lr": 0.02, "epochs": 3, "batch_size": 8, "save_minutes": 1e-9, **changed
    })  # fmt: skip


def weights_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: one.detach().clone() for name, one in model.named_parameters()}


# ---- Tiles on disk and tiny backbones ----


def write_tiles(folder: Path, n: int = 12, size_px: int = 40, n_classes: int = 2) -> TileSet:
    """Write noise tiles, darker by class, two tiles per group, and return their tile set."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    paths, labels = [], [number // 2 % n_classes for number in range(n)]
    for number, label in enumerate(labels):
        path = folder / f"{number:03d}.png"
        pixels_HWC = rng.normal(170 - 40 * label, 40, (size_px, size_px + 8, 3)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels_HWC).save(path)
        os.utime(path, ns=(OLD_NS, OLD_NS))
        paths.append(path)
    table = tile_table({
        "tile_id": [path.name for path in paths], "path": [str(path) for path in paths], "label": labels,
        "group_id": [f"case {number // 2}" for number in range(n)],
    })  # fmt: skip
    return TileSet("noise", table, tuple("abcd"[:n_classes]), "", "")


def tuned_tiles(spec: BackboneSpec, folder: Path, n: int = 12, n_classes: int = 2) -> TunedTiles:
    """Return tiles on disk with the embeddings of a backbone in fp32."""
    tiles = write_tiles(folder / "tiles", n, n_classes=n_classes)
    view, loader, cache = ViewConfig(size_px=spec.size_px), LoaderConfig(workers=1), folder / "cache"
    config = EmbeddingConfig(device="cpu", precision="fp32", batch_size=8, threads=1)
    embeddings = embed(tiles, EmbedRequest(spec, view, config, loader, cache))
    return TunedTiles(tiles, embeddings, spec, view, loader, cache)


def probe_of(embeddings: Embeddings, n_classes: int = 2) -> Head:
    """Return a head on all columns whose logits are of the order of 1."""
    x_ND = embeddings.matrix_ND.astype(np.float64)
    pooling = tuple(block.name for block in embeddings.blocks)
    mean_D, std_D = x_ND.mean(0), x_ND.std(0)
    rng = np.random.default_rng(1)
    weight_KD = rng.normal(0, 1, (n_classes, x_ND.shape[1])) / np.maximum(std_D, 1e-3 * std_D.max())
    weight_KD /= np.abs((x_ND - mean_D) @ weight_KD.T).max()
    bias_K = -weight_KD @ mean_D + rng.normal(0, 0.2, n_classes)
    if n_classes == 2:
        weight_KD[0], bias_K[0] = 0.0, 0.0
    space = embeddings.space
    head = Head(weight_KD, bias_K, pooling, tuple(embeddings.columns(pooling).tolist()), tuple("abcd"[:n_classes]),
                space.backbone, space.key, space.compatibility_key, 0.1)  # fmt: skip
    return replace(head, train_mean_D=mean_D, train_std_D=std_D)


def bench_of(of: TunedTiles, config: dict[str, object]) -> TuningBench:
    return TuningBench(of, FinetuneConfig.model_validate(config))


def task_of(bench: TuningBench, probe: Head, n_tuning: int = 4) -> TrainingTask:
    """Return the training of a workbench's model; the last tiles are for tuning."""
    start = bench.start(probe)
    tiles = bench.of.tiles
    rows = np.arange(len(tiles))
    train, tuning = rows[:-n_tuning], rows[-n_tuning:]
    bench.prepare(start.inputs, train, tuning)
    groups = tuple(tiles.table["group_id"].to_list())
    return TrainingTask(
        start.model, start.rate_of, start.inputs, tiles.labels_N, groups, train, tuning, bench.n_views
    )  # fmt: skip
