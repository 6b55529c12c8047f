"""Settings of the images room."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from histotune.tools.errors import UserError, closest_name

ViewName = Literal["short-side-crop", "square", "letterbox", "tiles"]
Interpolation = Literal["bilinear", "bicubic"]
SizePx = Annotated[int, Field(ge=14, le=2048)]
ResizePx = Annotated[int, Field(ge=0, le=8192)]
TargetMpp = Annotated[float, Field(gt=0, allow_inf_nan=False)]
GreyLevel = Annotated[int, Field(ge=0, le=255)]
Rgb = tuple[GreyLevel, GreyLevel, GreyLevel]
WHITE: Rgb = (255, 255, 255)


def check_view_name(text: str) -> ViewName:
    """Return the name of a view as typed on a command line."""
    by_name: dict[str, ViewName] = {name: name for name in get_args(ViewName)}
    if text in by_name:
        return by_name[text]
    raise UserError(
        "unknown view",
        value=text,
        allowed=", ".join(by_name),
        closest=closest_name(text, by_name),
        fix="histotune run --help",
    )


class ViewConfig(BaseModel):
    """How an image becomes the network's input; part of the embedding space's key.

    Attributes:
        name: ``short-side-crop`` resizes the short side to ``size_px`` and crops the centre square, the transform
            that pathology foundation models document. ``square`` resizes both sides to ``size_px``; the aspect
            changes. ``letterbox`` resizes the long side and pads the short one. ``tiles`` keeps the scale of
            ``short-side-crop``, covers the whole image with crops and averages their embeddings.
        size_px: Side of the network's input.
        resize_px: What the short side becomes before the centre is cropped (in ``square`` both sides; in ``tiles`` the
            scale of all crops): 256 with ``size_px`` 224 is the transform that many ImageNet networks document. None
            takes ``size_px``; 0 leaves the stored pixels as they are. ``letterbox`` and ``target_mpp`` have their
            own scale.
        interpolation: Resampling filter, always antialiased as Pillow does it.
        target_mpp: Scale of the network's input, um/px: the image is resized to it first, then cropped, padded or
            covered. ``square`` keeps the area of a pixel at its square. None takes the scale that ``size_px`` gives.
        pad_rgb: Colour of the padding.
        allow_moved_label: Accept a view that moves or cuts the region which a tile's label speaks about; every
            result says so.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ViewName = "short-side-crop"
    size_px: SizePx = 224
    resize_px: ResizePx | None = None
    interpolation: Interpolation = "bicubic"
    target_mpp: TargetMpp | None = None
    pad_rgb: Rgb = WHITE
    allow_moved_label: bool = False

    @property
    def scaled_px(self) -> int:
        """What the short side (in ``square`` both sides) becomes before the crop; 0: it stays as it is stored."""
        return self.size_px if self.resize_px is None or self._has_own_scale else self.resize_px

    @property
    def _has_own_scale(self) -> bool:
        return self.target_mpp is not None or self.name == "letterbox"

    @property
    def words(self) -> str:
        """The view as reports name it, such as "tiles 224 px, bicubic, 0.5 um/px"."""
        scale = "" if self.target_mpp is None else f", {self.target_mpp:g} um/px"
        size = f"{self.size_px} px"
        if self.scaled_px != self.size_px:
            size += f" of {self.scaled_px} px" if self.scaled_px else " of the stored pixels"
        return f"{self.name} {size}, {self.interpolation}{scale}"

    def identity(self) -> dict[str, object]:
        """Return what decides the pixels that the network sees; settings without effect are left out.

        Returns:
            JSON-ready fields; equal views give equal fields, and a setting that came later changes no earlier key.
        """
        facts: dict[str, object] = {"name": self.name, "size_px": self.size_px, "interpolation": self.interpolation}
        if self.scaled_px != self.size_px:
            facts["resize_px"] = self.scaled_px
        if self.target_mpp is not None:
            facts["target_mpp"] = self.target_mpp
        if self._has_own_scale or self.scaled_px < self.size_px:
            facts["pad_rgb"] = list(self.pad_rgb)
        return facts


class ViewChoice(BaseModel):
    """Fields of the view that the user sets; what stays None is as the backbone documents it.

    Attributes:
        name: See :class:`ViewConfig`, as for all fields.
        size_px: Side of the network's input; a documented ``resize_px`` keeps its ratio to it.
        resize_px: Short side before the crop.
        interpolation: Resampling filter.
        target_mpp: Scale of the network's input, um/px.
        pad_rgb: Colour of the padding.
        allow_moved_label: Accept a view that moves or cuts the region of the label.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ViewName | None = None
    size_px: SizePx | None = None
    resize_px: ResizePx | None = None
    interpolation: Interpolation | None = None
    target_mpp: TargetMpp | None = None
    pad_rgb: Rgb | None = None
    allow_moved_label: bool | None = None

    def on(self, documented: ViewConfig) -> ViewConfig:
        """Return the documented view with the chosen fields changed.

        Example:
            >>> ViewChoice(name="tiles").on(ViewConfig(size_px=518, interpolation="bilinear")).words
            'tiles 518 px, bilinear'
        """
        chosen = self.model_dump(exclude_none=True)
        if self.size_px is not None and self.resize_px is None and documented.resize_px:
            chosen["resize_px"] = round(documented.resize_px * self.size_px / documented.size_px)
        return documented.model_copy(update=chosen)


class AugmentConfig(BaseModel):
    """How a tile is varied each time that a network is trained on it.

    Attributes:
        dihedral: Turn by quarters and mirror: the eight symmetries of a square, equally often. Tissue on a slide has no
            upright side, and no pixel is interpolated.
        crop: Least share of the area that a random square crop keeps, drawn evenly between it and 1; the crop is
            resized to the whole tile, so that it is a magnification as well. 1 turns it off.
        stain: Strength of stain jitter: the amount of each dye (haematoxylin, eosin, residual) is multiplied by
            1 - stain to 1 + stain, and -stain to stain is added, in optical density (natural logarithm). Tellez et al.
            (Medical Image Analysis 58, 2019) call factors within 0.05 HED-light and within 0.2 HED-strong, with shifts
            in another unit of density; the default is the factor of the light one. 0 turns it off.
        magnification: Largest factor of a change of scale (um/px) about the centre: 1.25 draws from 1/1.25 to 1.25,
            evenly in the logarithm. Above 1 the tissue becomes larger; below 1 it becomes smaller, and what lies
            beyond the tile's border is its mirror image. 1 turns it off.
        blur: Largest standard deviation of a Gaussian blur, px; drawn evenly from 0. 0 turns it off.
        moves_label: Accept augmentations that move or cut the region which a tile's label speaks about.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dihedral: bool = True
    crop: float = Field(1.0, ge=0.05, le=1)
    stain: float = Field(0.05, ge=0, le=0.5)
    magnification: float = Field(1.0, ge=1, le=4)
    blur: float = Field(0.0, ge=0, le=10)
    moves_label: bool = False

    @property
    def is_off(self) -> bool:
        """Whether every tile stays as it is."""
        return not self.identity()

    def identity(self) -> dict[str, object]:
        """Return what decides the pixels; settings without effect are left out.

        Returns:
            JSON-ready fields; equal augmentations give equal fields, none where nothing is varied.

        Example:
            >>> AugmentConfig(blur=0.5).identity()
            {'dihedral': True, 'stain': 0.05, 'blur': 0.5}
        """
        neutral = {"dihedral": False, "crop": 1.0, "stain": 0.0, "magnification": 1.0, "blur": 0.0}
        return {name: getattr(self, name) for name, off in neutral.items() if getattr(self, name) != off}


class LoaderConfig(BaseModel):
    """How pixels are read.

    Attributes:
        workers: Decoding threads; 0 means one per core.
        max_pixels: Images with more pixels are refused (decompression bombs).
        rehash: Read every image and hash it again, whatever is remembered of its path, size and times. For storage that
            puts another file in place of one without a trace of it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    workers: int = Field(0, ge=0)
    max_pixels: int = Field(64_000_000, ge=1)
    rehash: bool = False


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
