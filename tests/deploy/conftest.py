"""A head of 40 cases, trained on small made-up tiles, and more tiles like them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import CommandResult


def write_cases(folder: Path, n_cases: int, seed: int, shift: float = 0.0, n_tiles: int = 4) -> Path:
    """Write tiles of cases with a table of them; malignant ones are darker, cases differ."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    lines = ["path,label,group,slide,mpp"]
    for case in range(n_cases):
        level = 150 - 25 * (case % 2) + rng.normal(0, 10) + shift
        for tile in range(n_tiles):
            name = f"c{seed}_{case:03d}_{tile}.png"
            pixels = rng.normal(level, 30, (24, 24, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name)
            lines.append(f"{name},{('benign', 'malignant')[case % 2]},c{seed}-{case},s{seed}-{case}-{tile % 2},0.5")
    (folder / "tiles.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "tiles.csv"


def train(histotune: Callable[..., CommandResult], table: Path, out: Path, *more: str) -> Path:
    """Train a head on the colour histogram."""
    options = ("--backbone", "colour-histogram", "--set", "sweep.folds=3", "--set", "sweep.penalties=[0.1,1]", *more)
    result = histotune("sweep", "tiles", "--data", table, "--out", out, *options)
    assert result.code == 0, result.err
    return out


@pytest.fixture
def cases_head(histotune: Callable[..., CommandResult], tmp_path: Path) -> Path:
    """Return the folder of a head that 40 cases trained."""
    return train(histotune, write_cases(tmp_path / "train", 40, 0), tmp_path / "head")
