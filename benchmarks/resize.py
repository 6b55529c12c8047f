"""What resizing on the device is worth: network inputs per second against Pillow on all cores of the same machine."""

from __future__ import annotations

import statistics
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.harness import Arm, Claim, Part, Result, alternate, measured, not_measured, ratios
from histotune.tools import provenance

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from numpy.typing import NDArray

BATCH, REPEATS = 64, 7
PCAM = Claim(
    "resize",
    "resizing on the GPU, inputs per second over Pillow's on all cores, 96 x 96 to 224 x 224, bicubic",
    "x",
    3.0,
    "at least",
    f"512 noise images, batches of {BATCH}, from pixels in memory to uint8 inputs on the GPU: uint8 over pinned memory,"
    " then resized there, against Pillow in one thread per core, then over pinned memory; outputs compared bit by bit"
    f" first; in turns, median of {REPEATS} after 1 warm-up.",
)
BREAKHIS = Claim(
    "resize_png",
    "resizing on the GPU, inputs per second over Pillow's on all cores, PNG of 700 x 460 to 224 x 224, bicubic",
    "x",
    1.0,
    "at least",
    "As resize, with 128 images, the decoding of PNG files on all cores included in both arms.",
)
# B batch, H height, W width, C channels, S side of the view


@dataclass(frozen=True)
class Work:
    """One claim's images and the functions that its arms run."""

    n_images: int
    width_px: int
    height_px: int
    read: Callable[[int], NDArray[np.uint8]]


def measure() -> tuple[Result, ...]:
    """Time both arms; without a GPU the device arm runs on CPU threads and the figures stand as information."""
    works = ((PCAM, _raw(96, 96)), (BREAKHIS, _png(700, 460)))
    return tuple(_measure(claim, work) for claim, work in works)


def _measure(claim: Claim, work: Work) -> Result:
    import torch

    from histotune.images.config import ViewConfig
    from histotune.images.device_resize import DeviceResizer
    from histotune.images.views import device_plan, device_resizable, view_inputs

    device = "cuda" if torch.cuda.is_available() else "cpu"
    view = ViewConfig()
    size_px = (work.width_px, work.height_px)
    verdict = device_resizable(view, [(size_px, None)], device)
    if not verdict:
        return not_measured(claim, verdict.reason)
    resizer = DeviceResizer(device_plan(view, size_px), device)
    with ThreadPoolExecutor(provenance.cpu_count()) as pool:

        def pillow() -> None:
            for numbers in _batches(work):
                _send(list(pool.map(lambda number: view_inputs(work.read(number), view)[0], numbers)), device)
            _finish(device)

        def on_device() -> None:
            for numbers in _batches(work):
                resizer(_send(list(pool.map(work.read, numbers)), device))
            _finish(device)

        seconds = alternate([Arm("Pillow", pillow), Arm(f"torch on {device}", on_device)], repeats=REPEATS)
    parts = [Part(f"{arm}, inputs/s", work.n_images / statistics.median(values)) for arm, values in seconds.items()]
    if device == "cpu":
        lacking = not_measured(claim, "needs an NVIDIA GPU; the parts were measured on CPU threads")
        return replace(lacking, parts=tuple(parts))
    return measured(claim, ratios(seconds, "Pillow", f"torch on {device}"), parts)


def _finish(device: str) -> None:
    """Wait until the GPU is done."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def _batches(work: Work) -> list[range]:
    return [range(start, start + BATCH) for start in range(0, work.n_images, BATCH)]


def _send(images: list[NDArray[np.uint8]], device: str) -> torch.Tensor:
    """Put a batch on the device as uint8."""
    import torch

    batch_BHWC = torch.from_numpy(np.stack(images))
    return batch_BHWC if device == "cpu" else batch_BHWC.pin_memory().to(device, non_blocking=True)


def _raw(width_px: int, height_px: int) -> Work:
    """Rows as PatchCamelyon's HDF5 files hold them: nothing to decode."""
    rng = np.random.default_rng(0)
    images_NHWC = rng.integers(0, 256, (512, height_px, width_px, 3), dtype=np.uint8)
    return Work(len(images_NHWC), width_px, height_px, lambda number: images_NHWC[number])


def _png(width_px: int, height_px: int) -> Work:
    """PNG files in memory, smooth enough to compress as tissue does."""
    import io
    from pathlib import Path

    from PIL import Image

    from histotune.images.decode import decode_image

    rng = np.random.default_rng(1)
    files = []
    for _ in range(8):
        coarse_HWC = rng.integers(60, 256, (height_px // 8, width_px // 8, 3), dtype=np.uint8)
        stream = io.BytesIO()
        Image.fromarray(coarse_HWC).resize((width_px, height_px), Image.Resampling.BICUBIC).save(stream, "PNG")
        files.append(stream.getvalue())
    limit = width_px * height_px
    return Work(
        128, width_px, height_px, lambda number: decode_image(files[number % len(files)], Path("memory"), limit)
    )
