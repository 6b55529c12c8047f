"""A backbone learns, from its probe on, and groups that took no part say whether that helped.

The loop is ``loop.train``; ``tuning.tune_set`` is the protocol around it. ``methods.py`` says which parameters move,
``prefix.py`` keeps the output of the frozen blocks, ``outcome.py`` leaves an adapter and a head.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from histotune.finetune.config import FinetuneConfig as FinetuneConfig
    from histotune.finetune.methods import MethodChoice as MethodChoice
    from histotune.finetune.methods import Trainable as Trainable
    from histotune.finetune.methods import make_trainable as make_trainable
    from histotune.finetune.sections import Sections as Sections
    from histotune.finetune.sections import find_sections as find_sections

FILES = {
    "FinetuneConfig": "config",
    "MethodChoice": "methods",
    "Sections": "sections",
    "Trainable": "methods",
    "find_sections": "sections",
    "make_trainable": "methods",
}
__all__ = list(FILES)


def __getattr__(name: str) -> object:
    """Load what this room gives when it is first asked for."""
    if name not in FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{FILES[name]}"), name)


class Room(ModuleType):
    """A room whose name is also a verb: ``histotune.finetune(...)`` works before and after the room was imported."""

    def __call__(self, *arguments: object, **options: object) -> object:
        """Call the verb of this name."""
        return import_module("histotune.studies.tuning_verbs").finetune(*arguments, **options)


sys.modules[__name__].__class__ = Room
