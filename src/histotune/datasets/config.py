"""Settings of the datasets room."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

DatasetName = Literal["breakhis", "patch_camelyon"]


class DatasetConfig(BaseModel):
    """Which tiles are read.

    Attributes:
        name: Reader.
        path: Folder holding the files.
        labels: BreakHis labels: ``binary`` (benign, malignant), ``eva4`` (TA, MC, F, DC), ``all8``. PatchCamelyon
            is always binary.
        mpp_source: Which of the data set's candidate scales fills the ``mpp`` column.
        mpp: The user's own scale, um/px, for every tile; overrides ``mpp_source``.
        mpp_by_magnification: The same per magnification label, such as ``{"100X": 1.0, "400X": 0.25}``;
            ``histotune data estimate-mpp`` prints it.
        mpp_factor: Multiplicative uncertainty of ``mpp`` or ``mpp_by_magnification``. 1 marks the scale as the user's
            own knowledge, more as an estimate.
        max_tiles_per_split: Keep at most this many tiles of each official part (PatchCamelyon), whole slides
            first where slides are known, chosen by ``seed``; 0 keeps all.
        seed: Seed of that choice.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: DatasetName
    path: Path
    labels: Literal["binary", "eva4", "all8"] = "binary"
    mpp_source: Literal["estimated", "nominal"] = "estimated"
    mpp: float | None = Field(None, gt=0)
    mpp_by_magnification: dict[str, Annotated[float, Field(gt=0)]] | None = Field(None, min_length=1)
    mpp_factor: float = Field(1.0, ge=1)
    max_tiles_per_split: int = Field(0, ge=0)
    seed: int = 0

    @model_validator(mode="after")
    def _one_scale(self) -> Self:
        if self.mpp is not None and self.mpp_by_magnification is not None:
            raise ValueError("mpp and mpp_by_magnification both give a scale; keep one of them")
        if self.mpp_factor > 1 and self.mpp is None and self.mpp_by_magnification is None:
            raise ValueError("mpp_factor belongs to mpp or mpp_by_magnification, and neither is given")
        return self
