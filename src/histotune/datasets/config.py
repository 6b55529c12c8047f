"""Settings of the datasets room."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from histotune.errors import UserError, closest_name

DatasetName = Literal["breakhis", "patch_camelyon"]
OnBadImage = Literal["fail", "skip"]


def check_on_bad_image(text: str) -> OnBadImage:
    """Return what to do with images that can't be read, as typed on a command line.

    Args:
        text: ``fail`` or ``skip``.

    Returns:
        The same, checked.

    Raises:
        UserError: Something else.
    """
    by_name: dict[str, OnBadImage] = {"fail": "fail", "skip": "skip"}
    if text in by_name:
        return by_name[text]
    raise UserError("--on-bad-image takes fail or skip", value=text, closest=closest_name(text, get_args(OnBadImage)))


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
        on_bad_image: ``fail`` lists every image that can't be read and stops; ``skip`` leaves them out, and every
            number made with the rest says how many.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: DatasetName
    path: Path
    labels: Literal["binary", "eva4", "all8"] = "binary"
    mpp_source: Literal["estimated", "nominal"] = "estimated"
    mpp: float | None = Field(None, gt=0)
    max_tiles_per_split: int = Field(0, ge=0)
    seed: int = 0
    on_bad_image: OnBadImage = "fail"
