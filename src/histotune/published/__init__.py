"""Published protocols and scores, and a user's own beside those of the same protocol."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from histotune.published.leaderboard import make_boards as make_boards
    from histotune.published.protocols import EvaConfig as EvaConfig
    from histotune.published.protocols import ThunderConfig as ThunderConfig
    from histotune.published.protocols import UniConfig as UniConfig
    from histotune.published.published_numbers import published_scores as published_scores
    from histotune.published.study import ProtocolStudy as ProtocolStudy
    from histotune.published.study import ProtocolTask as ProtocolTask
    from histotune.published.study import study_protocol as study_protocol

FILES = {
    "EvaConfig": "protocols",
    "ProtocolStudy": "study",
    "ProtocolTask": "study",
    "ThunderConfig": "protocols",
    "UniConfig": "protocols",
    "make_boards": "leaderboard",
    "published_scores": "published_numbers",
    "study_protocol": "study",
}
__all__ = list(FILES)


def __getattr__(name: str) -> object:
    """Load what this room gives when it is first asked for."""
    if name not in FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{FILES[name]}"), name)
