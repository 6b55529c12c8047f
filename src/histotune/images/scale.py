"""How many micrometres a pixel is, by the size of nuclei: groups are the unit, a prior is the ruler."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from histotune.datasets.read import known_specs
from histotune.datasets.splits.folds import keyed_hash
from histotune.images.config import LoaderConfig, ScaleConfig
from histotune.images.decode import PixelReader, tile_sources
from histotune.images.nuclei import TOO_SMALL, TileNuclei, nuclear_diameter
from histotune.images.priors import find_prior, known_ratios
from histotune.images.scale_fit import APPARENT, METHOD_FACTOR, Z95, Fit, combined_factor, fit_scale, interval
from histotune.images.scale_records import CandidateCheck, How, MagnificationScale, RatioCheck, ScaleEstimate
from histotune.tools.errors import UserError, raise_together
from histotune.tools.progress import track
from histotune.tools.provenance import cpu_count

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from histotune.datasets.tileset import TileSet
    from histotune.images.decode import PixelSource
    from histotune.images.priors import NuclearPrior
# N tiles, G groups, M magnifications

MAX_ERRORS = 20
NO_GROUP = "unknown"
CONTRADICTS = "its nuclei contradict the known ratios to the finer magnifications"


def estimate_scale(
    tiles: TileSet, config: ScaleConfig | None = None, loader: LoaderConfig | None = None
) -> ScaleEstimate:
    """Measure the scale of a data set from its nuclei.

    Args:
        tiles: The data set.
        config: Which tissue, how many tiles.
        loader: How pixels are read.

    Returns:
        Diameters, ratios between magnifications, um/px with its uncertainty, and the scales on record judged by it.

    Raises:
        UserError: Tiles that can't be read (listed together), or an unknown tissue.

    Example:
        >>> estimate = estimate_scale(read_dataset(dataset))  # doctest: +SKIP
        >>> estimate.settings("source")  # doctest: +SKIP
    """
    config, loader = config or ScaleConfig(), loader or LoaderConfig()
    prior = find_prior(tiles.name, config)
    chosen = choose_tiles(tiles, config.max_tiles, config.seed)
    nuclei = measure_tiles(tile_sources(chosen), loader)
    measured = _tile_table(chosen, nuclei)
    names = _magnifications(tiles.name, measured)
    ratios = known_ratios(tiles.name, names)
    log_ratio_M = np.log([ratios[name] for name in names]) if ratios else None
    log_GM = _by_group(measured, names)
    fit = fit_scale(log_GM, log_ratio_M, prior.diameter_um, config.n_resamples, np.random.default_rng(config.seed))
    scales = tuple(_magnification(measured, fit, log_ratio_M, prior, place) for place in enumerate(names))
    return ScaleEstimate(
        dataset=tiles.name,
        synthetic=tiles.synthetic,
        prior=prior,
        magnifications=scales,
        ratios=_ratio_checks(fit, names, log_ratio_M),
        candidates=_candidate_checks(tiles.name, scales, prior),
        notes=_notes(tiles, chosen, measured, scales),
        tiles=measured,
    )


def choose_tiles(tiles: TileSet, max_tiles: int, seed: int) -> TileSet:
    """Choose tiles spread evenly over magnifications and, within each, over groups.

    Args:
        tiles: The data set.
        max_tiles: Upper limit; 0 keeps all.
        seed: Seed of the choice.

    Returns:
        The chosen tiles, by tile id, whatever order they came in.
    """
    if not 0 < max_tiles < len(tiles):
        return tiles.take(np.asarray(tiles.table["tile_id"].arg_sort().to_numpy(), np.int64))
    key = pl.Series("key", [keyed_hash(seed, tile_id) for tile_id in tiles.table["tile_id"]], dtype=pl.UInt64)
    ranked = tiles.table.select("tile_id", "magnification", "group_id").with_columns(key, row=pl.int_range(pl.len()))
    ranked = ranked.sort("key", "tile_id").with_columns(turn=pl.int_range(pl.len()).over("magnification", "group_id"))
    ranked = ranked.sort("turn", "key").with_columns(place=pl.int_range(pl.len()).over("magnification"))
    kept = ranked.sort("place", "magnification").head(max_tiles).sort("tile_id")
    return tiles.take(kept["row"].to_numpy().astype(np.int64))


def measure_tiles(sources: Sequence[PixelSource], loader: LoaderConfig) -> tuple[TileNuclei, ...]:
    """Measure the nuclei of tiles, several at a time.

    Args:
        sources: Where their pixels are.
        loader: How pixels are read.

    Returns:
        One record per tile, in order.

    Raises:
        UserError: Tiles that can't be read, up to 20 in one message.
    """
    with PixelReader(loader) as reader, ThreadPoolExecutor(loader.workers or cpu_count()) as pool:

        def measure(source: PixelSource) -> TileNuclei | UserError:
            try:
                return nuclear_diameter(reader.pixels(source))
            except UserError as error:
                return error

        answers = list(track(pool.map(measure, sources), "measuring nuclei", total=len(sources)))
    raise_together([answer for answer in answers if isinstance(answer, UserError)][:MAX_ERRORS])
    return tuple(answer for answer in answers if isinstance(answer, TileNuclei))


def _tile_table(chosen: TileSet, nuclei: tuple[TileNuclei, ...]) -> pl.DataFrame:
    columns = chosen.table.select(
        "tile_id", pl.col("magnification").fill_null(""), pl.col("group_id").fill_null(NO_GROUP)
    )
    return columns.with_columns(
        pl.Series("diameter_px", [item.diameter_px for item in nuclei], dtype=pl.Float64),
        pl.Series("n_nuclei", [item.n_nuclei for item in nuclei], dtype=pl.Int64),
        pl.Series("reason", [item.reason for item in nuclei], dtype=pl.String),
    )


def _magnifications(dataset: str, measured: pl.DataFrame) -> tuple[str, ...]:
    """Return the labels that were looked at and, where ratios are known, those that then follow, 40X before 100X."""
    present = set(measured["magnification"])
    spec = known_specs().get(dataset)
    on_record = {name for scale in spec.scales for name in scale.mpp_by_magnification} if spec else set()
    names = present | on_record if known_ratios(dataset, tuple(present | on_record)) else present
    return tuple(sorted(names, key=lambda name: (int(name[:-1]) if name[:-1].isdigit() else 0, name)))


def _by_group(measured: pl.DataFrame, names: tuple[str, ...]) -> NDArray[np.float64]:
    """Median log diameter per group and magnification; minus infinity where nuclei are too small, NaN without any."""
    log = pl.when(pl.col("reason") == TOO_SMALL).then(-math.inf).otherwise(pl.col("diameter_px").log())
    usable = measured.with_columns(log=log).filter((pl.col("reason") == "") | (pl.col("reason") == TOO_SMALL))
    groups = {group: row for row, group in enumerate(sorted(measured["group_id"].unique().to_list()))}
    log_GM = np.full((len(groups), len(names)), np.nan)
    for group, magnification, value in usable.group_by("group_id", "magnification").agg(pl.col("log")).iter_rows():
        log_GM[groups[group], names.index(magnification)] = np.median(value)
    return log_GM


def _magnification(
    measured: pl.DataFrame,
    fit: Fit,
    log_ratio_M: NDArray[np.float64] | None,
    prior: NuclearPrior,
    place: tuple[int, str],
) -> MagnificationScale:
    column, name = place
    here = measured.filter(pl.col("magnification") == name)
    usable = here.filter((pl.col("reason") == "") | (pl.col("reason") == TOO_SMALL))
    log = float(fit.log_M[column])
    alone = math.isfinite(log)
    low, high = interval(fit.resampled_RM[:, column]) if alone else (math.nan, math.nan)
    alone_mpp = APPARENT * prior.diameter_um / math.exp(log) if alone else math.nan
    joint = log_ratio_M is not None and math.isfinite(fit.log_unit)
    how: How = "not estimable"
    mpp, error = math.nan, math.nan
    if joint and log_ratio_M is not None:
        how, mpp, error = "joint fit", math.exp(fit.log_unit + log_ratio_M[column]), fit.unit_error
    elif alone:
        how, mpp, error = "measured", alone_mpp, float(fit.error_M[column])
    sampling = math.exp(Z95 * error) if math.isfinite(error) else math.nan
    return MagnificationScale(
        magnification=name,
        n_tiles=len(here),
        n_estimable=int((here["reason"] == "").sum()),
        n_groups=usable.filter(pl.col("group_id") != NO_GROUP)["group_id"].n_unique(),
        diameter_px=math.exp(log) if alone else math.nan,
        low_px=math.exp(low),
        high_px=math.exp(high),
        mpp_alone=alone_mpp,
        mpp=mpp,
        mpp_factor=combined_factor(prior.factor, METHOD_FACTOR, sampling) if how != "not estimable" else math.nan,
        how=how,
        reason=_reason(here, alone, trusted=not joint or bool(fit.used_M[column])),
    )


def _reason(here: pl.DataFrame, alone: bool, trusted: bool) -> str:
    if alone:
        return "" if trusted else CONTRADICTS
    if here.is_empty():
        return "no tile was looked at"
    counted = here.filter(pl.col("reason") != "").group_by("reason").agg(n=pl.len()).sort("n", "reason")
    return str(counted["reason"][-1])


def _ratio_checks(fit: Fit, names: tuple[str, ...], log_ratio_M: NDArray[np.float64] | None) -> tuple[RatioCheck, ...]:
    """Compare every pair of measured magnifications, the coarser first."""
    if log_ratio_M is None:
        return ()
    measured = [column for column in range(len(names)) if np.isfinite(fit.log_M[column])]
    checks = []
    for place, coarse in enumerate(measured):
        for fine in measured[place + 1 :]:
            with np.errstate(invalid="ignore"):
                resampled_R = fit.resampled_RM[:, fine] - fit.resampled_RM[:, coarse]
            low, high = interval(resampled_R)
            ratio = math.exp(fit.log_M[fine] - fit.log_M[coarse])
            expected = math.exp(log_ratio_M[coarse] - log_ratio_M[fine])
            checks.append(RatioCheck(names[fine], names[coarse], ratio, math.exp(low), math.exp(high), expected))
    return tuple(checks)


def _candidate_checks(
    dataset: str, scales: tuple[MagnificationScale, ...], prior: NuclearPrior
) -> tuple[CandidateCheck, ...]:
    """Turn the measured diameters into micrometres at every scale on record."""
    spec = known_specs().get(dataset)
    checks = []
    for candidate in spec.scales if spec else ():
        for scale in scales:
            mpp = candidate.mpp_by_magnification.get(scale.magnification)
            if mpp is None or not math.isfinite(scale.mpp):
                continue
            nucleus_um = prior.diameter_um * mpp / scale.mpp
            allowed = combined_factor(scale.mpp_factor, candidate.factor)
            supported = abs(math.log(mpp / scale.mpp)) <= math.log(allowed)
            checks.append(CandidateCheck(candidate.source, scale.magnification, mpp, nucleus_um, supported))
    return tuple(checks)


def _notes(
    tiles: TileSet, chosen: TileSet, measured: pl.DataFrame, scales: tuple[MagnificationScale, ...]
) -> tuple[str, ...]:
    notes = []
    if len(chosen) < len(tiles):
        notes.append(f"Looked at {len(chosen):,} of {len(tiles):,} tiles, spread over magnifications and groups.")
    skipped = measured.filter(~pl.col("reason").is_in(["", TOO_SMALL])).group_by("reason").agg(n=pl.len())
    for reason, n in skipped.sort("n", "reason", descending=[True, False]).iter_rows():
        notes.append(f"{n:,} {'tile says' if n == 1 else 'tiles say'} nothing about scale: {reason}.")
    for scale in scales:
        if not scale.reason:
            continue
        then = "its value follows from the others by the known ratios" if scale.how == "joint fit" else "no value"
        what = "is left out of the fit" if scale.reason == CONTRADICTS else "is not estimable alone"
        notes.append(f"{scale.magnification or 'The scale'} {what} ({scale.reason}): {then}.")
    if (measured["group_id"] == NO_GROUP).any():
        notes.append("Groups are unknown for some tiles; these count as one group, so sampling says little.")
    return tuple(notes)
