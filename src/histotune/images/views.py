"""How an image becomes the network's input, and at which scale the network then sees the tissue."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np
import polars as pl

from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable

    import torch
    from numpy.typing import ArrayLike, NDArray

    from histotune.datasets.tileset import TileSet
    from histotune.images.config import ViewConfig


# H height, W width, S side of the view, K inputs per image, N tiles
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


def apply_view(
    image_HWC: NDArray[np.uint8], view: ViewConfig, resized_px: tuple[int, int] | None = None
) -> NDArray[np.uint8]:
    """Return the one network input of an image, for views that make one.

    Args:
        image_HWC: uint8 (H, W, 3).
        view: The view.
        resized_px: As for :func:`view_inputs`.

    Returns:
        uint8 (size_px, size_px, 3), contiguous.

    Raises:
        ValueError: The view makes several inputs of this image.

    Example:
        >>> from histotune.images.config import ViewConfig
        >>> apply_view(np.zeros((460, 700, 3), np.uint8), ViewConfig()).shape
        (224, 224, 3)
    """
    inputs_KSSC = view_inputs(image_HWC, view, resized_px)
    if len(inputs_KSSC) != 1:
        raise ValueError(f"the view {view.name} makes {len(inputs_KSSC)} inputs of this image; use view_inputs")
    return np.asarray(inputs_KSSC[0])


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
    """Return what :class:`~histotune.images.views.DeviceResizer` needs to make a view of one image size.

    Args:
        view: The view.
        source_px: Width and height of the stored images.
        resized_px: As for :func:`view_inputs`.

    Returns:
        The plan, with the order of passes of the installed Pillow.

    Raises:
        UserError: The images are too large for the view.
    """
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

    Args:
        view: The view.
        sizes: Each different image size, width and height, with its resized size (None without ``target_mpp``).
        device: A torch device on which noise of each size is resized and compared with Pillow; empty compares the
            arithmetic's bounds only.

    Returns:
        True, or false with the reason; the caller then uses :func:`view_inputs` and records which path it took.

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


# ------------------------------------------------------------------------------
# Where an image lies in the network's inputs: sizes, corners, scale, and what share of it is seen.


MAX_RESIZED_PIXELS = 2**26  # a resized image beyond this is a mistake in the scale, or a very long strip
MAX_INPUTS = 256  # network inputs per tile; more is a slide, not a tile
MAX_SIDE_PX = 2**31  # keeps products of two sides inside int64


# N tiles, 2 axes: x, y
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
    """Return what a view makes of every tile, from the table alone.

    Args:
        tiles: Tiles with ``mpp``, ``width_px`` and ``height_px``.
        view: The view.

    Returns:
        Sizes per tile; unknown where the table lacks what the view needs.
    """
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

    Args:
        width_px: Width of the stored image.
        height_px: Height of the stored image.
        view: The view.
        resized_px: Width and height after resizing, where they depend on the tile's mpp (``target_mpp``).

    Returns:
        The resized size and the corners, row by row from the top left.

    Raises:
        UserError: The resized image would be too large, or the image needs too many inputs.
        ValueError: The view has a ``target_mpp`` and no resized size was given.

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
        raise UserError(f"an image of {width_px} x {height_px} px would become {resized_px[0]} x {resized_px[1]} px",
                        allowed=f"at most {MAX_RESIZED_PIXELS:,} pixels", fix="cut it into tiles")  # fmt: skip
    lefts, tops = (_corners(side_px, view) for side_px in resized_px)
    if len(lefts) * len(tops) > MAX_INPUTS:
        raise UserError(f"an image of {width_px} x {height_px} px needs {len(lefts) * len(tops)} crops",
                        allowed=f"at most {MAX_INPUTS}", fix="cut it into tiles")  # fmt: skip
    return Placement(resized_px, tuple((left, top) for top in tops for left in lefts))


def resized_sizes(
    width_px: ArrayLike, height_px: ArrayLike, view: ViewConfig, mpp: ArrayLike | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return width and height after resizing, for one image or many.

    Without ``target_mpp`` the short side (``short-side-crop``, ``tiles``), the long side (``letterbox``) or both
    (``square``) become ``size_px``; beside a short side the long one is truncated, as torchvision does it.

    Args:
        width_px: Stored widths.
        height_px: Stored heights.
        view: The view.
        mpp: Native scales, um/px, for views with ``target_mpp``.

    Returns:
        Widths and heights, at least 1.
    """
    width, height = np.asarray(width_px, np.int64), np.asarray(height_px, np.int64)
    size = view.size_px
    if view.target_mpp is not None:
        factor = np.asarray(mpp, np.float64) / view.target_mpp
        if view.name == "square":
            side = _nearest(factor * np.sqrt(width * height))
            return side, side
        return _nearest(factor * width), _nearest(factor * height)
    if view.name == "square":
        return np.full_like(width, size), np.full_like(height, size)
    if view.name == "letterbox":
        factor = size / np.maximum(width, height)
        return _nearest(factor * width), _nearest(factor * height)
    short = np.minimum(width, height)
    return size * width // short, size * height // short


def inputs_along(resized_px: NDArray[np.int64], view: ViewConfig) -> NDArray[np.int64]:
    """Return how many network inputs stand side by side along an axis.

    Args:
        resized_px: Resized sides.
        view: The view.

    Returns:
        As few as cover the side for ``tiles``, 1 for the other views.
    """
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


# ------------------------------------------------------------------------------
# Pillow's resize as exact matrix products on any torch device, equal to the last bit.
#
# Pillow resizes 8-bit images in two passes, one per axis, with weights in fixed point (22 bits after the point), and
# rounds and clips to 8 bits after each pass (``src/libImaging/Resample.c``). Here each pass is two products of whole
# numbers that float32 holds exactly: a weight is split as ``4096 high + low``, so that no sum reaches 2^24 and the
# order of summation, fused products and TF32 change nothing.
#
# This module stands alone: it imports torch and numpy, inside the functions that need them.


Interpolation = Literal["bilinear", "bicubic"]
PRECISION_BITS = 22  # Pillow: 32 bits, less 8 of the pixel and 2 of head room for overshoot
SPLIT_BITS = 12  # both parts then fit the eleven bits of TF32, edge weights above 1 included
EXACT_BELOW = 2**24  # float32 holds every whole number up to here


# B batch, H height, W width, C channels, S side of the network's input, K inputs per image, O out, I in
@dataclass(frozen=True)
class ResizePlan:
    """What becomes of every image of one size.

    Attributes:
        source_px: Width and height of the stored image.
        resized_px: Width and height after resizing.
        size_px: Side of the network's input.
        corners_px: Left and top of each network input in the resized image; what lies outside of it is padded.
        interpolation: Pillow's filter.
        pad_rgb: Colour of the padding, 0 to 255.
        vertical_first: Whether the pass along y comes first; see :func:`passes_vertical_first`.
    """

    source_px: tuple[int, int]
    resized_px: tuple[int, int]
    size_px: int
    corners_px: tuple[tuple[int, int], ...]
    interpolation: Interpolation = "bicubic"
    pad_rgb: tuple[int, int, int] = (255, 255, 255)
    vertical_first: bool = False


@dataclass(frozen=True)
class Weights:
    """The weights of one pass, split so that float32 products are exact.

    Attributes:
        high_OI: float32, whole numbers; the weight's bits above the lowest twelve.
        low_OI: float32, whole numbers from -2048 to 2047.
        largest_sum: Largest sum of magnitudes that a row of either can reach over pixels of 255.
    """

    high_OI: NDArray[np.float32]
    low_OI: NDArray[np.float32]
    largest_sum: int


def passes_vertical_first(source_px: tuple[int, int], resized_px: tuple[int, int], pillow_major: int) -> bool:
    """Return whether Pillow resizes along y before x; the order shows in the last bits.

    Args:
        source_px: Width and height of the stored image.
        resized_px: Width and height wanted.
        pillow_major: Major version of Pillow: up to 12 it always began with x; 13 begins with y where the height
            shrinks by more than twice what the width does.

    Returns:
        The order.

    Example:
        >>> passes_vertical_first((100, 400), (224, 224), 13), passes_vertical_first((100, 400), (224, 224), 12)
        (True, False)
    """
    (width, height), (new_width, new_height) = source_px, resized_px
    return pillow_major >= 13 and new_height < height and height - new_height > 2 * (width - new_width)


def fixed_weights(in_px: int, out_px: int, interpolation: Interpolation) -> NDArray[np.int64]:
    """Return Pillow's weights of one axis in fixed point.

    Args:
        in_px: Pixels of the stored image along the axis.
        out_px: Pixels wanted.
        interpolation: ``bilinear`` or ``bicubic``.

    Returns:
        int64 (out_px, in_px), 2^22 for a weight of 1, as ``precompute_coeffs`` and ``normalize_coeffs_8bpc`` do it.

    Example:
        >>> fixed_weights(2, 1, "bilinear").tolist()
        [[2097152, 2097152]]
    """
    import numpy as np

    kernel, reach = (_triangle, 1.0) if interpolation == "bilinear" else (_cubic, 2.0)
    scale = in_px / out_px
    stretch = max(scale, 1.0)
    support, shrink = reach * stretch, 1.0 / stretch
    weights_OI = np.zeros((out_px, in_px), np.int64)
    for row in range(out_px):
        centre = (row + 0.5) * scale
        first = max(int(centre - support + 0.5), 0)
        last = min(int(centre + support + 0.5), in_px)
        values = [kernel((column + first - centre + 0.5) * shrink) for column in range(last - first)]
        total = 0.0
        for value in values:  # in Pillow's order; sum() compensates for rounding from Python 3.12 on
            total += value
        for column, value in enumerate(values):
            exact = (value / total if total != 0.0 else value) * (1 << PRECISION_BITS)
            weights_OI[row, first + column] = int(exact - 0.5) if exact < 0 else int(exact + 0.5)
    return weights_OI


def split_weights(weights_OI: NDArray[np.int64]) -> Weights:
    """Split fixed-point weights into two matrices that float32 multiplies exactly.

    Args:
        weights_OI: From :func:`fixed_weights`.

    Returns:
        The parts, ``weights = 4096 high + low``.
    """
    import numpy as np

    half = 1 << (SPLIT_BITS - 1)
    high_OI = (weights_OI + half) >> SPLIT_BITS
    low_OI = weights_OI - (high_OI << SPLIT_BITS)
    largest = max(int(np.abs(part_OI).sum(axis=1).max()) * 255 for part_OI in (high_OI, low_OI))
    return Weights(high_OI.astype(np.float32), low_OI.astype(np.float32), largest)


def is_exact(plan: ResizePlan) -> bool:
    """Return whether float32 holds every sum that the plan can produce.

    Args:
        plan: The plan; only the two lengths of each axis and the filter count.

    Returns:
        False for very strong downsampling (more than 16 times bicubic, 31 times bilinear): too many weights in a row.
    """
    return all(
        _axis(in_px, out_px, plan.interpolation).largest_sum < EXACT_BELOW
        for in_px, out_px in zip(plan.source_px, plan.resized_px, strict=True)
        if in_px != out_px
    )


class DeviceResizer:
    """Resizes, crops and pads batches of equal size on a device.

    Args:
        plan: Sizes, filter, corners.
        device: A torch device, such as "cuda".

    Raises:
        ValueError: The plan is not exact in float32; see :func:`is_exact`.

    Example:
        >>> import torch
        >>> plan = ResizePlan((96, 96), (224, 224), 224, ((0, 0),))
        >>> DeviceResizer(plan)(torch.zeros(2, 96, 96, 3, dtype=torch.uint8)).shape
        torch.Size([2, 224, 224, 3])
    """

    def __init__(self, plan: ResizePlan, device: str | torch.device = "cpu") -> None:
        if not is_exact(plan):
            raise ValueError(f"float32 can't resize {plan.source_px} to {plan.resized_px} exactly")
        self.plan = plan
        self._device = device
        lefts, tops = zip(*plan.corners_px, strict=True)
        self._columns = _seen(lefts, plan.size_px, plan.resized_px[0])
        self._rows = _seen(tops, plan.size_px, plan.resized_px[1])
        self._along_x = self._weights(0, self._columns)
        self._along_y = self._weights(1, self._rows)

    def __call__(self, images_BHWC: torch.Tensor) -> torch.Tensor:
        """Return the network inputs of a batch.

        Args:
            images_BHWC: uint8 (B, H, W, 3) on the device, of the plan's size.

        Returns:
            uint8 (B * K, size_px, size_px, 3), the K inputs of an image one after another. It is a view of memory in
            (B * K, 3, size_px, size_px) order, so that ``permute(0, 3, 1, 2)`` of it is contiguous.

        Raises:
            ValueError: Another size or type than the plan's.
        """
        import torch

        if images_BHWC.dtype != torch.uint8 or tuple(images_BHWC.shape[1:]) != (*self.plan.source_px[::-1], 3):
            raise ValueError(f"expected uint8 {(*self.plan.source_px[::-1], 3)}, not {tuple(images_BHWC.shape[1:])}")
        x_BCHW = images_BHWC.permute(0, 3, 1, 2)
        if self.plan.vertical_first:
            x_BCHW = self._horizontal(self._vertical(x_BCHW))
        else:
            x_BCHW = self._vertical(self._horizontal(x_BCHW))
        inputs = [self._window(x_BCHW, left, top) for left, top in self.plan.corners_px]
        if len(inputs) == 1:
            return inputs[0].permute(0, 2, 3, 1)
        x_KCSS = torch.stack(inputs, dim=1).flatten(0, 1)
        return x_KCSS.permute(0, 2, 3, 1)

    def _weights(self, axis: int, part: slice) -> tuple[torch.Tensor, torch.Tensor] | None:
        """The two parts of an axis on the device, only the output pixels that are seen; None where nothing changes."""
        import torch

        in_px, out_px = self.plan.source_px[axis], self.plan.resized_px[axis]
        if in_px == out_px:
            return None
        weights = _axis(in_px, out_px, self.plan.interpolation)
        high, low = (torch.from_numpy(one[part].copy()).to(self._device) for one in (weights.high_OI, weights.low_OI))
        return (high.T.contiguous(), low.T.contiguous()) if axis == 0 else (high, low)

    def _horizontal(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        if self._along_x is None:
            return x_BCHW[..., self._columns]
        x_BCHW = x_BCHW.float().contiguous()
        return _rounded(x_BCHW @ self._along_x[0], x_BCHW @ self._along_x[1])

    def _vertical(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        if self._along_y is None:
            return x_BCHW[..., self._rows, :]
        x_BCHW = x_BCHW.float().contiguous()
        return _rounded(self._along_y[0] @ x_BCHW, self._along_y[1] @ x_BCHW)

    def _window(self, x_BCHW: torch.Tensor, left_px: int, top_px: int) -> torch.Tensor:
        """Cut one network input out of the seen part and pad it to its full size."""
        import torch

        size, (width, height) = self.plan.size_px, self.plan.resized_px
        x0, x1 = max(left_px, 0), min(left_px + size, width)
        y0, y1 = max(top_px, 0), min(top_px + size, height)
        seen_left, seen_top = self._columns.start, self._rows.start
        part_BCHW = x_BCHW[..., y0 - seen_top : y1 - seen_top, x0 - seen_left : x1 - seen_left]
        if part_BCHW.shape[-2:] == (size, size):
            return part_BCHW.contiguous()
        pad_C11 = torch.tensor(self.plan.pad_rgb, dtype=torch.uint8, device=x_BCHW.device).view(3, 1, 1)
        window_BCSS = pad_C11.expand(len(x_BCHW), 3, size, size).clone(memory_format=torch.contiguous_format)
        window_BCSS[..., y0 - top_px : y1 - top_px, x0 - left_px : x1 - left_px] = part_BCHW
        return window_BCSS


def _rounded(high: torch.Tensor, low: torch.Tensor) -> torch.Tensor:
    """Put the parts together, round and clip to 8 bits as Pillow does after each pass."""
    import torch

    total = high.to(torch.int32).mul_(1 << SPLIT_BITS).add_(low.to(torch.int32)).add_(1 << (PRECISION_BITS - 1))
    return (total >> PRECISION_BITS).clamp_(0, 255).to(torch.uint8)


def _seen(starts: tuple[int, ...], size_px: int, resized_px: int) -> slice:
    """The range of an axis that any network input sees."""
    return slice(max(min(starts), 0), min(max(starts) + size_px, resized_px))


@lru_cache(maxsize=64)
def _axis(in_px: int, out_px: int, interpolation: Interpolation) -> Weights:
    return split_weights(fixed_weights(in_px, out_px, interpolation))


def _triangle(x: float) -> float:
    x = abs(x)
    return 1.0 - x if x < 1.0 else 0.0


def _cubic(x: float) -> float:
    """Keys' cubic convolution (IEEE TASSP 1981) with a = -0.5, written as Pillow writes it."""
    a = -0.5
    x = abs(x)
    if x < 1.0:
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    if x < 2.0:
        return (((x - 5) * x + 8) * x - 4) * a
    return 0.0
