"""What a model's files say about its input, as a view and a normalisation: resize, crop, rescale, normalise."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any, Literal

from histotune.tools.errors import UserError

LOG = logging.getLogger(__name__)
Json = dict[str, Any]
Rgb = tuple[float, float, float]
ViewName = Literal["short-side-crop", "square"]
Filter = Literal["bilinear", "bicubic"]

FILTERS: dict[object, Filter] = {2: "bilinear", 3: "bicubic", "bilinear": "bilinear", "bicubic": "bicubic"}
FILTER_NAMES: dict[object, str] = {0: "nearest", 1: "lanczos", 4: "box", 5: "hamming"}  # of Pillow's Resampling
CONVNEXT_MAX_CROP_PX = 384  # ConvNextImageProcessor crops below this side and resizes both sides from there on
TIMM_CROP_PCT = 0.875  # what timm takes where a model's configuration names none
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ROUNDING = 1e-6


@dataclass(frozen=True)
class DocumentedTransform:
    """A documented transform; the fields are those of :class:`~histotune.backbones.spec.BackboneSpec`."""

    size_px: int
    view_name: ViewName
    resize_px: int | None
    mean: Rgb
    std: Rgb
    interpolation: Filter


def processor_transform(processor: Json, source: str) -> DocumentedTransform:
    """Read ``preprocessor_config.json`` of transformers as its image processors apply it.

    They resize, crop the centre, rescale by a factor (1/255) and normalise, each unless its ``do_`` field says no.

    Args:
        processor: What the file holds.
        source: Whose file it is, for messages.

    Returns:
        The same as one view and one normalisation.

    Raises:
        UserError: A normalisation that is not one value per RGB channel, or an input that is no square.

    Example:
        >>> sizes = {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}}
        >>> found = processor_transform(sizes, "mine")
        >>> found.resize_px, found.size_px
        (256, 224)
    """
    sides = _sides(processor.get("size", 224), source)
    crop = _sides(processor["crop_size"], source) if _crops(processor) else None
    convnext = "ConvNext" in str(processor.get("image_processor_type", processor.get("feature_extractor_type", "")))
    if convnext and crop is None:
        size_px, name, resize_px = _convnext(sides.px, processor)
    else:
        size_px, name, resize_px = (crop or sides).px, sides.view_name, sides.px
    if not processor.get("do_resize", True):
        name, resize_px = "short-side-crop", 0
        if crop is None:
            LOG.warning("%s takes images as they are stored; the centre of %d px is cropped", source, size_px)
    mean, std = _normalisation(processor, source)
    resample = processor.get("resample", 3 if "size" in processor else 2)
    return DocumentedTransform(
        size_px, name, None if resize_px == size_px else resize_px, mean, std, _filter(resample, source)
    )


def timm_transform(facts: Json, source: str) -> DocumentedTransform:
    """Read timm's ``pretrained_cfg`` as timm's evaluation transform applies it.

    The short side becomes ``floor(size / crop_pct)``, or both sides where ``crop_mode`` is ``squash``; then the centre
    is cropped (``timm.data.transforms_factory.transforms_imagenet_eval``).
    """
    size_px = int((facts.get("input_size") or (3, 224, 224))[-1])
    crop_pct, mode = facts.get("crop_pct") or TIMM_CROP_PCT, facts.get("crop_mode") or "center"
    if mode == "border":
        LOG.warning("%s documents a border around its images (crop_mode border); the centre is cropped instead", source)
    resize_px = math.floor(size_px / crop_pct + ROUNDING)
    mean = _triple(facts.get("mean") or IMAGENET_MEAN, source)
    std = _triple(facts.get("std") or IMAGENET_STD, source)
    return DocumentedTransform(
        size_px,
        "square" if mode == "squash" else "short-side-crop",
        None if resize_px == size_px else resize_px,
        mean,
        std,
        _filter(facts.get("interpolation") or "bicubic", source),
    )


@dataclass(frozen=True)
class _Sides:
    """A size of transformers: its side, and whether both sides of an image are resized to it."""

    px: int
    view_name: ViewName


def _sides(size: object, source: str) -> _Sides:
    """Read a number, ``{"shortest_edge": n}`` or ``{"height": n, "width": n}``."""
    if not isinstance(size, dict):
        return _Sides(int(str(size)), "short-side-crop")
    height, width = size.get("height"), size.get("width")
    if height is None or width is None:
        return _Sides(int(size.get("shortest_edge") or 224), "short-side-crop")
    if height != width:
        raise UserError(
            "this network's input is no square, and histotune's views are",
            value=f"{width} x {height} px, {source}",
            fix="take a network with a square input, or save it with another size in preprocessor_config.json",
        )
    return _Sides(int(height), "square")


def _crops(processor: Json) -> bool:
    """Whether the centre is cropped: as the file says, or because it names a crop."""
    return "crop_size" in processor and bool(processor.get("do_center_crop", True))


def _convnext(side_px: int, processor: Json) -> tuple[int, ViewName, int]:
    """Return what ConvNextImageProcessor makes of ``shortest_edge`` and ``crop_pct``."""
    if side_px >= CONVNEXT_MAX_CROP_PX:
        return side_px, "square", side_px
    return side_px, "short-side-crop", int(side_px / (processor.get("crop_pct") or 224 / 256))


def _normalisation(processor: Json, source: str) -> tuple[Rgb, Rgb]:
    """Return mean and deviation of values in [0, 1] that give what the processor gives.

    It computes (p f - m) / s from a pixel p of 0 to 255 and a factor f; that is (p / 255 - m / 255f) / (s / 255f).
    """
    factor = float(processor.get("rescale_factor", 1 / 255)) if processor.get("do_rescale", True) else 1.0
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if processor.get("do_normalize", True):
        mean, std = _triple(processor.get("image_mean"), source), _triple(processor.get("image_std"), source)
    scale = 255.0 * factor
    if abs(scale - 1.0) < ROUNDING:
        return mean, std
    return _divided(mean, scale), _divided(std, scale)


def _divided(values: Rgb, by: float) -> Rgb:
    return values[0] / by, values[1] / by, values[2] / by


def _triple(values: object, source: str) -> Rgb:
    if isinstance(values, list | tuple) and len(values) == 3:
        return float(values[0]), float(values[1]), float(values[2])
    if values is not None:
        raise UserError(
            "the normalisation is not one value per RGB channel",
            value=values,
            allowed="three numbers",
            fix=f"use an RGB model instead of {source}",
        )
    return 0.5, 0.5, 0.5


def _filter(resample: object, source: str) -> Filter:
    """Return a resampling filter by Pillow's number or timm's name."""
    if resample not in FILTERS:
        LOG.warning("%s documents %s interpolation; bicubic is used", source, FILTER_NAMES.get(resample, resample))
    return FILTERS.get(resample, "bicubic")
