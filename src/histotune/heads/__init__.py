"""Embeddings become a :class:`Head`: every trial by grouped cross-validation, one choice, a refit, calibration.

The loop is ``sweep.sweep``: try, choose, refit, estimate. ``family.py`` says what a kind of head has to give;
``solver/`` fits linear heads, ``sgd/`` trains by gradient steps.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from histotune.heads.config import SweepConfig as SweepConfig
    from histotune.heads.family import SweepSupport as SweepSupport
    from histotune.heads.family import SweepTask as SweepTask
    from histotune.heads.fit_cache import FitCache as FitCache
    from histotune.heads.head import Head as Head
    from histotune.heads.head import SweepResult as SweepResult
    from histotune.heads.neighbours import nearest_neighbours as nearest_neighbours
    from histotune.heads.saved_head import load_head as load_head
    from histotune.heads.saved_head import save_head as save_head

FILES = {
    "FitCache": "fit_cache",
    "Head": "head",
    "SweepConfig": "config",
    "SweepResult": "head",
    "SweepSupport": "family",
    "SweepTask": "family",
    "load_head": "saved_head",
    "nearest_neighbours": "neighbours",
    "save_head": "saved_head",
}
__all__ = list(FILES)


def __getattr__(name: str) -> object:
    """Load what this room gives when it is first asked for."""
    if name not in FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{FILES[name]}"), name)
