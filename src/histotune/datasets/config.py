"""Settings of the datasets room."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

DatasetName = Literal["breakhis", "patch_camelyon", "tiles", "python"]
OWNERS = {
    "slides_from": ("patch_camelyon",),
    "group_pattern": ("tiles",),
    "positive_class": ("tiles", "python"),
    "code": ("python",),
    "code_sha256": ("python",),
}


class DatasetConfig(BaseModel):
    """Which tiles are read.

    Attributes:
        name: Reader; ``tiles`` reads the user's own, ``python`` calls the user's own reader.
        path: Folder holding the files; for ``tiles`` a folder of class folders, or a CSV or parquet table.
        labels: BreakHis labels: ``binary`` (benign, malignant), ``eva4`` (TA, MC, F, DC), ``all8``. PatchCamelyon
            is always binary, and one's own tiles have the classes that they have.
        mpp_source: Which of the data set's candidate scales fills the ``mpp`` column.
        mpp: The user's own scale, um/px, for every tile; overrides ``mpp_source``.
        max_tiles_per_split: Keep at most this many tiles of each official part (PatchCamelyon), whole slides
            first where slides are known, chosen by ``seed``; 0 keeps all.
        seed: Seed of that choice.
        slides_from: Folder of PatchCamelyon's HDF5 files with ``meta.csv``, for a copy that names no slides: they are
            taken over where the pixels of all tiles are found there.
        group_pattern: Regular expression with one named group ``group``, searched for in each file's path below its
            class folder, such as ``^(?P<group>[^_]+)_``; for class folders only.
        positive_class: Which of two classes becomes class 1.
        code: Python file with ``SPEC`` and ``read`` (``python`` only); naming it on the command line runs it.
        code_sha256: SHA-256 of that file; another content is not run. Empty takes any.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: DatasetName
    path: Path
    labels: Literal["binary", "eva4", "all8"] = "binary"
    mpp_source: Literal["estimated", "nominal"] = "estimated"
    mpp: float | None = Field(None, gt=0)
    max_tiles_per_split: int = Field(0, ge=0)
    seed: int = 0
    slides_from: Path | None = None
    group_pattern: str | None = None
    positive_class: str | None = None
    code: Path | None = None
    code_sha256: str = ""

    @field_validator("positive_class", mode="before")
    @classmethod
    def _as_text(cls, value: object) -> object:
        """Take ``--set source.positive_class=1`` as the class named "1"."""
        return str(value) if isinstance(value, int) else value

    @field_validator("group_pattern")
    @classmethod
    def _has_one_group(cls, pattern: str | None) -> str | None:
        if pattern is None:
            return None
        try:
            names = re.compile(pattern).groupindex
        except re.error as error:
            raise ValueError(f"this is no regular expression ({error})") from error
        if list(names) != ["group"]:
            raise ValueError("it needs one named group, as in (?P<group>[^_]+)_")
        return pattern

    @model_validator(mode="after")
    def _only_where_they_mean_something(self) -> DatasetConfig:
        """Refuse a setting that this data set would ignore."""
        for field, owners in OWNERS.items():
            if getattr(self, field) not in (None, "") and self.name not in owners:
                raise ValueError(f"{field} does nothing for {self.name}; it is for {' and '.join(owners)}")
        return self
