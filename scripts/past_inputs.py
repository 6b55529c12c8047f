"""What a user brings, as small as it can be: tiles in three layouts, a network, an adapter.

``scripts/write_past.py`` runs histotune over these. Nothing here is a format of histotune's own, but for the adapter:
no command writes adapters yet, so it is saved by the function that will.
"""

from __future__ import annotations

import csv
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

BREAKHIS, PCAM, TABLE, PLACES = "data/breakhis", "data/pcam", "data/tiles.csv", "data/places.csv"
BACKBONE, ADAPTER = "backbones/tiny", "adapters/tiny"
FIXED_TIME_S = 1_767_225_600  # 2026-01-01: old enough for a time of change to be trusted, and the same every time
CLASSES = (("B", "benign", "A", "adenosis", 170.0), ("M", "malignant", "DC", "ductal_carcinoma", 155.0))
N_CASES, N_TILES, MAGNIFICATIONS, SITES = 6, 2, (100, 400), ("north", "south")
N_PATCHES = 16
CELL_PX = 8  # tiles are made of flat squares, which pack well
# H cells in height, W cells in width


@dataclass(frozen=True)
class Drawn:
    """One tile of the BreakHis tree.

    Attributes:
        path: Below ``data/breakhis``.
        label: Class name.
        slide: Number of the case.
        site: Where it claims to come from.
        magnification: Such as 100.
        level: Mean grey level.
    """

    path: str
    label: str
    slide: int
    site: str
    magnification: int
    level: float


def write_inputs(root: Path) -> None:
    """Write all inputs.

    Args:
        root: The folder that commands will run in.
    """
    tiles = drawn_tiles()
    write_breakhis(tiles, root / BREAKHIS)
    write_tables(tiles, root)
    write_pcam(root / PCAM)
    for path in sorted((root / "data").rglob("*")):
        if path.is_file():
            os.utime(path, (FIXED_TIME_S, FIXED_TIME_S))
    write_backbone(root / BACKBONE)
    write_adapter(root)


def drawn_tiles() -> tuple[Drawn, ...]:
    """Return the tiles of 12 cases at two magnifications; malignant ones are a little darker."""
    tiles = []
    for letter, label, code, kind, level in CLASSES:
        for case in range(N_CASES):
            slide = 1000 + case + (500 if letter == "M" else 0)
            shade = level + float(np.random.default_rng([1, slide]).normal(0, 10))
            folder = f"BreaKHis_v1/histology_slides/breast/{label}/SOB/{kind}/SOB_{letter}_{code}_14-{slide}"
            for magnification in MAGNIFICATIONS:
                for tile in range(1, N_TILES + 1):
                    name = f"SOB_{letter}_{code}-14-{slide}-{magnification}-{tile:03d}.png"
                    path = f"{folder}/{magnification}X/{name}"
                    tiles.append(Drawn(path, label, slide, SITES[case % 2], magnification, shade))
    return tuple(tiles)


def write_breakhis(tiles: Sequence[Drawn], folder: Path) -> None:
    """Write a BreakHis tree of PNG files.

    Args:
        tiles: What to draw.
        folder: Its root.
    """
    from PIL import Image

    rng = np.random.default_rng(0)
    for tile in tiles:
        path = folder / tile.path
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(flat_squares(rng.normal(tile.level, 25, (6, 9, 3)))).save(path, optimize=True)


def flat_squares(cells_HWC: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return an image of flat squares, uint8 (8 H, 8 W, 3).

    Args:
        cells_HWC: Their colours.
    """
    return cells_HWC.clip(0, 255).astype(np.uint8).repeat(CELL_PX, 0).repeat(CELL_PX, 1)


def write_tables(tiles: Sequence[Drawn], root: Path) -> None:
    """Write the same tiles as a user's own table, with sites, and where they lie on their slides.

    Args:
        tiles: The tiles.
        root: The tables go to ``data`` below it.
    """
    ids = [f"breakhis/{tile.path}" for tile in tiles]
    rows = [
        (one, tile.label, tile.slide, f"slide-{tile.slide}", tile.site, f"{tile.magnification}X")
        for one, tile in zip(ids, tiles, strict=True)
    ]
    _write_csv(root / TABLE, ("path", "label", "group", "slide", "site", "magnification"), rows)
    _write_csv(root / PLACES, ("tile_id", "x", "y"), [(one, 72 * place, 48) for place, one in enumerate(ids)])


def write_pcam(folder: Path) -> None:
    """Write PatchCamelyon's HDF5 files with meta.csv, two patches a slide; tumour patches are dark in the centre.

    Args:
        folder: Where they go.
    """
    import h5py

    folder.mkdir(parents=True)
    rng = np.random.default_rng(1)
    y_N = np.arange(N_PATCHES) % 2
    for part in ("train", "valid", "test"):
        slides = rng.normal(165, 10, (N_PATCHES // 2, 1, 1, 1)).repeat(2, 0)
        cells = rng.normal(slides, 25, (N_PATCHES, 12, 12, 3))
        cells[y_N == 1, 4:8, 4:8] -= 30
        stem = f"camelyonpatch_level_2_split_{part}"
        x = np.stack([flat_squares(one) for one in cells])
        with h5py.File(folder / f"{stem}_x.h5", "w") as file:
            file.create_dataset("x", data=x, chunks=x.shape, compression="gzip", compression_opts=9)
        with h5py.File(folder / f"{stem}_y.h5", "w") as file:
            file["y"] = y_N.astype(np.uint8).reshape(-1, 1, 1, 1)
        rows = [(0, 0, bool(y), bool(y), f"{part}_{row // 2}") for row, y in enumerate(y_N)]
        _write_csv(
            folder / f"{stem}_meta.csv", ("coord_y", "coord_x", "tumor_patch", "center_tumor_patch", "wsi"), rows
        )


def write_backbone(folder: Path) -> None:
    """Save a Dinov2 of Midnight's kind with eight columns, random weights and 28 px inputs.

    Args:
        folder: Where it goes.
    """
    import torch
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(3)
    config = Dinov2Config(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, mlp_ratio=2, image_size=28,
                          patch_size=14, use_swiglu_ffn=True)  # fmt: skip
    Dinov2Model(config).save_pretrained(folder)
    processor = {
        "do_center_crop": True, "crop_size": {"height": 28, "width": 28}, "size": {"shortest_edge": 28},
        "image_mean": [0.6, 0.6, 0.6], "image_std": [0.1, 0.1, 0.1], "resample": 3,
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")


def write_adapter(root: Path) -> None:
    """Save a small LoRA adapter of the tiny network, as histotune saves one.

    Args:
        root: Holds the network.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import Dinov2Model

    from histotune.backbones.adapters import save_adapter
    from histotune.backbones.catalog import find_backbone
    from histotune.backbones.entries import BackboneConfig

    torch.manual_seed(4)
    network = Dinov2Model.from_pretrained(root / BACKBONE)
    linears = {name.split(".")[-1] for name, part in network.named_modules() if isinstance(part, torch.nn.Linear)}
    config = LoraConfig(r=1, lora_alpha=4, target_modules=sorted(linears), init_lora_weights=False)
    spec = find_backbone(BackboneConfig(name=BACKBONE))
    save_adapter(get_peft_model(network, config), root / ADAPTER, spec)


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerows([header, *rows])
