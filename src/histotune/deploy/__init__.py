"""A head with its backbone and view, saved as one bundle: its predictions, exports, card, upload and server."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from histotune.deploy.bundle import Bundle as Bundle
    from histotune.deploy.bundle import load_bundle as load_bundle
    from histotune.deploy.bundle import save_bundle as save_bundle
    from histotune.deploy.export import Exported as Exported
    from histotune.deploy.export import export_head as export_head
    from histotune.deploy.export_job import ExportConfig as ExportConfig
    from histotune.deploy.maps import MapSettings as MapSettings
    from histotune.deploy.maps import explain_images as explain_images
    from histotune.deploy.predict import PredictSettings as PredictSettings
    from histotune.deploy.prediction_table import write_predictions as write_predictions
    from histotune.deploy.push import PushPlan as PushPlan
    from histotune.deploy.push import plan_push as plan_push
    from histotune.deploy.push import push_folder as push_folder
    from histotune.deploy.serve import ServeSettings as ServeSettings
    from histotune.deploy.serve import serve_head as serve_head

FILES = {
    "Bundle": "bundle",
    "ExportConfig": "export_job",
    "Exported": "export",
    "MapSettings": "maps",
    "PredictSettings": "predict",
    "PushPlan": "push",
    "ServeSettings": "serve",
    "explain_images": "maps",
    "export_head": "export",
    "load_bundle": "bundle",
    "plan_push": "push",
    "push_folder": "push",
    "save_bundle": "bundle",
    "serve_head": "serve",
    "write_predictions": "prediction_table",
}
__all__ = list(FILES)


def __getattr__(name: str) -> object:
    """Load what this room gives when it is first asked for."""
    if name not in FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{FILES[name]}"), name)
