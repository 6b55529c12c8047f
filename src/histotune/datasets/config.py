"""Settings of the datasets room."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from histotune.tools.errors import UserError, closest_name

DatasetName = Literal["breakhis", "patch_camelyon", "tiles", "python"]
OnBadImage = Literal["fail", "skip"]
Layout = Literal["class", "class/group", "group/class"]
OWNERS = {
    "slides_from": ("patch_camelyon",),
    "group_pattern": ("tiles",),
    "images_from": ("tiles",),
    "positive_class": ("tiles", "python"),
    "layout": ("tiles",),
    "ids": ("tiles", "python", "patch_camelyon"),
    "also_missing": ("tiles", "python", "patch_camelyon"),
    "not_missing": ("tiles", "python", "patch_camelyon"),
    "max_classes": ("tiles", "python"),
    "code": ("python",),
    "code_sha256": ("python",),
}


def check_on_bad_image(text: str) -> OnBadImage:
    """Return what to do with images that can't be read, as typed on a command line."""
    by_name: dict[str, OnBadImage] = {"fail": "fail", "skip": "skip"}
    if text in by_name:
        return by_name[text]
    raise UserError("--on-bad-image takes fail or skip", value=text, closest=closest_name(text, get_args(OnBadImage)))


class SubsetConfig(BaseModel):
    """A smaller data set: chosen after reading, before anything is split or embedded.

    Steps apply in this order. Where the data set has official parts, ``group_fraction`` and ``shots`` thin out the
    train part only.

    Attributes:
        magnifications: Keep these, such as "40X"; empty keeps all.
        classes: Keep tiles of these classes, by name; empty keeps all. The others leave the task.
        group_fraction: Share of the groups to keep, in steps of 0.001; whole groups, classes in proportion.
        shots: Keep this many tiles (or groups) of each class.
        shots_of: What ``shots`` counts.
        seed: Seed of both draws.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    magnifications: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    group_fraction: float | None = Field(None, ge=0.001, le=1)
    shots: int | None = Field(None, ge=1)
    shots_of: Literal["tiles", "groups"] = "tiles"
    seed: int = Field(0, ge=0)

    @property
    def name(self) -> str:
        """Return what was asked for in one word, the seed included: "40X-TA+MC-groups0.5-seed3"; empty for all."""
        drawn = [
            *([f"groups{self.group_fraction:g}"] if self.group_fraction is not None else []),
            *([f"{self.shots}{self.shots_of}-per-class"] if self.shots is not None else []),
        ]
        kept = [part for part in ("+".join(self.magnifications), "+".join(self.classes)) if part]
        return "-".join([*kept, *drawn, *([f"seed{self.seed}"] if drawn else [])])


class DatasetConfig(BaseModel):
    """Which tiles are read.

    Attributes:
        name: Reader; ``tiles`` reads the user's own, ``python`` calls the user's own reader.
        path: Folder holding the files; for ``tiles`` a folder of class folders, or a CSV or parquet table.
        labels: BreakHis labels: ``binary`` (benign, malignant), ``eva4`` (TA, MC, F, DC), ``all8``. PatchCamelyon
            is always binary, and one's own tiles have the classes that they have.
        mpp_source: Which of the data set's candidate scales fills the ``mpp`` column.
        mpp: The user's own scale, um/px, for every tile; overrides ``mpp_source``.
        mpp_by_magnification: The same per magnification label, such as ``{"100X": 1.0, "400X": 0.25}``;
            ``histotune data estimate-mpp`` prints it.
        mpp_factor: Multiplicative uncertainty of ``mpp`` or ``mpp_by_magnification``. 1 marks the scale as the user's
            own knowledge, more as an estimate.
        max_tiles_per_split: Keep at most this many tiles of each official part (PatchCamelyon), whole slides
            first where slides are known, chosen by ``seed``; 0 keeps all.
        seed: Seed of that choice.
        on_bad_image: ``fail`` lists every image that can't be read and stops; ``skip`` leaves them out, and every
            number made with the rest says how many.
        subset: A smaller data set: magnifications, classes, a share of the groups, a few tiles of each class.
        slides_from: Folder of PatchCamelyon's HDF5 files with ``meta.csv``, for a copy that names no slides: they are
            taken over where the pixels of all tiles are found there.
        group_pattern: Regular expression with one named group ``group``, searched for in each file's path below its
            class folder, such as ``^(?P<group>[^_]+)_``; for class folders only.
        class_level: Which level of folders names the classes: 1 for those right below the data folder (or below its
            parts), 2 for those within these, and then ``group_pattern`` sees the outer folders, too.
        layout: What the folders mean: ``class/group``, ``group/class``, or ``class`` where those within a class folder
            mean nothing; the parts, where there are some, lie above. None reads class folders, and asks where they may
            be something else.
        images_from: Folder below which the paths of a table are looked for; None takes the table's own folder.
        positive_class: Which of two classes becomes class 1.
        ids: What becomes of ids and labels that look alike, such as Pat1 and pat1, or 7 and 007: ``join`` makes one of
            each, ``exact`` keeps them apart; None refuses them.
        also_missing: Words in the cells that stand for a missing value, beside nan, NA, None and the like.
        not_missing: Words that are names here, though they often stand for a missing value.
        max_classes: Most classes to take as such; None takes 50 of names, and fewer of numbers that look measured.
        code: Python file with ``SPEC`` and ``read`` (``python`` only); naming it on the command line runs it.
        code_sha256: SHA-256 of that file; another content is not run. Empty takes any.
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
    on_bad_image: OnBadImage = "fail"
    subset: SubsetConfig = Field(default_factory=SubsetConfig)
    slides_from: Path | None = None
    group_pattern: str | None = None
    class_level: int = Field(1, ge=1, le=9)
    images_from: Path | None = None
    layout: Layout | None = None
    positive_class: str | None = None
    ids: Literal["join", "exact"] | None = None
    also_missing: tuple[str, ...] = ()
    not_missing: tuple[str, ...] = ()
    max_classes: int | None = Field(None, ge=2)
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
            if getattr(self, field) not in (None, "", ()) and self.name not in owners:
                raise ValueError(f"{field} does nothing for {self.name}; it is for {' and '.join(owners)}")
        if self.class_level != 1 and self.name != "tiles":
            raise ValueError(f"class_level does nothing for {self.name}; it is for tiles")
        if self.layout is not None and self.class_level != 1:
            raise ValueError("layout and class_level both say which folders are the classes; keep one of them")
        if self.layout not in (None, "class") and self.group_pattern is not None:
            raise ValueError("layout and group_pattern both say what the groups are; keep one of them")
        return self

    @model_validator(mode="after")
    def _one_scale(self) -> Self:
        if self.mpp is not None and self.mpp_by_magnification is not None:
            raise ValueError("mpp and mpp_by_magnification both give a scale; keep one of them")
        if self.mpp_factor > 1 and self.mpp is None and self.mpp_by_magnification is None:
            raise ValueError("mpp_factor belongs to mpp or mpp_by_magnification, and neither is given")
        return self
