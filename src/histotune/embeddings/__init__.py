"""Pixels and a backbone become :class:`Embeddings`, each computed once and kept under its content.

The loop is ``embed.embed``: hash, plan, load, run, store, gather.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from histotune.embeddings.exchange import export as export
    from histotune.embeddings.importing import import_embeddings as import_embeddings
    from histotune.embeddings.space import EmbeddingConfig as EmbeddingConfig
    from histotune.embeddings.space import Embeddings as Embeddings
    from histotune.embeddings.space import EmbeddingSpace as EmbeddingSpace
    from histotune.embeddings.space import EmbedRequest as EmbedRequest
    from histotune.embeddings.store import Store as Store
    from histotune.embeddings.upkeep import check_space as check_space
    from histotune.embeddings.upkeep import repair_space as repair_space
    from histotune.embeddings.upkeep import take_inventory as take_inventory

FILES = {
    "EmbedRequest": "space",
    "EmbeddingConfig": "space",
    "EmbeddingSpace": "space",
    "Embeddings": "space",
    "Store": "store",
    "check_space": "upkeep",
    "export": "exchange",
    "import_embeddings": "importing",
    "repair_space": "upkeep",
    "take_inventory": "upkeep",
}
__all__ = list(FILES)


def __getattr__(name: str) -> object:
    """Load what this room gives when it is first asked for."""
    if name not in FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{FILES[name]}"), name)
