"""A backbone's own parameters move: which of them under a method, and how.

``sections.py`` finds the blocks of a network; ``methods.py`` says which parameters train; ``injection.py`` puts
low-rank adapters on the layers of attention that ``targets.toml`` names.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from histotune.finetune.methods import MethodChoice as MethodChoice
    from histotune.finetune.methods import Trainable as Trainable
    from histotune.finetune.methods import make_trainable as make_trainable
    from histotune.finetune.sections import Sections as Sections
    from histotune.finetune.sections import find_sections as find_sections

FILES = {
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
