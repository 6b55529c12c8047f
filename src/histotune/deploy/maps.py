"""Maps of why a saved head says what it says, for images: a picture each, all terms as a table, and an index."""

from __future__ import annotations

import html
import logging
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import polars as pl

from histotune.backbones.engine import load_backbone
from histotune.datasets.unlabelled import read_unlabelled_images
from histotune.embeddings.space import embedding_space
from histotune.evaluation.explain import draw_explanation, explain_tile, require_explainable, term_table
from histotune.images.decode import PixelReader, tile_sources
from histotune.images.view_checks import check_view
from histotune.images.views import resized_sizes
from histotune.tools.atomic import atomic_folder, claimed
from histotune.tools.devices import find_device
from histotune.tools.errors import UserError
from histotune.tools.progress import track
from histotune.tools.tabular import write_csv, write_parquet

if TYPE_CHECKING:
    from collections.abc import Sequence

    from histotune.backbones.spec import Backbone, BackboneSpec
    from histotune.deploy.bundle import Bundle
    from histotune.deploy.predict import PredictSettings
    from histotune.evaluation.explain import TileExplanation
    from histotune.images.decode import PixelSource

LOG = logging.getLogger(__name__)
PictureFormat = Literal["png", "svg"]
INDEX, TERMS, PAGE = "index.csv", "terms.parquet", "index.html"
STEM_CHARACTERS = 60
MANY_IMAGES = 500


@dataclass(frozen=True)
class MapSettings:
    """What is drawn.

    Attributes:
        predict: Device, how pixels are read, cache, scale of the images.
        class_name: Whose logit; None takes class 1 of two classes, and of several the one that the head says.
        picture: Format of the pictures.
    """

    predict: PredictSettings
    class_name: str | None = None
    picture: PictureFormat = "png"


def explain_images(
    out: Path, bundle: Bundle, backbone: BackboneSpec, images: Sequence[Path], settings: MapSettings
) -> pl.DataFrame:
    """Draw where in each image a linear head's logit comes from.

    Args:
        out: Folder, which appears when all is drawn: a picture per image, ``terms.parquet`` with every term,
            ``index.csv`` and ``index.html``.
        bundle: The head, its backbone and view.
        backbone: The bundle's backbone, found.
        images: As for :func:`~histotune.deploy.predict.predict`.
        settings: What is drawn, and how it is computed: always in fp32.

    Returns:
        The index: a row per image with the logit, its parts and the picture's name.

    Raises:
        UserError: A head or a backbone whose logit is no sum over places, images that can't be read, or a folder of
            other files.
    """
    require_explainable(bundle.head)
    _require_own(out)
    tiles = read_unlabelled_images(images, bundle.head.class_names, settings.predict.mpp)
    for note in tiles.notes:
        LOG.warning(note)
    if len(tiles) > MANY_IMAGES:
        LOG.warning("%s images will be drawn, a picture each", f"{len(tiles):,}")
    check_view(tiles, bundle.view)
    device = find_device(settings.predict.embedding.device)
    _require_meaning(bundle, backbone, embedding_space(backbone, bundle.view, device, "fp32").compatibility_key)
    loaded = load_backbone(replace(backbone, size_px=bundle.view.size_px), device, "fp32")
    jobs = [
        _Job(tile_id, source, mpp)
        for tile_id, source, mpp in zip(tiles.tile_ids, tile_sources(tiles), tiles.table["mpp"], strict=True)
    ]
    with claimed(out, folder=True), atomic_folder(out) as folder, PixelReader(settings.predict.loader) as reader:
        return _Drawing(bundle, loaded, settings, folder, reader).all(jobs)


@dataclass(frozen=True)
class _Job:
    """An image, where its pixels are, and its scale in um/px where that is known."""

    tile_id: str
    source: PixelSource
    mpp: float | None


@dataclass(frozen=True)
class _Drawing:
    """What all images share."""

    bundle: Bundle
    backbone: Backbone
    settings: MapSettings
    folder: Path
    reader: PixelReader

    def all(self, jobs: Sequence[_Job]) -> pl.DataFrame:
        """Draw every image and write what belongs to all of them."""
        rows: list[dict[str, object]] = []
        terms: list[pl.DataFrame] = []
        for number, job in enumerate(track(jobs, f"drawing {len(jobs):,} maps"), 1):
            row, table = self._one(number, job)
            rows.append(row)
            terms.append(table)
        index = pl.DataFrame(rows)
        write_csv(index, self.folder / INDEX)
        write_parquet(pl.concat(terms), self.folder / TERMS)
        (self.folder / PAGE).write_text(_page(index), encoding="utf-8")
        return index

    def _one(self, number: int, job: _Job) -> tuple[dict[str, object], pl.DataFrame]:
        """Draw one image; return its row of the index, and its terms."""
        image_HWC = self.reader.pixels(job.source)
        head, view, class_name = self.bundle.head, self.bundle.view, self.settings.class_name
        resized_px = None
        if view.target_mpp is not None:
            width, height = resized_sizes(image_HWC.shape[1], image_HWC.shape[0], view, job.mpp)
            resized_px = int(width), int(height)
        found = explain_tile(head, self.backbone, image_HWC, view, class_name=class_name, resized_px=resized_px)
        name = f"{number:04d}-{_plain_stem(job.tile_id)}.{self.settings.picture}"
        from matplotlib import rc_context

        drawn = draw_explanation(found, image_HWC, job.tile_id)
        # without the date, and with ids that do not change, the same map is the same file
        metadata = {"Date": None} if self.settings.picture == "svg" else {"Software": None}
        with rc_context({"svg.hashsalt": "histotune"}):
            drawn.savefig(self.folder / name, metadata=metadata)
        path = pl.lit(job.tile_id).alias("path")
        return _row(job.tile_id, found, name), term_table(found).select(path, pl.all())


def _row(tile_id: str, found: TileExplanation, picture: str) -> dict[str, object]:
    return {
        "path": tile_id,
        "class": found.class_name,
        "probability": found.probability,
        "logit": found.logit,
        "baseline": found.baseline,
        "cls_term": found.cls_term,
        "map_sum": found.map_sum,
        "cls_share": found.cls_share,
        "picture": picture,
    }


def _plain_stem(tile_id: str) -> str:
    """Return a tile's name as it may be part of a file's name anywhere."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", Path(tile_id).stem)[:STEM_CHARACTERS].strip("-.") or "image"


def _page(index: pl.DataFrame) -> str:
    """Return the index as a page that needs nothing else."""
    cards = [
        f'<figure><img src="{html.escape(row["picture"])}" loading="lazy" alt="">'
        f"<figcaption>{html.escape(row['path'])}: {html.escape(row['class'])}, logit {row['logit']:+.3f}, probability "
        f"{row['probability']:.3f}, class token {100 * row['cls_share']:.0f} %</figcaption></figure>"
        for row in index.iter_rows(named=True)
    ]
    style = "body{font:14px sans-serif;margin:2em}figure{margin:0 0 2em}img{max-width:100%}"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>histotune explain</title><style>{style}</style>'
        f"<h1>Where the logit comes from</h1><p>Not for diagnosis.</p>{''.join(cards)}</html>\n"
    )


def _require_own(out: Path) -> None:
    """Refuse a folder of other files, before anything is computed."""
    if not out.is_dir():
        return
    names = {path.name for path in out.iterdir()}
    own = {INDEX, TERMS, PAGE}
    if own <= names:
        own |= {name for name in names if re.fullmatch(r"\d{4,}-.+\.(png|svg)", name)}
    if names - own:
        raise UserError(
            "this folder holds other files, and it would be replaced",
            value=f"{out}: {', '.join(sorted(names - own)[:5])}",
            fix="name a folder that does not exist yet: --out maps",
        )


def _require_meaning(bundle: Bundle, backbone: BackboneSpec, found: str) -> None:
    if found != bundle.head.compatibility_key:
        raise UserError(
            "this backbone or view is not the one that the head was trained on: weights, adapter, view and "
            "normalisation must all be the same",
            value=backbone.name,
            fix="pass the head's whole folder, as it was saved",
        )
