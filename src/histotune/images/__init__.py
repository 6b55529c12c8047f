"""Tiles become uint8 pixels as a network sees them: decoding, views, stain, scale, a loader that works ahead."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from histotune.images.augment import augment_batch as augment_batch
    from histotune.images.augment import contact_sheet as contact_sheet
    from histotune.images.config import AugmentConfig as AugmentConfig
    from histotune.images.config import LoaderConfig as LoaderConfig
    from histotune.images.config import ScaleConfig as ScaleConfig
    from histotune.images.config import ViewConfig as ViewConfig
    from histotune.images.decode import PixelReader as PixelReader
    from histotune.images.diff import diff_datasets as diff_datasets
    from histotune.images.hashes import HashIndex as HashIndex
    from histotune.images.loader import load_views as load_views
    from histotune.images.scale import estimate_scale as estimate_scale
    from histotune.images.view_checks import check_view as check_view
    from histotune.images.views import input_mpp as input_mpp
    from histotune.images.views import view_inputs as view_inputs

FILES = {
    "AugmentConfig": "config",
    "HashIndex": "hashes",
    "LoaderConfig": "config",
    "PixelReader": "decode",
    "ScaleConfig": "config",
    "ViewConfig": "config",
    "augment_batch": "augment",
    "check_view": "view_checks",
    "contact_sheet": "augment",
    "diff_datasets": "diff",
    "estimate_scale": "scale",
    "input_mpp": "views",
    "load_views": "loader",
    "view_inputs": "views",
}
__all__ = list(FILES)


def __getattr__(name: str) -> object:
    """Load what this room gives when it is first asked for."""
    if name not in FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{FILES[name]}"), name)
