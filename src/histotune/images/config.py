"""Settings of the images room."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class ViewConfig(BaseModel):
    """How an image becomes the network's input; part of the embedding space's key.

    Attributes:
        name: ``short-side-crop`` resizes the short side to ``size_px`` and crops the centre square, the transform
            that pathology foundation models document.
        size_px: Side of the network's input.
        interpolation: Resampling filter, always antialiased as Pillow does it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["short-side-crop"] = "short-side-crop"
    size_px: int = Field(224, ge=14, le=2048)
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"


class LoaderConfig(BaseModel):
    """How pixels are read.

    Attributes:
        workers: Decoding threads; 0 means one per core.
        max_pixels: Images with more pixels are refused (decompression bombs).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    workers: int = Field(0, ge=0)
    max_pixels: int = Field(64_000_000, ge=1)
