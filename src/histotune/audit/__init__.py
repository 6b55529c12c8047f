"""What is wrong with a data set before anything is trained on it: duplicates, leaks, blanks, balance, stain.

The loop is ``audit.audit``: names, pixels and embeddings in turn.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from histotune.audit.audit import AuditRequest as AuditRequest
    from histotune.audit.verdicts import Audit as Audit
    from histotune.audit.verdicts import AuditConfig as AuditConfig
    from histotune.audit.verdicts import AuditFinding as AuditFinding

FILES = {
    "Audit": "verdicts",
    "AuditConfig": "verdicts",
    "AuditFinding": "verdicts",
    "AuditRequest": "audit",
}
__all__ = list(FILES)


def __getattr__(name: str) -> object:
    """Load what this room gives when it is first asked for."""
    if name not in FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{FILES[name]}"), name)


class Room(ModuleType):
    """A room whose name is also a verb: ``histotune.audit(...)`` works before and after the room was imported."""

    def __call__(self, *arguments: object, **options: object) -> object:
        """Call the verb of this name."""
        return import_module("histotune.studies.data_verbs").audit(*arguments, **options)


sys.modules[__name__].__class__ = Room
