"""What a view can't do to a tile set, found before anything is embedded; and what it does, in sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from histotune.images.scale_words import text_table
from histotune.images.views import MAX_INPUTS, MAX_RESIZED_PIXELS, ViewGeometry, view_geometry
from histotune.tools.errors import UserError, raise_together

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from histotune.datasets.tileset import LabelRegion, TileSet
    from histotune.images.config import ViewConfig

# N tiles, 2 axes: x, y


ROUNDING_PX = 1e-9  # a region that ends exactly at the crop's edge is inside


def check_view(tiles: TileSet, view: ViewConfig) -> ViewGeometry:
    """Refuse a view that can't be made of these tiles, or that changes what their labels mean.

    Tiles whose size is unknown are judged when they are decoded.

    Args:
        tiles: The tiles.
        view: The view.

    Returns:
        What the view makes of every tile.

    Raises:
        UserError: Unknown mpp under ``target_mpp``, images that become too large or need too many crops, images that
            a letterbox would have to cut, or a label's region that is moved or cut; all reported together.
    """
    geometry = view_geometry(tiles, view)
    moved = None if view.allow_moved_label else _moved_label(tiles, view, geometry)
    raise_together([*_mistakes(tiles, view, geometry), *([] if moved is None else [moved])])
    return geometry


def moves_label(tiles: TileSet, view: ViewConfig) -> bool:
    """Return whether the view moves or cuts the region that some tile's label speaks about."""
    return _moved_label(tiles, view, view_geometry(tiles, view)) is not None


def view_notes(tiles: TileSet, view: ViewConfig) -> tuple[str, ...]:
    """Return what a view hides, adds or invents, one sentence each (law 6)."""
    notes = tuple(_notes(view, view_geometry(tiles, view)))
    return (*notes, _moved_note(tiles)) if moves_label(tiles, view) else notes


def _mistakes(tiles: TileSet, view: ViewConfig, geometry: ViewGeometry) -> Iterator[UserError]:
    """Yield why the view can't be made of these tiles."""
    n_unknown = int((~(np.isfinite(geometry.mpp_N) & (geometry.mpp_N > 0))).sum())
    if view.target_mpp is not None and n_unknown:
        yield UserError(
            f"view.target_mpp={view.target_mpp:g} needs the scale of every tile, and {n_unknown:,} of {len(tiles):,} "
            f"tiles of {tiles.name} have no mpp",
            fix="give it in um/px: --set source.mpp=0.25 (a second data set: --set target.mpp=0.25; histotune predict: "
            "--mpp 0.25)",
        )
    large_N = geometry.resized_px_N2.prod(axis=1, dtype=np.float64) > MAX_RESIZED_PIXELS
    if large_N.any():
        yield UserError(
            f"{_count(large_N)} of {tiles.name} would be resized to more than {MAX_RESIZED_PIXELS:,} pixels",
            value=view.words,
            fix=_larger_target(view, "cut them into smaller tiles"),
        )
    cut_N = np.asarray((geometry.resized_px_N2 > view.size_px).any(axis=1))
    if view.name == "letterbox" and cut_N.any():
        long_um = geometry.mpp_N * geometry.source_px_N2.max(axis=1)
        least_mpp = float(long_um[cut_N].max()) / view.size_px
        yield UserError(
            f"a letterbox shows whole tiles, and {_count(cut_N)} of {tiles.name} do not fit into {view.size_px} px at "
            "this scale",
            value=view.words,
            allowed=f"view.target_mpp of at least {least_mpp:.3g} um/px",
            fix="--set view.name=tiles covers them with crops, --set view.name=short-side-crop shows their centre",
        )
    many_N = geometry.n_inputs_N > MAX_INPUTS
    if many_N.any():
        yield UserError(
            f"{_count(many_N)} of {tiles.name} would need up to {geometry.n_inputs_N.max():,} crops",
            value=view.words,
            allowed=f"at most {MAX_INPUTS} crops per tile",
            fix=_larger_target(view, "cut them into smaller tiles"),
        )


def _moved_label(tiles: TileSet, view: ViewConfig, geometry: ViewGeometry) -> UserError | None:
    """Judge the label's region; the centre of a tile stays the centre of the input in every view of one input.

    A crop around the centre, padding on both sides and a change of aspect all keep it there, to within the half pixel
    that an odd remainder costs.
    """
    region = tiles.label_region
    if region is None:
        return None
    moved_N = geometry.n_inputs_N > 1
    cut_N = np.asarray(geometry.known_N & ~moved_N & ~_region_inside(region, geometry))
    if not (moved_N | cut_N).any():
        return None
    what = [f"moves it in {_count(moved_N)} (several crops)"] if moved_N.any() else []
    what += [f"cuts it in {_count(cut_N)}"] if cut_N.any() else []
    return UserError(
        f"a label of {tiles.name} speaks of the {region.width_px} x {region.height_px} px at ({region.left_px}, "
        f"{region.top_px}) of its tile, and the view {' and '.join(what)}, which changes what the label means",
        value=view.words,
        fix=_larger_target(view, "--set view.name=short-side-crop")
        + ", or accept it with --set view.allow_moved_label=true; every result will say so",
    )


def _region_inside(region: LabelRegion, geometry: ViewGeometry) -> NDArray[np.bool_]:
    """Whether the one network input of a tile holds the whole region."""
    # The centre crop begins at (resized - side) / 2; rounded and brought back to the stored image's pixels, it must
    # hold the region from its first to its last pixel.
    sides_N2 = np.where(geometry.known_N[:, None], geometry.source_px_N2, 1)
    first_N2 = np.maximum((geometry.resized_px_N2 - geometry.size_px) / 2, 0.0)
    first_N2 = np.rint(first_N2) * sides_N2 / np.maximum(geometry.resized_px_N2, 1)
    start_2 = np.array([region.left_px, region.top_px])
    stop_2 = start_2 + np.array([region.width_px, region.height_px])
    inside_N2 = (start_2 >= first_N2 - ROUNDING_PX) & (stop_2 <= first_N2 + geometry.visible_px_N2 + ROUNDING_PX)
    return np.asarray(inside_N2.all(axis=1))


def _notes(view: ViewConfig, geometry: ViewGeometry) -> Iterator[str]:
    """Yield what the view does to the pixels of tiles of known size."""
    known_N, seen_N, padding_N = geometry.known_N, geometry.seen_share_N, geometry.padded_share_N
    cropped_N = known_N & (seen_N < 1.0 - ROUNDING_PX)
    if cropped_N.any():
        yield f"The view cuts {_count(cropped_N)}: the network sees {_percent(seen_N[cropped_N])} of their area."
    padded_N = known_N & (padding_N > 0.0)
    if padded_N.any():
        yield (
            f"The view pads {_count(padded_N)} with RGB {view.pad_rgb}: {_percent(padding_N[padded_N])} of the "
            "network's input is padding."
        )
    enlarged_N = geometry.enlarged_N
    if enlarged_N.any():
        mpp_N = geometry.mpp_N[enlarged_N & np.isfinite(geometry.mpp_N)]
        finest = f"{mpp_N.min():.3g} um/px" if len(mpp_N) else "the stored pixels"
        yield f"The view enlarges {_count(enlarged_N)}: there the network sees no more detail than {finest} hold."
    n_N = geometry.n_inputs_N[known_N]
    if (n_N > 1).any():
        crops = f"{n_N.max()}" if n_N.min() == n_N.max() else f"{n_N.min()} to {n_N.max()}"
        yield f"The view covers each tile with {crops} crops and averages their embeddings."


def _moved_note(tiles: TileSet) -> str:
    region = tiles.label_region
    assert region is not None
    return (
        f"LABEL MOVED: a label speaks of the {region.width_px} x {region.height_px} px at ({region.left_px}, "
        f"{region.top_px}) of its tile, and the view moves or cuts them; scores mean something else than the data "
        "set's own task."
    )


def _larger_target(view: ViewConfig, otherwise: str) -> str:
    return otherwise if view.target_mpp is None else "choose a larger --set view.target_mpp=..., or the default view"


def _percent(share_N: NDArray[np.float64]) -> str:
    low, high = round(100 * float(share_N.min())), round(100 * float(share_N.max()))
    return f"{low} %" if low == high else f"{low} to {high} % (median {round(100 * float(np.median(share_N)))} %)"


def _count(which_N: NDArray[np.bool_]) -> str:
    n = int(which_N.sum())
    return f"{n:,} tile{'' if n == 1 else 's'}"


# ---- Scale and field of view ----


KEYS = ("magnification", "mpp", "mpp_source", "mpp_factor", "width_px", "height_px")


def fields_of_view(tiles: TileSet, view: ViewConfig) -> pl.DataFrame:
    """Return scale and field of view for every kind of tile in a data set; unknown figures are NaN, unknown sizes 0.

    ``tile_um`` is the field of the stored tile, ``network_um`` that of the tissue which the network sees: padding is
    none. ``mpp_factor`` is the multiplicative uncertainty that every figure in um shares.
    """
    number = pl.col("magnification").str.extract(r"^(\d+)").cast(pl.Int64)
    kinds = (
        tiles.table.with_row_index("first")
        .group_by(KEYS)
        .agg(pl.col("first").min(), n_tiles=pl.len())
        .sort(number, "magnification", "mpp", "width_px", "height_px", nulls_last=True)
    )
    geometry = view_geometry(tiles.take(kinds["first"].to_numpy().astype(np.int64)), view)
    return kinds.select(
        pl.col("magnification", "mpp_source").replace("", None).fill_null("unknown"),
        pl.col("mpp", "mpp_factor").fill_null(float("nan")),
        pl.col("width_px", "height_px").fill_null(0),
        "n_tiles",
        *(pl.Series(f"input_{axis}_mpp", geometry.input_mpp_N2[:, place]) for place, axis in enumerate("xy")),
        *(
            pl.Series(f"network_{side}_um", geometry.field_um_N2[:, place])
            for place, side in enumerate(("width", "height"))
        ),
    ).with_columns(
        pl.when(pl.col(f"{side}_px") > 0)
        .then(pl.col("mpp") * pl.col(f"{side}_px"))
        .otherwise(float("nan"))
        .alias(f"tile_{side}_um")
        for side in ("width", "height")
    )


def render_fields(tiles: TileSet, view: ViewConfig, backbone: str) -> str:
    """Write scale and field of view as plain text for the terminal."""
    title = f"Scale and field of view: input of {backbone} ({view.words}); figures in um are as sure as mpp_factor"
    rows = [
        {
            **{name: field[name] for name in ("magnification", "mpp", "mpp_source", "mpp_factor")},
            "tile_px": "{width_px} x {height_px}".format(**field)
            if field["width_px"] * field["height_px"]
            else "unknown",
            "tile_um": _pair(field["tile_width_um"], field["tile_height_um"], " x "),
            "input_mpp (x, y)": _pair(field["input_x_mpp"], field["input_y_mpp"], ", "),
            "network_um": _pair(field["network_width_um"], field["network_height_um"], " x "),
            "tiles": field["n_tiles"],
        }
        for field in fields_of_view(tiles, view).iter_rows(named=True)
    ]
    return text_table(title, rows)


def _pair(first: float, second: float, joint: str) -> str:
    return "unknown" if np.isnan(first) or np.isnan(second) else f"{first:.4g}{joint}{second:.4g}"
