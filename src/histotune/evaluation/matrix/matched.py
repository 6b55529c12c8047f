"""The two views that hold scale or field of view equal between magnifications, and what each view shows."""

# N tiles

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from histotune.evaluation.matrix.records import SeenScale
from histotune.evaluation.matrix.training_sets import magnifications_of
from histotune.images.views import view_geometry
from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histotune.datasets.tileset import TileSet
    from histotune.evaluation.matrix.records import Experiment
    from histotune.images.config import ViewConfig

MATCHED: tuple[Experiment, ...] = ("equal input_mpp", "equal field of view")


def matched_view(tiles: TileSet, view: ViewConfig, experiment: Experiment) -> ViewConfig:
    """Return the view under which all magnifications look alike in one respect.

    A network's input has a fixed number of pixels, so scale and field can't both be kept without a price.
    ``equal input_mpp`` takes the scale at which the network sees the lowest magnification: every tile is shrunk to it,
    detail is equal, and what is missing of the field is padding. ``equal field of view`` takes the scale at which it
    sees the highest: lower magnifications are cropped to the same tissue and enlarged, nothing is padded, and detail
    is not equal.

    Args:
        tiles: The data set.
        view: The view as it is.
        experiment: Which.

    Returns:
        ``short-side-crop`` with a target mpp; the view itself for "as the network sees it".

    Raises:
        UserError: The scale of a magnification is unknown.
    """
    if experiment not in MATCHED:
        return view
    plain = view.model_copy(update={"name": "short-side-crop", "target_mpp": None})
    seen = seen_scales(tiles, plain)
    unknown = [one.magnification for one in seen if not np.isfinite(one.input_mpp)]
    if unknown:
        raise UserError(f"{experiment} needs the scale of every magnification", value=", ".join(unknown),
                        fix="give the data set's mpp: histotune data describe")  # fmt: skip
    choose = max if experiment == "equal input_mpp" else min
    target = choose(one.input_mpp for one in seen)
    return plain.model_copy(update={"target_mpp": float(f"{target:.6g}")})


def seen_scales(tiles: TileSet, view: ViewConfig) -> tuple[SeenScale, ...]:
    """Return what a view shows of each magnification's labelled tiles.

    Args:
        tiles: The data set.
        view: The view.

    Returns:
        Medians per magnification, lowest first.
    """
    geometry = view_geometry(tiles, view)
    mpp_N = geometry.input_mpp_N2.mean(axis=1)
    of_tile = tiles.table["magnification"].fill_null("").to_numpy()
    ratio_N = np.divide(geometry.resized_px_N2.min(axis=1), geometry.source_px_N2.min(axis=1),
                        out=np.full(len(tiles), np.nan), where=geometry.known_N)  # fmt: skip
    found = []
    for name in magnifications_of(tiles):
        here_N = (of_tile == name) & (tiles.labels_N >= 0)
        found.append(
            SeenScale(
                name,
                input_mpp=_median(mpp_N[here_N]),
                seen_share=_median(geometry.seen_share_N[here_N]),
                padded_share=_median(geometry.padded_share_N[here_N]),
                enlargement=_median(ratio_N[here_N]),
            )
        )
    return tuple(found)


def _median(values: NDArray[np.float64]) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else float("nan")
