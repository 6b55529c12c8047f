"""Which space a request lives in and which content its tiles have, without computing an embedding."""

from __future__ import annotations

from typing import TYPE_CHECKING

from histotune.embeddings.compiled import chosen_space
from histotune.embeddings.precision_choice import remembered_choice
from histotune.embeddings.space import embedding_space
from histotune.images.decode import PixelReader, tile_sources
from histotune.images.hashes import HashIndex
from histotune.tools.devices import find_device

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from histotune.datasets.tileset import TileSet
    from histotune.embeddings.records import EmbeddingSpace
    from histotune.embeddings.space import EmbedRequest
    from histotune.images.config import LoaderConfig

INDEX = "hashes.sqlite"


def request_space(request: EmbedRequest, keys: Sequence[str] = ()) -> EmbeddingSpace:
    """Return the space that a request's embeddings live in.

    Args:
        request: Backbone, view, device, cache.
        keys: Row keys that are looked for: on GPUs the rows of a long run come from a compiled network.

    Returns:
        The space.

    Raises:
        UserError: Missing weights, or a device that is not there.
    """
    device = find_device(request.embedding.device)
    index = HashIndex(request.cache / INDEX)
    choice = remembered_choice(request, device, index)
    precision = "fp32" if choice is None else choice.precision  # unchecked: nothing was embedded in another yet
    storage = request.embedding.storage
    plain = embedding_space(request.spec, request.view, device, precision, index, storage)
    return chosen_space(request, device, plain, keys)


def tile_contents(tiles: TileSet, cache: Path, loader: LoaderConfig) -> tuple[str, ...]:
    """Return the content hash of every tile; bytes are read only where they were never hashed.

    Args:
        tiles: The tiles.
        cache: Remembers hashes.
        loader: How pixels are read.

    Returns:
        64 hexadecimal digits per tile.

    Raises:
        UnreadableTilesError: Tiles that can't be read.
    """
    with PixelReader(loader) as reader:
        return HashIndex(cache / INDEX).tiles(tile_sources(tiles), reader, loader.workers)
