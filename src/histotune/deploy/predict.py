"""Apply a saved head to images: a table of probabilities."""

from __future__ import annotations

import io
import logging
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

import polars as pl

from histotune.datasets.unlabelled import read_unlabelled_images
from histotune.embeddings.embed import embed
from histotune.embeddings.space import EmbedRequest
from histotune.heads.head import class_probabilities, decide, head_logits, space_note
from histotune.heads.outliers import find_far
from histotune.images.view_checks import view_notes
from histotune.tools.atomic import atomic_path
from histotune.tools.errors import UserError
from histotune.tools.tabular import write_parquet

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from histotune.backbones.spec import BackboneSpec
    from histotune.datasets.config import OnBadImage
    from histotune.deploy.bundle import Bundle
    from histotune.embeddings.space import EmbeddingConfig
    from histotune.heads.head import Head
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
        A row per image: ``path``, ``predicted``, ``probability_<class>`` per class, and how these decide: the head's
        ``threshold`` and the ``decision`` in words; nulls for images that were skipped as unreadable.
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
    if note := find_far(bundle.head, embeddings).note():
        LOG.warning(note)
    probability_NK = class_probabilities(bundle.head, logit_NK)
    predicted = decide(bundle.head, probability_NK)
    names = bundle.head.class_names
    found = pl.DataFrame(
        {
            "path": embeddings.tile_ids,
            "predicted": [names[index] for index in predicted],
            **{f"probability_{name}": probability_NK[:, index] for index, name in enumerate(names)},
        }
    ).with_columns(*_decision(bundle.head))
    return pl.DataFrame({"path": tiles.tile_ids}).join(found, on="path", how="left", maintain_order="left")


def _decision(head: Head) -> tuple[pl.Expr, pl.Expr]:
    """Return the head's threshold, and in words how the probabilities decide."""
    if len(head.class_names) != 2:
        return pl.lit(None, pl.Float64).alias("threshold"), pl.lit("the most probable class").alias("decision")
    other, positive = head.class_names
    words = f"{positive} where probability_{positive} is at least the threshold, else {other}"
    return pl.lit(float(head.threshold)).alias("threshold"), pl.lit(words).alias("decision")


# ---- The table as a file ----


TEXT = {"": ",", ".csv": ",", ".txt": ",", ".tsv": "\t"}  # what parts the cells, by the suffix of the file
TABLE_SUFFIXES = (".csv", ".tsv", ".parquet", ".xlsx")
MAX_EXCEL_ROWS = 2**20 - 1  # of one sheet, below its header


def check_table_name(out: Path) -> None:
    """Find out before anything is computed whether a table of this name can be written.

    Raises:
        UserError: The suffix stands for another kind of file, or for one that needs a package that is missing.
    """
    suffix = out.suffix.lower()
    if suffix not in TEXT and suffix not in TABLE_SUFFIXES:
        raise UserError(
            "tables of predictions are not written in this format",
            value=out,
            allowed=", ".join(TABLE_SUFFIXES),
            fix=f"--out {out.with_suffix('.csv')}",
        )
    if suffix == ".xlsx" and find_spec("xlsxwriter") is None:
        raise UserError(
            "writing .xlsx needs the package xlsxwriter, which is not installed",
            value=out,
            allowed=".csv, .tsv, .parquet",
            fix=f"pip install 'histotune[excel]', or --out {out.with_suffix('.csv')}",
        )


def write_predictions(table: pl.DataFrame, out: Path) -> None:
    """Write a table of predictions by the suffix of its file, atomically.

    Args:
        table: From :func:`predict`.
        out: ``.parquet``, ``.xlsx``, ``.tsv``, or CSV.
    """
    check_table_name(out)
    suffix = out.suffix.lower()
    if suffix == ".xlsx" and table.height > MAX_EXCEL_ROWS:
        what = f"a sheet of .xlsx has room for {MAX_EXCEL_ROWS:,} rows, and these are {table.height:,}"
        raise UserError(what, value=out, fix=f"--out {out.with_suffix('.csv')}")
    with atomic_path(out) as temporary:
        if suffix == ".parquet":
            write_parquet(table, temporary)
        elif suffix == ".xlsx":
            temporary.write_bytes(_excel(table))
        else:
            temporary.write_bytes(table.write_csv(separator=TEXT[suffix]).encode())


def _excel(table: pl.DataFrame) -> bytes:
    """Return a table as the bytes of an Excel file; text that begins like a formula or an address stays text."""
    import xlsxwriter

    held = io.BytesIO()
    as_text = {"in_memory": True, "strings_to_formulas": False, "strings_to_urls": False}
    with xlsxwriter.Workbook(held, as_text) as book:
        table.write_excel(book, worksheet="predictions", float_precision=6)
    return held.getvalue()
