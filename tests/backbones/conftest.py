"""Tiny models in the real file formats."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from histotune.tools.devices import ComputeDevice


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Keep torch from competing for cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def cpu() -> ComputeDevice:
    """Return a CPU, whatever this machine has."""
    return ComputeDevice("cpu", "test", "", float("nan"), fast_bf16=False)


@pytest.fixture
def pixels() -> NDArray[np.uint8]:
    """Return three network inputs, (3, 56, 56, 3)."""
    return np.random.default_rng(0).integers(0, 256, (3, 56, 56, 3), dtype=np.uint8)


@pytest.fixture(scope="session")
def dinov2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tiny SwiGLU DINOv2 in Midnight's format: config, safetensors, preprocessor."""
    from transformers import Dinov2Config, Dinov2Model

    return save_tokens(tmp_path_factory.mktemp("dinov2"), Dinov2Model, Dinov2Config, use_swiglu_ffn=True)


@pytest.fixture(scope="session")
def registers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tiny DINOv2 with four register tokens."""
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    folder = tmp_path_factory.mktemp("registers")
    return save_tokens(folder, Dinov2WithRegistersModel, Dinov2WithRegistersConfig, num_register_tokens=4)


def save_tokens(folder: Path, model: type, config: type, **options: object) -> Path:
    """Save a random token model of 32 columns with Midnight's transform at 56 px."""
    import torch

    torch.manual_seed(3)
    settings = {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 56, "patch_size": 14,
    }  # fmt: skip
    model(config(**settings, **options)).save_pretrained(folder)
    processor = {
        "do_center_crop": True, "crop_size": {"height": 56, "width": 56}, "size": {"shortest_edge": 56},
        "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4], "resample": 2,
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def timm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tiny ViT in timm's hub format: architecture, model_args, safetensors."""
    import timm
    import torch
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("timm")
    arguments = {"img_size": 64, "embed_dim": 24, "depth": 2, "num_heads": 2, "reg_tokens": 2}
    torch.manual_seed(5)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=4, **arguments)
    save_file(model.state_dict(), folder / "model.safetensors")
    facts = {"input_size": [3, 64, 64], "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7], "interpolation": "bilinear"}
    config = {
        "architecture": "vit_tiny_patch16_224", "model_args": arguments, "pretrained_cfg": facts,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder
