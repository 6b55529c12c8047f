"""How an image becomes the network's input, and at which scale the network then sees the tissue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from histotune.images.device_resize import DeviceResizer, ResizePlan, is_exact, passes_vertical_first
from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import ArrayLike, NDArray

    from histotune.datasets.tileset import TileSet
    from histotune.images.config import ViewConfig

# H height, W width, S side of the view, K inputs per image, N tiles, 2 axes: x, y


@dataclass(frozen=True)
class DeviceVerdict:
    """Whether a device may resize in Pillow's stead; true and false as a condition.

    Attributes:
        reason: Why not; empty where it may.
    """

    reason: str = ""

    def __bool__(self) -> bool:
        """Return whether it may."""
        return not self.reason


def view_inputs(
    image_HWC: NDArray[np.uint8], view: ViewConfig, resized_px: tuple[int, int] | None = None
) -> NDArray[np.uint8]:
    """Return the network inputs of an image: resized by Pillow, then cropped, padded or covered.

    ``short-side-crop`` equals, to the last bit, torchvision's ``Resize(size, antialias=True)`` and
    ``CenterCrop(size)`` on a PIL image, which is what pathology foundation models document.

    Args:
        image_HWC: uint8 (H, W, 3).
        view: The view.
        resized_px: Width and height after resizing, where they depend on the tile's mpp (``target_mpp``).

    Returns:
        uint8 (K, size_px, size_px, 3), contiguous; K is 1 but for ``tiles``.

    Raises:
        UserError: The image is too large for the view.

    Example:
        >>> from histotune.images.config import ViewConfig
        >>> view_inputs(np.zeros((460, 700, 3), np.uint8), ViewConfig(name="tiles")).shape
        (2, 224, 224, 3)
    """
    from PIL import Image

    height_px, width_px = image_HWC.shape[:2]
    placement = place(width_px, height_px, view, resized_px)
    if placement.resized_px != (width_px, height_px):
        resample = Image.Resampling[view.interpolation.upper()]
        image_HWC = np.asarray(Image.fromarray(image_HWC).resize(placement.resized_px, resample))
    windows = [_window(image_HWC, left, top, view) for left, top in placement.corners_px]
    return windows[0][None] if len(windows) == 1 else np.stack(windows)


def input_mpp(tiles: TileSet, view: ViewConfig) -> NDArray[np.float64]:
    """Return the scale at which the network sees each tile: native mpp x source px / resized px, per axis.

    The axes differ by the rounding to whole pixels, and by the change of aspect in the view ``square``. All crops of
    ``tiles`` share one scale.

    Args:
        tiles: Tiles with ``mpp``, ``width_px`` and ``height_px``.
        view: The view.

    Returns:
        um/px (N, 2): along x, along y; NaN where mpp or size is unknown.
    """
    return view_geometry(tiles, view).input_mpp_N2


def device_plan(view: ViewConfig, source_px: tuple[int, int], resized_px: tuple[int, int] | None = None) -> ResizePlan:
    """Return what :class:`~histotune.images.device_resize.DeviceResizer` needs to make a view of one image size."""
    placement = place(*source_px, view, resized_px)
    return ResizePlan(
        source_px=source_px,
        resized_px=placement.resized_px,
        size_px=view.size_px,
        corners_px=placement.corners_px,
        interpolation=view.interpolation,
        pad_rgb=view.pad_rgb,
        vertical_first=passes_vertical_first(source_px, placement.resized_px, _pillow_major()),
    )


def device_resizable(
    view: ViewConfig, sizes: Iterable[tuple[tuple[int, int], tuple[int, int] | None]], device: str = ""
) -> DeviceVerdict:
    """Return whether a device may resize images of these sizes with Pillow's very pixels.

    Example:
        >>> from histotune.images.config import ViewConfig
        >>> bool(device_resizable(ViewConfig(), [((700, 460), None), ((96, 96), None)], "cpu"))
        True
    """
    for source_px, resized_px in sizes:
        try:
            plan = device_plan(view, source_px, resized_px)
        except UserError as error:
            return DeviceVerdict(error.what)
        words = f"{source_px[0]} x {source_px[1]} px to {plan.resized_px[0]} x {plan.resized_px[1]} px"
        if not is_exact(plan):
            return DeviceVerdict(f"float32 can't hold the sums of resizing {words}")
        if device and not _equals_pillow(plan, view, device):
            return DeviceVerdict(f"{device} resizes {words} differently from Pillow {_pillow_version()}")
    return DeviceVerdict()


def _equals_pillow(plan: ResizePlan, view: ViewConfig, device: str) -> bool:
    """Compare device and Pillow on noise of full contrast, which overshoots most."""
    import torch

    width_px, height_px = plan.source_px
    rng = np.random.default_rng(0)
    # Noise reaches every weight, and black beside white the overshoot that is clipped; equal means equal in every bit.
    noise_BHWC = rng.integers(0, 256, (2, height_px, width_px, 3), dtype=np.uint8)
    noise_BHWC[1] = np.where(noise_BHWC[1] < 128, 0, 255)
    found = DeviceResizer(plan, device)(torch.from_numpy(noise_BHWC).to(device)).cpu().numpy()
    expected = np.concatenate([view_inputs(image_HWC, view, plan.resized_px) for image_HWC in noise_BHWC])
    return np.array_equal(found, expected)


def _window(image_HWC: NDArray[np.uint8], left_px: int, top_px: int, view: ViewConfig) -> NDArray[np.uint8]:
    """Cut one network input out of a resized image and pad what lies outside."""
    size, (height, width) = view.size_px, image_HWC.shape[:2]
    x0, x1 = max(left_px, 0), min(left_px + size, width)
    y0, y1 = max(top_px, 0), min(top_px + size, height)
    part_HWC = image_HWC[y0:y1, x0:x1]
    if part_HWC.shape[:2] == (size, size):
        return np.ascontiguousarray(part_HWC)
    window_SSC = np.empty((size, size, 3), np.uint8)
    window_SSC[:] = view.pad_rgb
    window_SSC[y0 - top_px : y1 - top_px, x0 - left_px : x1 - left_px] = part_HWC
    return window_SSC


def _pillow_version() -> str:
    import PIL

    return PIL.__version__


def _pillow_major() -> int:
    return int(_pillow_version().split(".", maxsplit=1)[0])


# ---- Where an image lies in the network's inputs ----
MAX_RESIZED_PIXELS = 2**26  # a resized image beyond this is a mistake in the scale, or a very long strip
MAX_INPUTS = 256  # network inputs per tile; more is a slide, not a tile
MAX_SIDE_PX = 2**31  # keeps products of two sides inside int64


@dataclass(frozen=True)
class Placement:
    """How one image becomes network inputs.

    Attributes:
        resized_px: Width and height after resizing.
        corners_px: Left and top of each network input in the resized image; what lies outside of it is padded.
    """

    resized_px: tuple[int, int]
    corners_px: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class ViewGeometry:
    """What a view makes of every tile of a tile set.

    Attributes:
        size_px: Side of the network's input.
        mpp_N: Native scale, um/px; NaN where unknown.
        source_px_N2: Stored width and height; 0 where unknown.
        resized_px_N2: Width and height after resizing; 0 where the view can't be placed (size or mpp unknown).
        inputs_N2: Network inputs along each axis; 0 where the view can't be placed.
    """

    size_px: int
    mpp_N: NDArray[np.float64]
    source_px_N2: NDArray[np.int64]
    resized_px_N2: NDArray[np.int64]
    inputs_N2: NDArray[np.int64]

    @property
    def known_N(self) -> NDArray[np.bool_]:
        """Whether the view can be placed."""
        return self.resized_px_N2[:, 0] > 0

    @property
    def n_inputs_N(self) -> NDArray[np.int64]:
        """Network inputs per tile."""
        return np.asarray(self.inputs_N2.prod(axis=1))

    @property
    def input_mpp_N2(self) -> NDArray[np.float64]:
        """Scale at which the network sees the tile: native mpp x source px / resized px; NaN where unknown."""
        return self.mpp_N[:, None] * self._ratio_N2

    @property
    def visible_px_N2(self) -> NDArray[np.float64]:
        """Stored pixels that some network input sees, per axis; NaN where unknown."""
        within_N2 = np.where(self.inputs_N2 > 1, self.resized_px_N2, np.minimum(self.resized_px_N2, self.size_px))
        return within_N2 * self._ratio_N2

    @property
    def field_um_N2(self) -> NDArray[np.float64]:
        """Width and height of the tissue that the network sees, um; padding is none; NaN where unknown."""
        return self.visible_px_N2 * self.mpp_N[:, None]

    @property
    def seen_share_N(self) -> NDArray[np.float64]:
        """Share of the stored image that some network input sees; NaN where unknown."""
        source_N2 = np.where(self.known_N[:, None], self.source_px_N2, 1)
        return np.asarray((self.visible_px_N2 / source_N2).prod(axis=1))

    @property
    def padded_share_N(self) -> NDArray[np.float64]:
        """Share of the network's input that is padding; NaN where unknown."""
        filled_N2 = np.minimum(self.resized_px_N2, self.size_px) / self.size_px
        return np.where(self.known_N, 1.0 - filled_N2.prod(axis=1), np.nan)

    @property
    def enlarged_N(self) -> NDArray[np.bool_]:
        """Whether the image is resized beyond its stored pixels."""
        return np.asarray((self.resized_px_N2 > self.source_px_N2).any(axis=1)) & self.known_N

    @property
    def _ratio_N2(self) -> NDArray[np.float64]:
        """Stored pixels per resized pixel; NaN where unknown."""
        resized_N2 = np.where(self.resized_px_N2 > 0, self.resized_px_N2, 1)
        return np.where(self.known_N[:, None], self.source_px_N2 / resized_N2, np.nan)


def view_geometry(tiles: TileSet, view: ViewConfig) -> ViewGeometry:
    """Return what a view makes of every tile, from the table alone."""
    mpp_N = tiles.table["mpp"].fill_null(float("nan")).to_numpy()
    sizes = tiles.table.select(pl.col("width_px", "height_px").cast(pl.Int64).fill_null(0))
    source_N2 = sizes.to_numpy().astype(np.int64)
    known_N = np.asarray((source_N2 > 0).all(axis=1))
    if view.target_mpp is not None:
        known_N = known_N & np.isfinite(mpp_N) & (mpp_N > 0)
    safe_N2 = np.where(known_N[:, None], source_N2, 1)
    resized_N2 = np.stack(resized_sizes(safe_N2[:, 0], safe_N2[:, 1], view, np.where(known_N, mpp_N, 1.0)), axis=1)
    resized_N2 = np.where(known_N[:, None], resized_N2, 0)
    inputs_N2 = np.where(known_N[:, None], inputs_along(resized_N2, view), 0)
    return ViewGeometry(view.size_px, mpp_N, source_N2, resized_N2, inputs_N2)


def place(width_px: int, height_px: int, view: ViewConfig, resized_px: tuple[int, int] | None = None) -> Placement:
    """Return how an image of one size becomes network inputs.

    Example:
        >>> from histotune.images.config import ViewConfig
        >>> place(700, 460, ViewConfig())
        Placement(resized_px=(340, 224), corners_px=((58, 0),))
    """
    if resized_px is None:
        if view.target_mpp is not None:
            raise ValueError("a view with target_mpp needs the resized size of each tile")
        width, height = resized_sizes(width_px, height_px, view)
        resized_px = int(width), int(height)
    if resized_px[0] * resized_px[1] > MAX_RESIZED_PIXELS:
        raise UserError(
            f"an image of {width_px} x {height_px} px would become {resized_px[0]} x {resized_px[1]} px",
            allowed=f"at most {MAX_RESIZED_PIXELS:,} pixels",
            fix="cut it into tiles",
        )
    lefts, tops = (_corners(side_px, view) for side_px in resized_px)
    if len(lefts) * len(tops) > MAX_INPUTS:
        raise UserError(
            f"an image of {width_px} x {height_px} px needs {len(lefts) * len(tops)} crops",
            allowed=f"at most {MAX_INPUTS}",
            fix="cut it into tiles",
        )
    return Placement(resized_px, tuple((left, top) for top in tops for left in lefts))


def resized_sizes(
    width_px: ArrayLike, height_px: ArrayLike, view: ViewConfig, mpp: ArrayLike | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return width and height after resizing, for one image or many.

    Without ``target_mpp`` the short side (``short-side-crop``, ``tiles``) or both (``square``) become ``resize_px``, or
    ``size_px`` where that is None, and the long side (``letterbox``) ``size_px``; beside a short side the long one is
    truncated, as torchvision does it.
    """
    width, height = np.asarray(width_px, np.int64), np.asarray(height_px, np.int64)
    if view.target_mpp is not None:
        factor = np.asarray(mpp, np.float64) / view.target_mpp
        if view.name == "square":
            side = _nearest(factor * np.sqrt(width * height))
            return side, side
        return _nearest(factor * width), _nearest(factor * height)
    if view.name == "letterbox":
        factor = view.size_px / np.maximum(width, height)
        return _nearest(factor * width), _nearest(factor * height)
    scaled = view.scaled_px
    if not scaled:  # the stored pixels
        return width, height
    if view.name == "square":
        return np.full_like(width, scaled), np.full_like(height, scaled)
    short = np.minimum(width, height)
    return scaled * width // short, scaled * height // short


def inputs_along(resized_px: NDArray[np.int64], view: ViewConfig) -> NDArray[np.int64]:
    """Return how many network inputs stand side by side along an axis."""
    if view.name != "tiles":
        return np.ones_like(resized_px)
    return np.asarray(-(-resized_px // view.size_px))


def _corners(side_px: int, view: ViewConfig) -> tuple[int, ...]:
    """Where the inputs of one axis begin; neighbours overlap as little as whole pixels allow."""
    size = view.size_px
    n_inputs = -(-side_px // size) if view.name == "tiles" else 1
    if n_inputs == 1:
        # Python's rounding of halves to even, and the smaller half of a padding first, are torchvision's.
        return (round((side_px - size) / 2) if side_px >= size else -((size - side_px) // 2),)
    return tuple(number * (side_px - size) // (n_inputs - 1) for number in range(n_inputs))


def _nearest(side_px: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.clip(np.floor(side_px + 0.5), 1, MAX_SIDE_PX).astype(np.int64)
