"""The table in the guide is what the code does."""

from __future__ import annotations

from pathlib import Path

import pytest

from histotune.datasets.tileset import TileSet, tile_table
from histotune.images.config import ViewConfig
from histotune.images.view_checks import check_view
from histotune.tools.errors import UserError

GUIDE = Path(__file__).parents[2] / "docs" / "views.md"
BREAKHIS, PCAM = (700, 460, 1.0), (96, 96, 0.972)
VIEWS = [ViewConfig(name=name, target_mpp=mpp) for mpp in (None, 0.5) for name in
         ("short-side-crop", "square", "letterbox", "tiles")]  # fmt: skip


def cell(width_px: int, height_px: int, mpp: float, view: ViewConfig) -> str:
    table = tile_table(
        {"tile_id": ["a"], "path": ["p"], "mpp": [mpp], "width_px": [width_px], "height_px": [height_px]}
    )
    try:
        geometry = check_view(TileSet("one", table, ("a", "b"), "", ""), view)
    except UserError:
        return "refused: does not fit"
    (mpp_x, mpp_y), (um_x, um_y) = geometry.input_mpp_N2[0], geometry.field_um_N2[0]
    (columns, rows), (new_x, new_y) = geometry.inputs_N2[0], geometry.resized_px_N2[0]
    scale = f"{mpp_x:.2f}" if f"{mpp_x:.2f}" == f"{mpp_y:.2f}" else f"{mpp_x:.2f} x {mpp_y:.2f}"
    crops = f", {columns} x {rows} crops" if columns * rows > 1 else ""
    padded = geometry.padded_share_N[0]
    pad = f", {padded:.0%} of the input padded".replace("%", " %") if padded > 0 else ""
    share = f"{geometry.seen_share_N[0]:.0%}".replace("%", " %")
    return f"{new_x} x {new_y} px{crops}; {scale} um/px; {um_x:.0f} x {um_y:.0f} um, {share}{pad}"


def row(view: ViewConfig) -> str:
    scale = "" if view.target_mpp is None else f", `target_mpp={view.target_mpp:g}`"
    return f"| `{view.name}`{scale} | {cell(*BREAKHIS, view)} | {cell(*PCAM, view)} |"


@pytest.mark.skipif(not GUIDE.is_file(), reason="needs a checkout")
@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.words)
def test_the_guide_says_what_the_network_sees(view: ViewConfig) -> None:
    assert row(view) in GUIDE.read_text(encoding="utf-8").splitlines()
