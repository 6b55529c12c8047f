"""Give an image the colours of other images: Macenko's and Reinhard's normalisers, by torchstain."""

# H height, W width, C channels (RGB)

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Image = NDArray[np.uint8]

StainMethod = Literal["macenko", "reinhard"]
INSTALL = "pip install 'histotune[stain]'"
MIN_STAINED_SHARE = 0.02
"""Tiles with less tissue hold no dyes to estimate."""
LIGHT, PALE = 240, 0.15  # torchstain's own: transmitted light, and the optical density below which a pixel is glass


def has_torchstain() -> bool:
    """Return whether torchstain is installed."""
    from importlib.util import find_spec

    return find_spec("torchstain") is not None


class StainNormaliser:
    """Gives images the colours of reference images.

    Args:
        method: ``macenko`` (ISBI 2009) exchanges the two dyes, ``reinhard`` (IEEE CG&A 21(5), 2001) mean and spread
            of each channel in Lab.
        reference: Images of the wanted colour; their pixels are pooled.

    Raises:
        UserError: torchstain is not installed.
    """

    def __init__(self, method: StainMethod, reference: Sequence[Image]) -> None:
        if not has_torchstain():
            raise UserError("stain normalisation needs torchstain", value=method, fix=INSTALL)
        from torchstain import normalizers

        maker = normalizers.MacenkoNormalizer if method == "macenko" else normalizers.ReinhardNormalizer
        self._method = method
        self._normaliser: Any = maker(backend="torch")
        pixels = np.concatenate([image_HWC.reshape(-1, 3) for image_HWC in reference])
        self._normaliser.fit(_tensor(pixels[None]))

    def __call__(self, image_HWC: Image) -> Image | None:
        """Return the image in the reference's colours.

        Args:
            image_HWC: uint8 (H, W, 3).

        Returns:
            uint8 (H, W, 3); None where too little tissue is on it, or its dyes can't be told apart.
        """
        if stained_share(image_HWC) < MIN_STAINED_SHARE:
            return None
        try:
            if self._method == "macenko":
                found = self._normaliser.normalize(_tensor(image_HWC), stains=False)[0]
            else:
                found = self._normaliser.normalize(_tensor(image_HWC))
        except RuntimeError:  # torch's linear algebra, on one colour only
            return None
        values = found.numpy().astype(np.float64)
        if not np.isfinite(values).all() or values.shape != image_HWC.shape:
            return None
        return np.asarray(np.clip(values, 0, 255), dtype=np.uint8)


def stained_share(image_HWC: Image) -> float:
    """Return the share of pixels that are tissue: dark enough in every channel."""
    density_HWC = -np.log((image_HWC.astype(np.float64) + 1.0) / LIGHT)
    return float((density_HWC >= PALE).all(axis=-1).mean())


def _tensor(image_HWC: Image) -> Any:  # noqa: ANN401  (torch is imported when something is normalised)
    import torch

    return torch.from_numpy(np.ascontiguousarray(image_HWC.transpose(2, 0, 1)))
