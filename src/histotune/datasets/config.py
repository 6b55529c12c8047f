"""Settings of the datasets room."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

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
    max_tiles_per_split: int = Field(0, ge=0)
    seed: int = 0
