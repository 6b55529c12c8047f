"""Heads on tiny networks in the real formats, and a head of 40 cases on small made-up tiles."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from PIL import Image

import histotune as ht
from histotune.deploy.bundle import Bundle
from tests.conftest import CommandResult, real_data_folder

Trained = Callable[..., Bundle]
TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 56, "patch_size": 14}
MLP = {"sweep__family": "sgd", "sweep__sgd__base__hidden_units": 8, "sweep__sgd__n_trials": 2}
SCALED = {"view__target_mpp": 1.3, "view__allow_moved_label": True}
N_CASES, N_TILES = 4, 3  # per class; tiles per case


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Keep torch from competing for cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tissue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a BreakHis tree of 24 tiles of 8 cases at 100X: real ones where they are there, else rendered ones."""
    folder = tmp_path_factory.mktemp("tissue")
    source = real_data_folder() / "breakhis_sample"
    if not source.is_dir():
        from histotune.datasets.synthetic.cohort import SyntheticConfig
        from histotune.datasets.synthetic.cohort_folder import write_cohort

        config = SyntheticConfig(n_groups=4 * N_CASES, n_tiles_breakhis=16 * N_CASES * N_TILES, n_tiles_pcam=30)
        source = write_cohort(config, folder / "cohort", workers=1).breakhis
    cases: dict[tuple[str, str], list[Path]] = {}
    for path in sorted(source.rglob("*-100-*.png")):
        cases.setdefault((path.name[4], path.parent.parent.name), []).append(path)
    for letter in "BM":
        chosen = [key for key, paths in sorted(cases.items()) if key[0] == letter and len(paths) >= N_TILES][:N_CASES]
        for key in chosen:
            for path in cases[key][:N_TILES]:
                target = folder / "tree" / path.relative_to(source)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target)
    return folder / "tree"


@pytest.fixture(scope="session")
def twenty(tissue: Path) -> list[Path]:
    """Return twenty tiles."""
    return sorted(tissue.rglob("*.png"))[:20]


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cache that the tests share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def trained(tissue: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Return a function that trains a head, once for each set of options, in fp32."""
    kept: dict[str, Bundle] = {}

    def train(backbone: str | Path, **fields: object) -> Bundle:
        key = json.dumps([str(backbone), fields], sort_keys=True, default=str)
        if key not in kept:
            adapter = fields.pop("adapter", None)
            settings = {"sweep.folds": 2, "sweep.penalties": [0.01, 0.1], "embedding.precision": "fp32"}
            settings |= {name.replace("__", "."): value for name, value in fields.items()}  # type: ignore[dict-item]
            view = {name: value for name, value in settings.items() if name.startswith("view.")}
            tiles = ht.read("breakhis", tissue)
            adapted = None if adapter is None else str(adapter)
            x = ht.embed(
                tiles, str(backbone), adapter=adapted, cache=cache, set={"embedding.precision": "fp32", **view}
            )
            out = tmp_path_factory.mktemp("head") / "head"
            kept[key] = ht.sweep(x, train_magnification="100X", out=out, cache=cache, set=settings).head
        return kept[key]

    return train


@pytest.fixture
def predicted(twenty: list[Path], cache: Path) -> Callable[[Bundle], NDArray[np.float64]]:
    """Return a function that gives what ``predict`` says of the twenty tiles."""

    def predict(bundle: Bundle, **more: object) -> NDArray[np.float64]:
        table: pl.DataFrame = ht.predict(bundle, twenty, cache=cache, **more)  # type: ignore[arg-type]
        names = [f"probability_{name}" for name in bundle.head.class_names]
        assert table["path"].to_list() == [str(path) for path in twenty]
        return table.select(names).to_numpy()

    return predict


def save_tiny(folder: Path, name: str, **options: object) -> Path:
    """Save a tiny random network of transformers with a transform that resizes, crops and normalises."""
    import torch
    import transformers

    torch.manual_seed(3)
    config = getattr(transformers, f"{name}Config")(**({} if name == "ConvNextV2" else TINY), **options)
    getattr(transformers, f"{name}Model")(config).save_pretrained(folder)
    processor = {
        "do_center_crop": True, "crop_size": {"height": 56, "width": 56}, "size": {"shortest_edge": 61},
        "image_mean": [0.7, 0.5, 0.7], "image_std": [0.2, 0.25, 0.2], "resample": 3,
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def networks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return tiny networks in the real formats by name."""
    import timm
    import torch
    from safetensors.torch import save_file

    root = tmp_path_factory.mktemp("networks")
    found = {
        "dinov2": save_tiny(root / "dinov2", "Dinov2", use_swiglu_ffn=True),
        "registers": save_tiny(root / "registers", "Dinov2WithRegisters", num_register_tokens=4),
        "vit": save_tiny(root / "vit", "ViT", intermediate_size=64),
        "convnext": save_tiny(root / "convnext", "ConvNextV2", hidden_sizes=[8, 8, 16, 32], depths=[1, 1, 1, 1]),
    }
    arguments = {"img_size": 64, "embed_dim": 24, "depth": 2, "num_heads": 2, "reg_tokens": 2}
    torch.manual_seed(5)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, **arguments)
    (root / "timm").mkdir()
    save_file(model.state_dict(), root / "timm" / "model.safetensors")
    facts = {"input_size": [3, 64, 64], "mean": [0.7, 0.6, 0.7], "std": [0.2, 0.3, 0.2], "crop_pct": 0.9}
    config = {"architecture": "vit_tiny_patch16_224", "model_args": arguments, "pretrained_cfg": facts}
    (root / "timm" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    found["timm"] = root / "timm"
    return {"lite0": "lite0", **{name: str(path) for name, path in found.items()}}


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


def head_of_cases(folder: Path) -> Bundle:
    """Return a head that 40 cases trained on the colour histogram, saved in ``head`` below a folder."""
    tiles = ht.read("tiles", write_cases(folder / "train", 40, 0))
    x = ht.embed(tiles, "colour-histogram", cache=folder / "cache")
    fields = {"sweep.folds": 3, "sweep.penalties": [0.1, 1]}
    return ht.sweep(x, out=folder / "head", cache=folder / "cache", set=fields).head
