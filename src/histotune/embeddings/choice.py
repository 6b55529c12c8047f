"""The view that is used: what the backbone documents, changed where the user says so, and what it does in words."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from histotune.backbones.catalog import documented_view
from histotune.images.view_checks import view_notes

if TYPE_CHECKING:
    from histotune.backbones.spec import BackboneSpec
    from histotune.datasets.tileset import TileSet
    from histotune.images.config import ViewChoice, ViewConfig

LOG = logging.getLogger(__name__)


def chosen_view(choice: ViewChoice | None, spec: BackboneSpec) -> ViewConfig:
    """Return the backbone's documented view with the chosen fields changed.

    Args:
        choice: Fields that the user sets; None for none.
        spec: The backbone.

    Returns:
        The view.
    """
    documented = documented_view(spec)
    return documented if choice is None else choice.on(documented)


def with_view_notes(tiles: TileSet, view: ViewConfig) -> TileSet:
    """Return the tiles with what the view hides or adds in their notes, and log it; once for all that share a view.

    Args:
        tiles: The tiles.
        view: The view.

    Returns:
        The tiles with more notes.
    """
    new = [note for note in view_notes(tiles, view) if note not in tiles.notes]
    for note in new:
        LOG.info("%s: %s", tiles.name, note)
    return replace(tiles, notes=(*tiles.notes, *new))
