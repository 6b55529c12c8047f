"""Pillow's resize as exact matrix products on any torch device, equal to the last bit.

Pillow resizes 8-bit images in two passes, one per axis, with weights in fixed point (22 bits after the point), and
rounds and clips to 8 bits after each pass (``src/libImaging/Resample.c``). Here each pass is two products of whole
numbers that float32 holds exactly: a weight is split as ``4096 high + low``, so that no sum reaches 2^24 and the order
of summation, fused products and TF32 change nothing.

This module stands alone: it imports torch and numpy, inside the functions that need them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

# B batch, H height, W width, C channels, S side of the network's input, K inputs per image, O out, I in


Interpolation = Literal["bilinear", "bicubic"]
PRECISION_BITS = 22  # Pillow: 32 bits, less 8 of the pixel and 2 of head room for overshoot
SPLIT_BITS = 12  # both parts then fit the eleven bits of TF32, edge weights above 1 included
EXACT_BELOW = 2**24  # float32 holds every whole number up to here


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

    Example:
        >>> passes_vertical_first((100, 400), (224, 224), 13), passes_vertical_first((100, 400), (224, 224), 12)
        (True, False)
    """
    (width, height), (new_width, new_height) = source_px, resized_px
    return pillow_major >= 13 and new_height < height and height - new_height > 2 * (width - new_width)


def fixed_weights(in_px: int, out_px: int, interpolation: Interpolation) -> NDArray[np.int64]:
    """Return Pillow's weights of one axis in fixed point.

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
    """Split fixed-point weights into two matrices that float32 multiplies exactly."""
    import numpy as np

    half = 1 << (SPLIT_BITS - 1)
    high_OI = (weights_OI + half) >> SPLIT_BITS
    low_OI = weights_OI - (high_OI << SPLIT_BITS)
    largest = max(int(np.abs(part_OI).sum(axis=1).max()) * 255 for part_OI in (high_OI, low_OI))
    return Weights(high_OI.astype(np.float32), low_OI.astype(np.float32), largest)


def is_exact(plan: ResizePlan) -> bool:
    """Return whether float32 holds every sum that the plan can produce."""
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
        """Return the network inputs of a batch."""
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
