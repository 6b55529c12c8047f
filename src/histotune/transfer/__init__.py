"""Why an external validation falls short: what each remedy recovers, and the first cause, or that it can't be told.

The loop is ``diagnose.diagnose``.
"""

from importlib import import_module
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
