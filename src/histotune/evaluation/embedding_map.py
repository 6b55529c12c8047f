"""Where tiles lie on a plane: principal components, and t-SNE where it is asked for."""

# N tiles, n drawn, D columns

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from histotune.datasets.splits.split import tile_groups
from histotune.evaluation.draw import spread_order
from histotune.tools.devices import SMALL_ROWS, one_blas_thread

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from histotune.evaluation.config import EvaluationConfig
    from histotune.evaluation.findings import ScoredArm
    from histotune.evaluation.robustness import EmbeddedArm
    from histotune.statistics.predictions import Predictions

    Float = NDArray[np.float64]

MAX_POINTS = 2000
TSNE_DIMS, TSNE_PERPLEXITY = 50, 30.0
MIN_POINTS = 4


@dataclass(frozen=True)
class Components:
    """Principal components.

    Attributes:
        score_NC: Each tile's place along the components, centred.
        share_C: Share of the variance along each.
    """

    score_NC: Float
    share_C: Float


def map_embeddings(
    arm: EmbeddedArm, predictions: Predictions, probes: Sequence[ScoredArm], evaluation: EvaluationConfig
) -> pl.DataFrame | None:
    """Place the tiles that were scored on a plane.

    Args:
        arm: What the head reads, which is shown as it is, without the head's standardisation.
        predictions: Of the probe.
        probes: The probe's rows, one per domain: the tiles of these domains are shown.
        evaluation: Whether and how; the seed of the draw of at most :data:`MAX_POINTS` tiles, spread over groups, and
            of t-SNE.

    Returns:
        A row per tile and method, by method and tile id: ``method``, ``tile_id``, ``class``, ``group_id``, ``site``,
        ``scanner``, ``stain``, ``x``, ``y``, ``x_share`` and ``y_share`` of the variance (null for t-SNE), ``n_tiles``
        there were. None where no map was asked for or there are fewer than four tiles.
    """
    material, method = arm.material, evaluation.embedding_map
    ids = predictions.where(pl.col("domain").is_in([row.domain for row in probes])).table["tile_id"]
    rows = np.flatnonzero(material.tiles.table["tile_id"].is_in(ids.to_list()).to_numpy())
    if method == "none" or len(rows) < MIN_POINTS:
        return None
    inside = material.tiles.take(rows)
    drawn = spread_order(inside.tile_ids, tile_groups(inside), evaluation.seed)[:MAX_POINTS]
    drawn = drawn[np.argsort(np.array(inside.tile_ids)[drawn], kind="stable")]
    x_nD = material.embeddings.matrix_ND[rows[drawn]][:, material.embeddings.columns(arm.pooling)].astype(np.float64)
    facts = inside.take(drawn).table.select(
        "tile_id",
        pl.Series("class", [inside.class_names[label] for label in inside.labels_N[drawn]], dtype=pl.String),
        "group_id", "site", "scanner", "stain",
        pl.lit(len(rows), dtype=pl.Int64).alias("n_tiles"),
    )  # fmt: skip
    with one_blas_thread(len(drawn) <= SMALL_ROWS):
        found = principal_components(x_nD, TSNE_DIMS if method == "tsne" else 2)
    tables = [_placed(facts, "pca", found.score_NC, found.share_C)]
    if method == "tsne":
        tables.append(_placed(facts, "tsne", tsne(found.score_NC, evaluation.seed), None))
    return pl.concat(tables)


def principal_components(x_ND: Float, n_components: int) -> Components:
    """Return principal components by the smaller of the Gram matrix and the covariance.

    Args:
        x_ND: Rows.
        n_components: How many at most.

    Returns:
        At least two components; the row farthest from the mean along each lies on its positive side, so that signs are
        settled.
    """
    centred_ND = x_ND - x_ND.mean(axis=0)
    n, dim = centred_ND.shape
    kept = max(2, min(n_components, n, dim))
    if n <= dim:
        value_C, vector_NC = np.linalg.eigh(centred_ND @ centred_ND.T)
        value_C, score_NC = value_C[::-1][:kept], vector_NC[:, ::-1][:, :kept]
        score_NC = score_NC * np.sqrt(np.maximum(value_C, 0.0))
    else:
        value_C, vector_DC = np.linalg.eigh(centred_ND.T @ centred_ND)
        value_C, score_NC = value_C[::-1][:kept], centred_ND @ vector_DC[:, ::-1][:, :kept]
    missing = kept - score_NC.shape[1]  # a single column has one component
    score_NC, value_C = np.pad(score_NC, ((0, 0), (0, missing))), np.pad(value_C, (0, missing))
    far_C = np.abs(score_NC).argmax(axis=0)
    score_NC = score_NC * np.where(score_NC[far_C, np.arange(kept)] < 0, -1.0, 1.0)
    total = float((centred_ND**2).sum())
    return Components(score_NC, np.maximum(value_C, 0.0) / total if total > 0 else np.zeros(kept))


def tsne(score_NC: Float, seed: int) -> Float:
    """Return t-SNE's places (van der Maaten & Hinton, JMLR 2008) from principal components.

    Args:
        score_NC: Principal components; the first two are where it starts, so that a map is repeatable and its coarse
            layout is that of the components (Kobak & Berens, Nature Communications 2019).
        seed: Seed.

    Returns:
        Places (N, 2).
    """
    from sklearn.manifold import TSNE

    start_N2 = score_NC[:, :2] / max(float(score_NC[:, 0].std()), 1e-12) * 1e-4
    perplexity = min(TSNE_PERPLEXITY, (len(score_NC) - 1) / 3.0)
    model = TSNE(2, perplexity=perplexity, init=start_N2.astype(np.float32), learning_rate="auto", random_state=seed)
    return np.asarray(model.fit_transform(score_NC.astype(np.float32)), dtype=np.float64)


def _placed(facts: pl.DataFrame, method: str, place_NC: Float, share_C: Float | None) -> pl.DataFrame:
    """Return the tiles with their places; four digits of the range are more than a page can show."""
    reach = max(float(np.abs(place_NC[:, :2]).max()), 1e-12)
    x_N, y_N = np.round(place_NC[:, :2].T / reach, 4) + 0.0
    shares = (None, None) if share_C is None else (round(float(share_C[0]), 4), round(float(share_C[1]), 4))
    return facts.select(
        pl.lit(method).alias("method"),
        pl.all(),
        pl.Series("x", x_N),
        pl.Series("y", y_N),
        pl.lit(shares[0], dtype=pl.Float64).alias("x_share"),
        pl.lit(shares[1], dtype=pl.Float64).alias("y_share"),
    )
