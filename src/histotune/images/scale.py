"""How many micrometres a pixel is, by the size of nuclei: groups are the unit, a prior is the ruler."""

from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import polars as pl

from histotune.datasets.dataset_spec import known_specs
from histotune.datasets.splits.folds import keyed_hash
from histotune.images.config import LoaderConfig, ScaleConfig
from histotune.images.decode import PixelReader, tile_sources
from histotune.images.nuclei import TOO_SMALL, TileNuclei, nuclear_diameter
from histotune.images.scale_doubts import (
    CLASSES_APART,
    MOST,
    NO_RULER,
    TOO_UNSURE,
    classes_apart,
    doubts_of,
    looks_enlarged,
)
from histotune.tools.errors import UserError, raise_together
from histotune.tools.progress import track
from histotune.tools.provenance import cpu_count

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from histotune.datasets.tileset import TileSet
    from histotune.images.decode import PixelSource

    Doubles = NDArray[np.float64]

# N tiles, G groups, M magnifications, R resamples


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
    scales = tuple(_magnification(measured, fit, log_ratio_M, prior, column, name) for column, name in enumerate(names))
    return ScaleEstimate(
        dataset=tiles.name,
        synthetic=tiles.synthetic,
        prior=prior,
        magnifications=scales,
        ratios=_ratio_checks(fit, names, log_ratio_M),
        candidates=_candidate_checks(tiles.name, scales, prior),
        notes=tuple(_notes(tiles, chosen, measured, scales)),
        tiles=measured,
    )


def choose_tiles(tiles: TileSet, max_tiles: int, seed: int) -> TileSet:
    """Choose tiles spread evenly over magnifications and, within each, over groups."""
    if not 0 < max_tiles < len(tiles):
        return tiles.take(np.asarray(tiles.table["tile_id"].arg_sort().to_numpy(), np.int64))
    key = pl.Series("key", [keyed_hash(seed, tile_id) for tile_id in tiles.table["tile_id"]], dtype=pl.UInt64)
    ranked = tiles.table.select("tile_id", "magnification", "group_id").with_columns(key, row=pl.int_range(pl.len()))
    ranked = ranked.sort("key", "tile_id").with_columns(turn=pl.int_range(pl.len()).over("magnification", "group_id"))
    ranked = ranked.sort("turn", "key").with_columns(place=pl.int_range(pl.len()).over("magnification"))
    kept = ranked.sort("place", "magnification").head(max_tiles).sort("tile_id")
    return tiles.take(kept["row"].to_numpy().astype(np.int64))


def measure_tiles(sources: Sequence[PixelSource], loader: LoaderConfig) -> tuple[TileNuclei, ...]:
    """Measure the nuclei of tiles, several at a time."""
    with PixelReader(loader) as reader, ThreadPoolExecutor(loader.workers or cpu_count()) as pool:

        def measure(source: PixelSource) -> TileNuclei | UserError:
            """Measure the nuclei of one tile, or return why it can't be read."""
            try:
                return nuclear_diameter(reader.pixels(source))
            except UserError as error:
                return error

        answers = list(track(pool.map(measure, sources), "measuring nuclei", total=len(sources)))
    raise_together([answer for answer in answers if isinstance(answer, UserError)][:MAX_ERRORS])
    return tuple(answer for answer in answers if isinstance(answer, TileNuclei))


def _tile_table(chosen: TileSet, nuclei: tuple[TileNuclei, ...]) -> pl.DataFrame:
    names = dict(enumerate(chosen.class_names))
    columns = chosen.table.select(
        "tile_id",
        pl.col("magnification").fill_null(""),
        pl.col("group_id").fill_null(NO_GROUP),
        pl.col("label").replace_strict(names, default=None, return_dtype=pl.String),
    )
    return columns.with_columns(
        pl.Series("diameter_px", [item.diameter_px for item in nuclei], dtype=pl.Float64),
        pl.Series("n_nuclei", [item.n_nuclei for item in nuclei], dtype=pl.Int64),
        pl.Series("reason", [item.reason for item in nuclei], dtype=pl.String),
        pl.Series("enlarged", [item.enlarged for item in nuclei], dtype=pl.Boolean),
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
    column: int,
    name: str,
) -> MagnificationScale:
    """Put together what is known of one magnification, the ``column`` of the fit."""
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
    doubts = doubts_of(here, math.exp(log) if alone and how == "measured" else math.nan)
    factor = combined_factor(prior.factor, METHOD_FACTOR, sampling, *(doubt.factor for doubt in doubts))
    refused = NO_RULER if classes_apart(here) > CLASSES_APART else TOO_UNSURE if factor > MOST else ""
    if how == "measured" and refused:
        how, mpp = "not estimable", math.nan
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
        mpp_factor=factor if how != "not estimable" else math.nan,
        how=how,
        reason=(not joint and alone and refused) or _reason(here, alone, trusted=not joint or bool(fit.used_M[column])),
        doubts=tuple(doubt.words for doubt in doubts),
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
) -> Iterator[str]:
    if len(chosen) < len(tiles):
        yield f"Looked at {len(chosen):,} of {len(tiles):,} tiles, spread over magnifications and groups."
    skipped = measured.filter(~pl.col("reason").is_in(["", TOO_SMALL])).group_by("reason").agg(n=pl.len())
    for reason, n in skipped.sort("n", "reason", descending=[True, False]).iter_rows():
        yield f"{n:,} {'tile says' if n == 1 else 'tiles say'} nothing about scale: {reason}."
    for scale in scales:
        if not scale.reason:
            continue
        then = "its value follows from the others by the known ratios" if scale.how == "joint fit" else "no value"
        what = "is left out of the fit" if scale.reason == CONTRADICTS else "is not estimable alone"
        yield f"{scale.magnification or 'The scale'} {what} ({scale.reason}): {then}."
    for scale in scales:
        if scale.doubts and scale.how == "measured":
            where = f" of {scale.magnification}" if scale.magnification else ""
            yield f"The uncertainty{where} is larger because {'; because '.join(scale.doubts)}."
    if looks_enlarged(measured):
        yield (
            "Most images look as if they had been enlarged: their pixels show less than their size says. The scale is "
            "that of the pixels as they are; the detail is that of a coarser one."
        )
    if (measured["group_id"] == NO_GROUP).any():
        yield "Groups are unknown for some tiles; these count as one group, so sampling says little."


# ---- From diameters to one scale ----
#
# Nuclei that are too small to measure enter as minus infinity: a median stays right as long as fewer than half are, and
# says so when not.


Z95 = 1.96
METHOD_FACTOR = 1.25  # crowding, chromatin, texture: rendered tissue, also with stained stroma, measures 0.8 to 1.04
APPARENT = 0.92  # of their true diameter: drawn discs that cover 30 % of the plane, as nuclei do where cells are
BETWEEN_GROUPS = 0.15  # log deviation of typical diameters between cases: low to high grade is 7.5 to 9.6 um


@dataclass(frozen=True)
class Fit:
    """Medians with their uncertainty.

    Attributes:
        log_M: Log diameter in px; NaN without data, minus infinity where nuclei are too small.
        resampled_RM: The same for resampled groups.
        error_M: Standard error of ``log_M``; NaN where there is no finite value.
        log_unit: Log of um/px at 1X by the joint fit; NaN where no magnification was measured or ratios are unknown.
        unit_error: Its standard error by sampling of groups.
        used_M: Magnifications in the joint fit.
    """

    log_M: Doubles
    resampled_RM: Doubles
    error_M: Doubles
    log_unit: float
    unit_error: float
    used_M: NDArray[np.bool_]


def fit_scale(
    log_GM: Doubles, log_ratio_M: Doubles | None, prior_um: float, n_resamples: int, rng: np.random.Generator
) -> Fit:
    """Take medians over groups and, where ratios are known, fit one factor to all magnifications that agree.

    Blur and clumps make small nuclei look large, so the finest magnification is trusted first; a coarser one joins
    only where its nuclei stand in the known ratio to the finer ones within what sampling and method explain.
    """
    log_M = _median(log_GM[None])[0]
    # Bootstrap over groups: whole groups are drawn again, and the spread of their medians is the error.
    drawn_RG = rng.integers(0, len(log_GM), (n_resamples, len(log_GM)))
    resampled_RM = _median(log_GM[drawn_RG])
    finite_M = np.isfinite(log_M)
    n_M = np.sum(~np.isnan(log_GM), axis=0)
    error_M = np.array([_error(resampled_R, int(n)) for resampled_R, n in zip(resampled_RM.T, n_M, strict=True)])
    error_M[~finite_M] = np.nan
    if log_ratio_M is None or not finite_M.any():
        return Fit(log_M, resampled_RM, error_M, math.nan, math.nan, finite_M & False)
    # In logarithms um/px = apparent um - nucleus in px = unit + ratio: each magnification gives one unit, and those
    # that agree are averaged by their precision.
    units_M = math.log(APPARENT * prior_um) - log_M - log_ratio_M
    used_M = _agreeing(units_M, error_M, log_ratio_M)
    weighted_M = np.where(used_M, error_M, np.nan)
    log_unit = float(_weighted(units_M[None], weighted_M)[0])
    resampled_R = _weighted(math.log(APPARENT * prior_um) - resampled_RM - log_ratio_M, weighted_M)
    n_groups = int(np.sum(~np.isnan(log_GM[:, used_M]).all(axis=1)))
    return Fit(log_M, resampled_RM, error_M, log_unit, _error(resampled_R, n_groups), used_M)


def combined_factor(*parts: float) -> float:
    """Return the factor of a product of independent factors, each meant as a 95 % range.

    Example:
        >>> round(combined_factor(1.25, 1.0), 2)
        1.25
    """
    return math.exp(math.sqrt(sum(math.log(part) ** 2 for part in parts)))


def interval(values: Doubles) -> tuple[float, float]:
    """Return the 2.5th and 97.5th percentile of the finite values; NaN where there are none."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return math.nan, math.nan
    low, high = np.percentile(finite, [2.5, 97.5])
    return float(low), float(high)


def _median(log_RGM: Doubles) -> Doubles:
    """Return the median over groups, NaN ignored; minus infinity counts as the smallest value."""
    ordered_RGM = np.sort(log_RGM, axis=1)  # NaN last
    n_RM = np.sum(~np.isnan(log_RGM), axis=1)
    low_RM, high_RM = (
        np.take_along_axis(ordered_RGM, np.maximum(rank_RM, 0)[:, None], axis=1)[:, 0]
        for rank_RM in ((n_RM - 1) // 2, n_RM // 2)
    )
    return np.asarray(np.where(n_RM > 0, (low_RM + high_RM) / 2, np.nan))


def _agreeing(units_M: Doubles, error_M: Doubles, log_ratio_M: Doubles) -> NDArray[np.bool_]:
    """Return which magnifications enter the joint fit, taken from the finest to the coarsest."""
    used_M = np.zeros(len(units_M), bool)
    for column in np.argsort(log_ratio_M):
        if not np.isfinite(error_M[column]):
            continue
        if used_M.any():
            so_far = float(_weighted(units_M[None], np.where(used_M, error_M, np.nan))[0])
            error = math.hypot(float(error_M[column]), float(np.sum(1 / error_M[used_M] ** 2)) ** -0.5)
            if abs(units_M[column] - so_far) > math.hypot(math.log(METHOD_FACTOR), Z95 * error):
                continue
        used_M[column] = True
    return used_M


def _error(resampled_R: Doubles, n_groups: int) -> float:
    """Return the bootstrap's standard error, but never less than what cases are known to differ by."""
    finite = resampled_R[np.isfinite(resampled_R)]
    spread = float(finite.std()) if len(finite) > 1 else 0.0
    return max(spread, BETWEEN_GROUPS / math.sqrt(max(n_groups, 1)))


def _weighted(units_RM: Doubles, error_M: Doubles) -> Doubles:
    """Return the mean over magnifications by precision; what is missing has no weight."""
    usable_RM = np.isfinite(units_RM) & np.isfinite(error_M)
    weight_RM = np.where(usable_RM, 1 / np.where(np.isfinite(error_M), error_M, 1.0) ** 2, 0.0)
    total_R = weight_RM.sum(axis=1)
    mean_R = (weight_RM * np.where(usable_RM, units_RM, 0.0)).sum(axis=1) / np.where(total_R > 0, total_R, 1.0)
    return np.asarray(np.where(total_R > 0, mean_R, np.nan))


# ---- What was found ----


How = Literal["measured", "joint fit", "not estimable"]
METHOD = (
    "Haematoxylin by two dyes estimated per image (Macenko et al. 2009) and least squares (Ruifrok and Johnston 2001); "
    "round maxima of the scale-normalised Laplacian of "
    "Gaussian over place and scale (Lindeberg 1998); diameter-weighted median per tile, median over the tiles of a "
    "group, median over groups; bootstrap over groups."
)


@dataclass(frozen=True)
class MagnificationScale:
    """The scale of one magnification.

    Attributes:
        magnification: Label; "" for tiles without one.
        n_tiles: Tiles looked at.
        n_estimable: Tiles whose nuclei could be measured.
        n_groups: Groups with such tiles, or with nuclei too small to measure.
        diameter_px: Typical nuclear diameter as measured, a little less than true; NaN where not estimable.
        low_px: Lower end of its 95 % interval over groups.
        high_px: Upper end.
        mpp_alone: um/px from this magnification alone; NaN where not estimable.
        mpp: um/px to use: from the joint fit where the ratios between magnifications are known.
        mpp_factor: Multiplicative uncertainty of ``mpp``: prior, method and sampling.
        how: Where ``mpp`` comes from.
        reason: Why the magnification is not estimable alone, or not trusted; empty where it is.
        doubts: What made the uncertainty larger, each to follow "because".
    """

    magnification: str
    n_tiles: int
    n_estimable: int
    n_groups: int
    diameter_px: float
    low_px: float
    high_px: float
    mpp_alone: float
    mpp: float
    mpp_factor: float
    how: How
    reason: str = ""
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True)
class RatioCheck:
    """A measured ratio of nuclear diameters beside what the optics demand.

    Attributes:
        fine: The stronger magnification.
        coarse: The weaker one.
        measured: Diameter at ``fine`` over diameter at ``coarse``.
        low: Lower end of the 95 % interval over groups.
        high: Upper end.
        expected: From the magnifications.
    """

    fine: str
    coarse: str
    measured: float
    low: float
    high: float
    expected: float


@dataclass(frozen=True)
class CandidateCheck:
    """What a scale on record would make of the measured nuclei.

    Attributes:
        source: ``nominal`` or ``estimated``.
        magnification: Label; "" for tiles without one.
        mpp: um/px of the candidate.
        nucleus_um: Measured diameter at that scale.
        supported: Whether that is a nucleus, within the uncertainties of prior, method, sampling and candidate.
    """

    source: str
    magnification: str
    mpp: float
    nucleus_um: float
    supported: bool


@dataclass(frozen=True)
class ScaleEstimate:
    """The measured scale of a data set.

    Attributes:
        dataset: Its name.
        synthetic: Whether the tiles were rendered by a program.
        prior: The nuclear diameter that served as the ruler.
        magnifications: One entry per magnification.
        ratios: Every pair of measured magnifications with a known ratio.
        candidates: The scales on record, judged.
        notes: What was assumed or left out.
        tiles: tile_id, magnification, group_id, diameter_px, n_nuclei, reason: one row per tile looked at.
    """

    dataset: str
    synthetic: bool
    prior: NuclearPrior
    magnifications: tuple[MagnificationScale, ...]
    ratios: tuple[RatioCheck, ...]
    candidates: tuple[CandidateCheck, ...]
    notes: tuple[str, ...]
    tiles: pl.DataFrame

    @property
    def adopted(self) -> tuple[MagnificationScale, ...]:
        """The magnifications with a value."""
        return tuple(scale for scale in self.magnifications if scale.how != "not estimable")

    def settings(self, part: str) -> tuple[str, ...]:
        """Return the config fields that adopt this scale."""
        if len(self.adopted) < len(self.magnifications) or not self.magnifications:
            return ()
        factor = f"{part}.mpp_factor={max(scale.mpp_factor for scale in self.adopted):.3g}"
        if [scale.magnification for scale in self.adopted] == [""]:
            return f"{part}.mpp={self.adopted[0].mpp:.4g}", factor
        mapping = {scale.magnification: float(f"{scale.mpp:.4g}") for scale in self.adopted}
        return f"{part}.mpp_by_magnification={json.dumps(mapping, separators=(',', ':'))}", factor

    def as_dict(self) -> dict[str, object]:
        """Return everything as a JSON-ready dict."""
        return {**asdict(replace(self, tiles=pl.DataFrame())), "method": METHOD, "tiles": self.tiles.to_dicts()}


@dataclass(frozen=True)
class NuclearPrior:
    """A typical nuclear diameter in H&E sections.

    Attributes:
        tissue: Where it holds.
        diameter_um: Typical diameter of a nuclear profile.
        factor: Multiplicative uncertainty: the tissue of a data set is taken to lie between diameter / factor and
            diameter * factor, with about 95 % confidence.
        source: Where the numbers come from.
    """

    tissue: str
    diameter_um: float
    factor: float
    source: str


PRIORS = {
    "breast": NuclearPrior(
        "breast tumours, benign and malignant",
        9.0,
        1.25,
        "Tan et al., Modern Pathology 14(10), 2001: mean nuclear areas of 44, 48 and 72 um2 in ductal carcinoma in "
        "situ of low, intermediate and high grade, which are 7.5, 7.8 and 9.6 um as circles; invasive tumour "
        "epithelium is commonly given as 8 to 12 um, and lymphocytes between, 6 to 7 um, pull down.",
    ),
    "lymph-node": NuclearPrior(
        "lymph nodes, with and without metastases",
        7.0,
        1.25,
        "A small lymphocyte's nucleus is about as wide as a red cell, 6 to 7 um; tumour nuclei of 8 to 12 um in a "
        "part of the tiles pull up.",
    ),
}
OTHER_DATA_FACTOR = 1.5
OTHER_DATA = (
    "Whether the nuclei of other data are those of this ruler is not known: organs, grades and mixtures of cells "
    "differ, from 6 um (lymphocytes) to 12 um (tumour epithelium), so that its range is wider here."
)
TISSUE_BY_DATASET = {"breakhis": "breast", "patch_camelyon": "lymph-node"}
# BreakHis was photographed by one camera through four objectives, so its pixels are inverse to the label.
RATIO_DATASETS = ("breakhis",)


def find_prior(dataset: str, config: ScaleConfig) -> NuclearPrior:
    """Return the nuclear diameter that a data set is measured with."""
    if config.nucleus_um is not None:
        return NuclearPrior("the user's own", config.nucleus_um, config.nucleus_factor, "given by the user")
    own = TISSUE_BY_DATASET.get(dataset)
    tissue = config.tissue or own
    if tissue is None:
        raise UserError(
            "nothing says how large nuclei are in this data set",
            value=dataset,
            allowed=f"--tissue {' or '.join(PRIORS)}, or --nucleus-um with your own typical diameter",
            fix="add --tissue or --nucleus-um",
        )
    prior = PRIORS[tissue]
    return prior if tissue == own else replace(prior, factor=OTHER_DATA_FACTOR, source=f"{prior.source} {OTHER_DATA}")


def known_ratios(dataset: str, magnifications: tuple[str, ...]) -> Mapping[str, float]:
    """Return um/px of each magnification over that of a 1X label, where a data set's optics fix the ratios.

    Example:
        >>> known_ratios("breakhis", ("100X", "400X"))
        {'100X': 0.01, '400X': 0.0025}
    """
    if dataset not in RATIO_DATASETS or not all(name.endswith("X") and name[:-1].isdigit() for name in magnifications):
        return {}
    return {name: 1 / int(name[:-1]) for name in magnifications}
