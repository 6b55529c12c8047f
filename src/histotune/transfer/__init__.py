"""Why an external validation falls short: what each remedy recovers, and the first cause, or that it can't be told.

The loop is ``diagnose.diagnose``.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from histotune.transfer.case import Diagnosis as Diagnosis
    from histotune.transfer.case import TransferCase as TransferCase
    from histotune.transfer.case import TransferConfig as TransferConfig

FILES = {
    "Diagnosis": "case",
    "TransferCase": "case",
    "TransferConfig": "case",
}
__all__ = list(FILES)


def __getattr__(name: str) -> object:
    """Load what this room gives when it is first asked for."""
    if name not in FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{FILES[name]}"), name)


class Room(ModuleType):
    """A room whose name is also a verb: ``histotune.transfer(...)`` works before and after the room was imported."""

    def __call__(self, *arguments: object, **options: object) -> object:
        """Call the verb of this name."""
        return import_module("histotune.studies.verbs").transfer(*arguments, **options)


sys.modules[__name__].__class__ = Room
