"""A name becomes a network with named outputs: the catalog, weights, adapters, forward passes at device speed.

``catalog.toml`` holds what is known of each model, ``catalog.py`` finds one, ``engine.py`` loads and runs it.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from histotune.backbones.access import check_access as check_access
    from histotune.backbones.catalog import find_backbone as find_backbone
    from histotune.backbones.engine import load_backbone as load_backbone
    from histotune.backbones.entries import BackboneConfig as BackboneConfig
    from histotune.backbones.merged_folder import save_merged as save_merged
    from histotune.backbones.spec import Backbone as Backbone
    from histotune.backbones.spec import BackboneSpec as BackboneSpec
    from histotune.backbones.spec import ColumnBlock as ColumnBlock

FILES = {
    "Backbone": "spec",
    "BackboneConfig": "entries",
    "BackboneSpec": "spec",
    "ColumnBlock": "spec",
    "check_access": "access",
    "find_backbone": "catalog",
    "load_backbone": "engine",
    "save_merged": "merged_folder",
}
__all__ = list(FILES)


def __getattr__(name: str) -> object:
    """Load what this room gives when it is first asked for."""
    if name not in FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{FILES[name]}"), name)
