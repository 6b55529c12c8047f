"""How an image becomes the network's input, and at which scale the network then sees the tissue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from histotune.images.device_resize import DeviceResizer, ResizePlan, is_exact, passes_vertical_first
from histotune.images.geometry import place, view_geometry
from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

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
    """Return what :class:`~histotune.images.device_resize.DeviceResizer` needs to make a view of one image size.

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
