"""Under which scales a transfer is diagnosed: what is stated, the ends of its uncertainty, and rival readings."""

# N tiles

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from histotune.datasets.dataset_spec import known_specs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histotune.datasets.tileset import TileSet

SAME_SCALE = 1.05
"""Scales closer than this factor are matched already."""


@dataclass(frozen=True)
class Reading:
    """One reading of the scale at which the network saw a data set.

    Attributes:
        input_mpp: Median, um/px; NaN where unknown.
        factor: Multiplicative uncertainty, 1 = exact.
        name: Where it comes from, such as "nominal"; empty for the one the tiles state.
    """

    input_mpp: float
    factor: float = 1.0
    name: str = ""


@dataclass(frozen=True)
class ScaleCandidate:
    """A pair of scales that the source and the target may have.

    Attributes:
        source_mpp: Scale at which the network saw the source, um/px.
        target_mpp: The same of the target as it is.
        words: How it is named; empty for the only one.
        mpp_factor: What the target's stored mpp is multiplied with, so that a view at the source's stated scale gives
            this pair's ratio: only the ratio matters to a view.
    """

    source_mpp: float
    target_mpp: float
    words: str
    mpp_factor: float

    @property
    def matched(self) -> bool:
        """Whether the scales agree already, so that there is nothing to undo."""
        return 1.0 / SAME_SCALE < self.source_mpp / self.target_mpp < SAME_SCALE


def scale_readings(tiles: TileSet, input_mpp_N: NDArray[np.floating]) -> tuple[Reading, ...]:
    """Return the scale that the tiles state, then other readings on record for the same data set."""
    known_N = input_mpp_N[np.isfinite(input_mpp_N)]
    if not len(known_N):
        return (Reading(float("nan")),)
    stated = float(np.round(np.median(known_N), 4))
    table = tiles.table.filter(pl.col("mpp").is_finite())
    factor = table["mpp_factor"].drop_nulls().drop_nans().median()
    first = Reading(stated, 1.0 if factor is None else float(factor))  # type: ignore[arg-type]
    sources = set(table["mpp_source"].drop_nulls())
    spec = known_specs().get(tiles.name)
    if spec is None or "user" in sources:
        return (first,)
    others = [
        Reading(stated * ratio, scale.factor, scale.source)
        for scale in spec.scales
        if scale.source not in sources and (ratio := _ratio(table, dict(scale.mpp_by_magnification))) is not None
    ]
    return (first, *others)


def scale_candidates(
    source: tuple[Reading, ...], target: tuple[Reading, ...], *, one_data_set: bool
) -> tuple[ScaleCandidate, ...]:
    """Return the pairs of scales under which a conclusion about scale must hold."""
    ours, theirs = source[0], target[0]
    pairs = [(ours, theirs, 0)]
    if not one_data_set:
        if ours.factor * theirs.factor > SAME_SCALE:
            pairs += [(ours, theirs, 1), (ours, theirs, -1)]
        pairs += [(other, theirs, 0) for other in source[1:]] + [(ours, other, 0) for other in target[1:]]
    return tuple(_candidate(pair, ours.input_mpp / theirs.input_mpp, alone=len(pairs) == 1) for pair in pairs)


def _candidate(pair: tuple[Reading, Reading, int], stated_ratio: float, *, alone: bool) -> ScaleCandidate:
    source, target, sign = pair
    source_mpp = source.input_mpp * source.factor**-sign
    target_mpp = target.input_mpp * target.factor**sign
    words = f"source {source_mpp:.3g}{_by(source)}, target {target_mpp:.3g}{_by(target)} um/px"
    return ScaleCandidate(source_mpp, target_mpp, "" if alone else words, stated_ratio * target_mpp / source_mpp)


def _by(reading: Reading) -> str:
    return f" ({reading.name})" if reading.name else ""


def _ratio(table: pl.DataFrame, mpp_by_magnification: dict[str, float]) -> float | None:
    """Return the other reading's um/px over the stated ones; None where it does not speak about these tiles."""
    other = (
        table["magnification"].fill_null("").replace_strict(mpp_by_magnification, default=None, return_dtype=pl.Float64)
    )
    ratio = (other / table["mpp"]).drop_nulls().median()
    return None if ratio is None else float(ratio)  # type: ignore[arg-type]
