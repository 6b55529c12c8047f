"""A head with its backbone and view, saved as one bundle, and its predictions on new images."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from histotune.deploy.bundle import Bundle as Bundle
    from histotune.deploy.bundle import load_bundle as load_bundle
    from histotune.deploy.bundle import save_bundle as save_bundle
    from histotune.deploy.maps import MapSettings as MapSettings
    from histotune.deploy.maps import explain_images as explain_images
    from histotune.deploy.predict import PredictSettings as PredictSettings
    from histotune.deploy.prediction_table import write_predictions as write_predictions

FILES = {
    "Bundle": "bundle",
    "MapSettings": "maps",
    "PredictSettings": "predict",
    "explain_images": "maps",
    "load_bundle": "bundle",
    "save_bundle": "bundle",
    "write_predictions": "prediction_table",
}
__all__ = list(FILES)


def __getattr__(name: str) -> object:
    """Load what this room gives when it is first asked for."""
    if name not in FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{FILES[name]}"), name)
