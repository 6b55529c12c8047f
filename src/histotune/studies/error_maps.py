"""Why the probe got a tile wrong: a map beside each of a run's largest errors, by the head that scored the tile."""

from __future__ import annotations

import io
import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import polars as pl

from histotune.images.decode import PixelReader, tile_sources
from histotune.images.views import resized_sizes
from histotune.report.run_folder import read_thumbnails
from histotune.tools.errors import UserError
from histotune.tools.progress import track

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from histotune.backbones.spec import Backbone
    from histotune.datasets.tileset import TileSet
    from histotune.heads.head import Head
    from histotune.report.run_folder import Thumbnail
    from histotune.studies.setup import Setup

LOG = logging.getLogger(__name__)
MAP_DPI = 75
"""Of a map on the page: 720 pixels for the tile beside its map."""


def explain_errors(
    thumbnails: Sequence[Thumbnail], heads: Iterable[Head], tiles: Sequence[TileSet], setup: Setup
) -> tuple[Thumbnail, ...]:
    """Add to each tile a map of where the logit of the class it was taken for comes from.

    Args:
        thumbnails: The largest errors.
        heads: Every head of the run that scored tiles, those of the outer folds among them.
        tiles: The data sets they come from.
        setup: The run; an earlier run in its folder lends the maps that it has.

    Returns:
        The same tiles; without maps where the head's logit is no sum over places.
    """
    by_id = {head.head_id: head for head in heads}
    known = {_key(one): one for one in read_thumbnails(setup.config.out) if one.map_words}
    found = [_with_known(one, known.get(_key(one))) for one in thumbnails]
    missing = [one for one in found if not one.map_words and one.head_id in by_id]
    if not missing:
        return tuple(found)
    try:
        drawn = dict(zip(map(_key, missing), _drawn(missing, by_id, tiles, setup), strict=True))
    except UserError as error:
        LOG.debug("no maps of the largest errors: %s", error)
        return tuple(found)
    return tuple(drawn.get(_key(one), one) for one in found)


def _with_known(tile: Thumbnail, known: Thumbnail | None) -> Thumbnail:
    return tile if known is None else replace(tile, map_jpeg=known.map_jpeg, map_words=known.map_words)


def _key(tile: Thumbnail) -> tuple[str, str, str, bytes]:
    """What decides a map: the head, the tile and its picture, and the class it is taken for."""
    return tile.head_id, tile.tile_id, tile.y_predicted, tile.jpeg


def _drawn(
    missing: Sequence[Thumbnail], heads: dict[str, Head], tiles: Sequence[TileSet], setup: Setup
) -> Iterator[Thumbnail]:
    """Load the network once, in fp32, and draw each map."""
    from histotune.backbones.engine import load_backbone
    from histotune.evaluation.explain import require_explainable
    from histotune.tools.devices import find_device

    for head_id in {one.head_id for one in missing}:
        require_explainable(heads[head_id])
    spec = replace(setup.backbone, size_px=setup.view.size_px)
    backbone = load_backbone(spec, find_device(setup.config.embedding.device), "fp32")
    with PixelReader(setup.config.loader) as reader:
        for one in track(missing, f"drawing {len(missing)} maps of the largest errors"):
            yield _with_map(one, heads[one.head_id], backbone, _place_of(one, tiles), setup, reader)


def _place_of(tile: Thumbnail, tiles: Sequence[TileSet]) -> TileSet:
    """Return the one tile as a tile set."""
    for data in tiles:
        alone = data.where(pl.col("tile_id") == tile.tile_id)
        if len(alone):
            return alone
    raise KeyError(tile.tile_id)


def _with_map(
    tile: Thumbnail, head: Head, backbone: Backbone, place: TileSet, setup: Setup, reader: PixelReader
) -> Thumbnail:
    from histotune.evaluation.explain import draw_explanation, explain_tile

    image_HWC = reader.pixels(tile_sources(place)[0])
    resized_px = None
    if setup.view.target_mpp is not None:
        width, height = resized_sizes(image_HWC.shape[1], image_HWC.shape[0], setup.view, place.table["mpp"][0])
        resized_px = int(width), int(height)
    # A target's class is read as one of the head's, at the same place in the order of the classes.
    spoken = head.class_names[place.class_names.index(tile.y_predicted)]
    found = explain_tile(head, backbone, image_HWC, setup.view, class_name=spoken, resized_px=resized_px)
    stream = io.BytesIO()
    draw_explanation(found, image_HWC, tile.tile_id).savefig(
        stream, format="jpeg", dpi=MAP_DPI, pil_kwargs={"quality": 80}
    )
    return replace(tile, map_jpeg=stream.getvalue(), map_words=found.words())
