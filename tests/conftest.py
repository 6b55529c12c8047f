"""Tiny data sets in the real layouts, and the command line in this process."""

from __future__ import annotations

import os
import sys

if "PYTEST_XDIST_WORKER" in os.environ:  # one worker per core already: more threads would only wait for each other
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

settings.register_profile("untimed", deadline=None)  # how long an example takes is not what a test asserts
settings.load_profile("untimed")

BENIGN, MALIGNANT = ("B", "benign", "A", "adenosis"), ("M", "malignant", "DC", "ductal_carcinoma")


@pytest.fixture(autouse=True)
def level_of_messages() -> Iterator[None]:
    """Forget after each test from which level on a command showed messages: other tests read them, too."""
    yield
    logging.getLogger("histotune").setLevel(logging.NOTSET)


@dataclass(frozen=True)
class CommandResult:
    """What a command left behind."""

    code: int
    out: str
    err: str


@pytest.fixture
def histotune(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., CommandResult]:
    """Return a function that runs the command line in this process, with folders of its own."""
    from histotune.cli.main import main

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg-cache"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg-state"))

    def command(*arguments: object) -> CommandResult:
        monkeypatch.setattr(sys, "argv", ["histotune", *map(str, arguments)])
        capfd.readouterr()
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
        captured = capfd.readouterr()
        return CommandResult(code, captured.out, captured.err)

    return command


def write_breakhis(
    folder: Path, n_per_class: int = 6, magnifications: tuple[int, ...] = (100, 400), n_tiles: int = 3
) -> Path:
    """Write a BreakHis tree of small noise images; malignant ones are a little darker."""
    rng = np.random.default_rng(0)
    for letter, name, code, kind in (BENIGN, MALIGNANT):
        for case in range(n_per_class):
            slide = f"{1000 + case + (500 if letter == 'M' else 0)}"
            for magnification in magnifications:
                place = (
                    folder / "BreaKHis_v1/histology_slides/breast" / name / "SOB" / kind
                    / f"SOB_{letter}_{code}_14-{slide}" / f"{magnification}X"
                )  # fmt: skip
                place.mkdir(parents=True)
                for tile in range(n_tiles):
                    level = 150 - (25 if letter == "M" else 0) + rng.integers(-15, 15)
                    pixels = rng.normal(level, 20, (46, 70, 3)).clip(0, 255).astype(np.uint8)
                    file = f"SOB_{letter}_{code}-14-{slide}-{magnification}-{tile + 1:03d}.png"
                    Image.fromarray(pixels).save(place / file)
    return folder


def write_pcam(folder: Path, n_per_part: int = 40, n_slides: int = 10) -> Path:
    """Write PatchCamelyon HDF5 files with meta.csv; tumour patches are darker in the centre."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    for part in ("train", "valid", "test"):
        y = np.arange(n_per_part) % 2
        x = rng.normal(150, 20, (n_per_part, 96, 96, 3))
        x[y == 1, 32:64, 32:64] -= 60
        stem = f"camelyonpatch_level_2_split_{part}"
        with h5py.File(folder / f"{stem}_x.h5", "w") as file:
            file["x"] = x.clip(0, 255).astype(np.uint8)
        with h5py.File(folder / f"{stem}_y.h5", "w") as file:
            file["y"] = y.astype(np.uint8).reshape(-1, 1, 1, 1)
        lines = ["coord_y,coord_x,tumor_patch,center_tumor_patch,wsi"]
        lines += [f"0,0,{bool(label)},{bool(label)},{part}_{row % n_slides}" for row, label in enumerate(y[::1])]
        (folder / f"{stem}_meta.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def breakhis(tmp_path: Path) -> Path:
    """Return a small BreakHis tree: 12 cases, 2 magnifications, 72 images."""
    return write_breakhis(tmp_path / "breakhis")


@pytest.fixture
def pcam(tmp_path: Path) -> Path:
    """Return small PatchCamelyon files: 40 patches of 10 slides in each part."""
    return write_pcam(tmp_path / "pcam")


def real_data_folder() -> Path:
    """Return where real sample images lie, if they are there."""
    default = Path(__file__).parents[2] / "shared" / "data"
    return Path(os.environ.get("HISTOTUNE_REAL_DATA", default))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder of real sample images, or skip with the reason."""
    folder = real_data_folder()
    if not (folder / "breakhis_sample").is_dir():
        pytest.skip(f"no real sample images in {folder} (set HISTOTUNE_REAL_DATA)")
    return folder
