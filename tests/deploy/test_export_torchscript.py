"""WSInfer runs an exported head on a slide, and says of every tile what ``predict`` says of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import warnings
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import tifffile
import torch
from numpy.typing import NDArray
from PIL import Image

import histotune as ht
from histotune.deploy.bundle import Bundle
from histotune.deploy.export_job import ExportConfig
from histotune.deploy.export_torchscript import tile_of
from histotune.images.config import ViewConfig
from histotune.tools.errors import UserError
from tests.deploy.conftest import MLP, Trained

SIDE, MPP, ACROSS = 224, 0.49, 5
WSINFER = os.environ.get("HISTOTUNE_WSINFER") or shutil.which("wsinfer")
FIELDS = {
    "spec_version": str, "architecture": str, "num_classes": int, "patch_size_pixels": int, "spacing_um_px": float,
    "class_names": list, "transform": list,
}  # fmt: skip
"""What wsinfer-zoo's model-config.schema.json requires."""


@pytest.fixture(scope="session")
def squares(twenty: list[Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return the twenty tiles cut to squares, as a slide holds them."""
    folder = tmp_path_factory.mktemp("squares")
    for number, path in enumerate(twenty):
        image = Image.open(path).convert("RGB")
        left, top = (image.width - SIDE) // 2, (image.height - SIDE) // 2
        image.crop((left, top, left + SIDE, top + SIDE)).save(folder / f"{number:02d}.png")
    return sorted(folder.glob("*.png"))


def of_predict(bundle: Bundle, images: list[Path], cache: Path) -> NDArray[np.float64]:
    table = ht.predict(bundle, images, cache=cache, mpp=MPP)
    return table.select([f"probability_{name}" for name in bundle.head.class_names]).to_numpy()


def of_torchscript(folder: Path, images: list[Path]) -> NDArray[np.float64]:
    """Return what WSInfer's steps give: its transform by torchvision, the model, a softmax."""
    import torchvision

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    steps = [getattr(torchvision.transforms, one["name"])(**one.get("arguments", {})) for one in config["transform"]]
    transform = torchvision.transforms.Compose(steps)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        model = torch.jit.load(folder / "torchscript_model.pt", map_location="cpu")
        logits = model(torch.stack([transform(Image.open(path).convert("RGB")) for path in images]))
    return torch.softmax(logits, dim=1).numpy()


def write_slide(images: list[Path], path: Path) -> None:
    """Write tiles side by side as a pyramidal TIFF with a scale."""
    pixels = [np.asarray(Image.open(one)) for one in images]
    rows = [np.concatenate(pixels[start : start + ACROSS], axis=1) for start in range(0, len(pixels), ACROSS)]
    slide = np.concatenate(rows, axis=0)
    options = {
        "tile": (256, 256), "photometric": "rgb", "compression": "deflate", "resolutionunit": "CENTIMETER",
    }  # fmt: skip
    with tifffile.TiffWriter(path) as file:
        for level in range(2):
            per_cm = 1e4 / (MPP * 2**level)
            file.write(
                slide[:: 2**level, :: 2**level], subfiletype=int(level > 0), resolution=(per_cm, per_cm), **options
            )


@pytest.mark.parametrize(("name", "options"), [("lite0", {}), ("dinov2", {}), ("timm", MLP)])
def test_torchscript_says_what_predict_says_and_the_config_has_every_field(
    name: str, options: dict[str, object], networks: dict[str, str], trained: Trained, squares: list[Path],
    cache: Path, tmp_path: Path,
) -> None:  # fmt: skip
    bundle = trained(networks[name], **options)
    done = ht.export(bundle, "wsinfer", out=tmp_path / "out", tile_px=SIDE, mpp=MPP, for_own_use=True)
    assert f"tiles of {SIDE} px at {MPP} um/px" in str(done)
    expected = of_predict(bundle, squares, cache)
    np.testing.assert_allclose(of_torchscript(tmp_path / "out", squares), expected, rtol=0, atol=1e-4)
    config = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    assert {field: type(config[field]) for field in FIELDS} == FIELDS and config.keys() == FIELDS.keys()
    assert config["class_names"] == ["benign", "malignant"] and config["patch_size_pixels"] == SIDE
    assert [one["name"] for one in config["transform"]] == ["Resize", "ToTensor"]


@pytest.mark.slow
@pytest.mark.skipif(not WSINFER, reason="needs the program wsinfer (on the PATH, or named by HISTOTUNE_WSINFER)")
@pytest.mark.parametrize("name", ["lite0", "dinov2"])
def test_wsinfer_runs_it_on_a_slide(
    name: str, networks: dict[str, str], trained: Trained, squares: list[Path], cache: Path, tmp_path: Path
) -> None:
    bundle = trained(networks[name])
    ht.export(bundle, "wsinfer", out=tmp_path / "model", tile_px=SIDE, mpp=MPP, for_own_use=True)
    (tmp_path / "slides").mkdir()
    write_slide(squares, tmp_path / "slides" / "slide.tif")
    registry = tmp_path / "home" / ".wsinfer-zoo" / "wsinfer-zoo-registry.json"
    registry.parent.mkdir(parents=True)
    registry.write_text('{"models": {}}', encoding="utf-8")  # it would be downloaded
    environment = {**os.environ, "HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "WSINFER_FORCE_CPU": "1"}
    environment.pop("PYTHONPATH", None)
    command = [
        WSINFER, "run", "--wsi-dir", tmp_path / "slides", "--results-dir", tmp_path / "results",
        "--config", tmp_path / "model" / "config.json", "--model-path", tmp_path / "model" / "torchscript_model.pt",
        "--batch-size", "8", "--num-workers", "1", "--seg-binary-threshold", "1", "--seg-closing-kernel-size", "30",
        "--seg-min-object-size-um2", "0", "--seg-min-hole-size-um2", "1000000",
    ]  # fmt: skip
    done = subprocess.run([str(one) for one in command], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    table = pl.read_csv(tmp_path / "results" / "model-outputs-csv" / "slide.csv")
    index = (table["miny"] // SIDE * ACROSS + table["minx"] // SIDE).to_numpy()
    assert len(table) >= 15 and set(table["width"]) == {SIDE}, f"{len(table)} of {len(squares)} tiles found"
    expected = of_predict(bundle, squares, cache)[index]
    found = table.select("prob_benign", "prob_malignant").to_numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_without_size_and_scale_it_is_one_message(networks: dict[str, str], trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cut tiles out of a slide") as error:
        ht.export(trained(networks["lite0"]), "wsinfer", out=tmp_path / "out")
    assert "--tile-px" in str(error.value) and not (tmp_path / "out").exists()


def test_a_view_with_a_scale_says_size_and_scale_itself() -> None:
    found = tile_of(ExportConfig("wsinfer"), ViewConfig(size_px=224, target_mpp=0.5), None)
    assert (found.tile_px, found.mpp) == (224, 0.5)
    typed = tile_of(ExportConfig("wsinfer", 96, 0.97), ViewConfig(size_px=224, target_mpp=0.5), None)
    assert (typed.tile_px, typed.mpp) == (96, 0.97)
