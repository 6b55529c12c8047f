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


class ScaleConfig(BaseModel):
    """How the scale of a data set is measured from its nuclei.

    Attributes:
        tissue: Whose nuclei serve as the ruler; None takes what is known about the data set.
        nucleus_um: The user's own typical nuclear diameter; overrides ``tissue``.
        nucleus_factor: Multiplicative uncertainty of ``nucleus_um``.
        max_tiles: Tiles that are measured, spread over magnifications and groups; 0 takes all.
        n_resamples: Bootstrap resamples of the groups.
        seed: Seed of the choice of tiles and of the bootstrap.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tissue: Literal["breast", "lymph-node"] | None = None
    nucleus_um: float | None = Field(None, gt=0)
    nucleus_factor: float = Field(1.25, ge=1)
    max_tiles: int = Field(400, ge=0)
    n_resamples: int = Field(1000, ge=100)
    seed: int = 0
