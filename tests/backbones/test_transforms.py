"""What model files say about their input, against transformers' image processors and timm's own transform."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from histotune.backbones.catalog import documented_view
from histotune.backbones.spec import BackboneSpec
from histotune.backbones.transforms import processor_transform, timm_transform
from histotune.images.config import ViewChoice, ViewConfig
from histotune.images.views import view_inputs
from histotune.tools.errors import UserError

MEAN, STD = [0.48, 0.46, 0.41], [0.27, 0.26, 0.28]
SIZES = ((96, 96), (112, 84), (60, 120))
"""Their crops begin at whole pixels; at half ones transformers rounds down, and torchvision to the even pixel."""


def picture(width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(width * height)
    smooth = np.add.outer(np.arange(height), np.arange(width))[..., None] * np.array([1.0, 0.7, 0.4])
    return Image.fromarray((smooth + rng.integers(0, 60, (height, width, 3))).clip(0, 255).astype(np.uint8))


def ours(image: Image.Image, transform: object) -> tuple[np.ndarray, np.ndarray]:
    """Return the normalised input (3, S, S), and what one grey level is in it per channel."""
    spec = BackboneSpec("mine", "timm", "", **asdict(transform))  # type: ignore[call-overload]
    (pixels_SSC,) = view_inputs(np.asarray(image), documented_view(spec))
    std = np.array(spec.std)
    x_SSC = (pixels_SSC / 255.0 - np.array(spec.mean)) / std
    return x_SSC.transpose(2, 0, 1), np.abs(1 / 255.0 / std)


def check(image: Image.Image, transform: object, expected: np.ndarray) -> None:
    found, grey = ours(image, transform)
    assert found.shape == expected.shape
    difference = np.abs(found - expected) / grey[:, None, None]
    assert difference.max() <= 1.001, f"{difference.max():.3g} grey levels"
    assert np.median(difference) < 0.01


PROCESSORS = {
    "BitImageProcessor": [
        {"size": size, "crop_size": {"height": 56, "width": 56}, "do_center_crop": crop, "do_resize": resize}
        for size, crop, resize in product(
            ({"shortest_edge": 56}, {"shortest_edge": 64}, {"shortest_edge": 72}), (True,), (True, False)
        )
    ],
    "ViTImageProcessor": [{"size": {"height": 56, "width": 56}}, {"size": {"height": 70, "width": 70}}],
    "ConvNextImageProcessor": [
        {"size": {"shortest_edge": 56}, "crop_pct": 0.875},
        {"size": {"shortest_edge": 64}, "crop_pct": 0.8},
        {"size": {"shortest_edge": 384}, "crop_pct": 0.9},
    ],
}  # fmt: skip
VALUES = (
    {},
    {"do_normalize": False},
    {"do_rescale": False},
    {"rescale_factor": 1 / 127.5},
    {"do_rescale": False, "do_normalize": False},
)
GRID = [
    (kind, {**sizes, **values, "resample": resample})
    for kind, all_sizes in PROCESSORS.items()
    for sizes in all_sizes
    for values in VALUES
    for resample in (2, 3)
]


def pillow_backend() -> dict[str, object]:
    """Return the argument for processors that resize with Pillow, as their authors' did and histotune does."""
    import transformers

    return {"backend": "pil"} if int(transformers.__version__.split(".")[0]) >= 5 else {"use_fast": False}


@pytest.mark.parametrize(("kind", "fields"), GRID, ids=[f"{kind}-{number}" for number, (kind, _) in enumerate(GRID)])
def test_a_processor_of_transformers_is_honoured(kind: str, fields: dict[str, object], tmp_path: Path) -> None:
    from transformers import AutoImageProcessor

    written = {"image_processor_type": kind, "image_mean": MEAN, "image_std": STD, **fields}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(written), encoding="utf-8")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "dinov2"}), encoding="utf-8")
    processor = AutoImageProcessor.from_pretrained(tmp_path, **pillow_backend())
    for size in SIZES:
        image = picture(*size)
        expected = np.asarray(processor(image, return_tensors="np")["pixel_values"][0], np.float64)
        check(image, processor_transform(written, "mine"), expected)


@pytest.mark.parametrize("crop_pct", [0.8, 0.875, 0.9, 0.95, 1.0])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("crop_mode", ["center", "squash"])
def test_a_transform_of_timm_is_honoured(crop_pct: float, interpolation: str, crop_mode: str) -> None:
    import timm

    facts = {"input_size": (3, 56, 56), "crop_pct": crop_pct, "interpolation": interpolation, "crop_mode": crop_mode}
    facts |= {"mean": tuple(MEAN), "std": tuple(STD)}
    theirs = timm.data.create_transform(**facts, is_training=False)
    for size in SIZES:
        image = picture(*size)
        check(image, timm_transform(facts, "mine"), np.asarray(theirs(image), np.float64))


def test_timm_fills_in_what_a_configuration_leaves_out() -> None:
    import timm

    theirs = timm.data.create_transform(**timm.data.resolve_data_config({"input_size": (3, 56, 56)}))
    image = picture(140, 92)
    check(image, timm_transform({"input_size": (3, 56, 56)}, "mine"), np.asarray(theirs(image), np.float64))


def test_what_can_not_be_honoured_is_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    processor_transform({"size": 224, "resample": 1}, "mine")
    timm_transform({"crop_mode": "border", "interpolation": "lanczos"}, "mine")
    assert "mine documents lanczos interpolation; bicubic is used" in caplog.text
    assert "crop_mode border" in caplog.text
    for processor in ({"size": {"height": 224, "width": 112}}, {"size": 224, "image_mean": [0.5]}):
        with pytest.raises(UserError):
            processor_transform(processor, "mine")


def test_a_view_without_a_resize_of_its_own_keeps_its_key() -> None:
    plain = {"name": "short-side-crop", "size_px": 224, "interpolation": "bicubic"}
    for same in (ViewConfig(), ViewConfig(resize_px=224)):
        assert same.identity() == plain
        assert same.words == "short-side-crop 224 px, bicubic"
    larger = ViewConfig(resize_px=256)
    assert larger.identity() == {**plain, "resize_px": 256}
    assert larger.words == "short-side-crop 224 px of 256 px, bicubic"
    assert ViewConfig(resize_px=0).words == "short-side-crop 224 px of the stored pixels, bicubic"
    for own in (ViewChoice(target_mpp=0.5), ViewChoice(name="letterbox")):
        assert "resize_px" not in own.on(larger).identity()


def test_another_input_size_keeps_the_ratio_of_the_crop() -> None:
    documented = ViewConfig(resize_px=256)
    assert ViewChoice(size_px=448).on(documented).resize_px == 512
    assert ViewChoice(size_px=448, resize_px=448).on(documented).scaled_px == 448
    assert ViewChoice(size_px=112).on(ViewConfig(resize_px=0)).resize_px == 0
