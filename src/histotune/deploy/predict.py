"""Apply a saved head to images: a table of probabilities."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from histotune.datasets.tiles import read_unlabelled_images
from histotune.embeddings.embed import embed
from histotune.embeddings.space import EmbedRequest
from histotune.heads.head import class_probabilities, decide, head_logits, space_note
from histotune.images.view_checks import view_notes
from histotune.tools.atomic import atomic_path
from histotune.tools.tabular import write_csv, write_parquet

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from histotune.backbones.spec import BackboneSpec
    from histotune.datasets.config import OnBadImage
    from histotune.deploy.bundle import Bundle
    from histotune.embeddings.space import EmbeddingConfig
    from histotune.images.config import LoaderConfig

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class PredictSettings:
    """How prediction computes, and what is known about the images.

    Attributes:
        embedding: Device, batches.
        loader: How pixels are read.
        cache: Root folder of the cache.
        on_bad_image: Whether images that can't be read stop it or stay without a prediction.
        mpp: Scale of the images, um/px; None where unknown, which is enough for views without ``target_mpp``.
    """

    embedding: EmbeddingConfig
    loader: LoaderConfig
    cache: Path
    on_bad_image: OnBadImage = "fail"
    mpp: float | None = None


def predict(bundle: Bundle, backbone: BackboneSpec, images: Sequence[Path], settings: PredictSettings) -> pl.DataFrame:
    """Embed images and apply a head.

    Args:
        bundle: The head, its backbone and view.
        backbone: The bundle's backbone, found.
        images: Image files, or folders of them.
        settings: Device, batch size, cache.

    Returns:
        A row per image: ``path``, ``predicted``, and ``probability_<class>`` per class; nulls for images that were
        skipped as unreadable.
    """
    tiles = read_unlabelled_images(images, bundle.head.class_names, settings.mpp)
    for note in tiles.notes:
        LOG.warning(note)
    embedding = settings.embedding.model_copy(update={"precision": bundle.precision})
    request = EmbedRequest(backbone, bundle.view, embedding, settings.loader, settings.cache, settings.on_bad_image)
    embeddings = embed(tiles, request)
    for note in view_notes(tiles, bundle.view):
        LOG.info(note)
    logit_NK = head_logits(bundle.head, embeddings)
    if note := space_note(bundle.head, embeddings):
        LOG.info(note)
    probability_NK = class_probabilities(bundle.head, logit_NK)
    predicted = decide(bundle.head, probability_NK)
    names = bundle.head.class_names
    found = pl.DataFrame(
        {
            "path": embeddings.tile_ids,
            "predicted": [names[index] for index in predicted],
            **{f"probability_{name}": probability_NK[:, index] for index, name in enumerate(names)},
        }
    )
    return pl.DataFrame({"path": tiles.tile_ids}).join(found, on="path", how="left", maintain_order="left")


def write_predictions(table: pl.DataFrame, out: Path) -> None:
    """Write a table of predictions as CSV or Parquet, by its suffix, atomically.

    Args:
        table: From :func:`predict`.
        out: ``.parquet``, or anything else for CSV.
    """
    with atomic_path(out) as temporary:
        if out.suffix == ".parquet":
            write_parquet(table, temporary)
        else:
            write_csv(table, temporary)
