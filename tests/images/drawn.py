"""Tissue drawn from discs of known diameter: haematoxylin discs on pale eosin, blurred, with sensor noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

HAEMATOXYLIN, EOSIN = np.array([1.05, 1.15, 0.55]), np.array([0.12, 0.75, 0.42])


@dataclass(frozen=True)
class Drawing:
    """Discs that don't touch.

    Attributes:
        diameter_px: Mean diameter.
        height_px: Of the image.
        width_px: Of the image.
        fill: Share of the image that discs cover.
        spread: Deviation of the logarithm of diameters.
        blur_px: Deviation of the optics' blur.
        noise: Deviation of sensor noise, grey levels.
        seed: Where discs lie.
    """

    diameter_px: float
    height_px: int = 240
    width_px: int = 320
    fill: float = 0.15
    spread: float = 0.0
    blur_px: float = 0.7
    noise: float = 2.0
    seed: int = 0

    def plane_HW(self) -> NDArray[np.float32]:
        """Return 1 within discs, 0 outside, blurred."""
        rng = np.random.default_rng(self.seed)
        plane = np.zeros((self.height_px, self.width_px), np.float32)
        y_HW, x_HW = np.mgrid[: self.height_px, : self.width_px] + 0.5
        placed: list[tuple[float, float, float]] = []
        wanted = self.fill * plane.size / (np.pi / 4 * self.diameter_px**2)
        for _ in range(20_000):
            if len(placed) >= wanted:
                break
            radius = self.diameter_px / 2 * float(np.exp(self.spread * rng.standard_normal()))
            y, x = rng.uniform(0, self.height_px), rng.uniform(0, self.width_px)
            if all(np.hypot(y - other_y, x - other_x) > 1.15 * (radius + other) for other_y, other_x, other in placed):
                placed.append((y, x, radius))
                top, left = max(0, int(y - radius - 2)), max(0, int(x - radius - 2))
                box = (slice(top, int(y + radius + 3)), slice(left, int(x + radius + 3)))
                distance = np.hypot(y_HW[box] - y, x_HW[box] - x)
                plane[box] = np.maximum(plane[box], np.clip(radius - distance + 0.5, 0, 1))
        return np.asarray(ndimage.gaussian_filter(plane, self.blur_px), np.float32)

    def image_HWC(self) -> NDArray[np.uint8]:
        """Return the discs as nuclei: Beer-Lambert, noise that grows with the light."""
        nuclei = self.plane_HW()[:, :, None]
        light = np.exp(-nuclei * HAEMATOXYLIN - (0.45 - 0.3 * nuclei) * EOSIN)
        rng = np.random.default_rng(self.seed + 1)
        return (240 * light + self.noise * rng.standard_normal(light.shape)).clip(0, 255).astype(np.uint8)
