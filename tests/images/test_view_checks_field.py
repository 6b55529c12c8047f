"""Scale and field of view per view: native um/px times source over network pixels, for every kind of tile."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from histotune.datasets.tileset import TileSet, tile_table
from histotune.images.config import ViewConfig
from histotune.images.scale_words import text_table
from histotune.images.view_checks import fields_of_view, render_fields


def tiles() -> TileSet:
    rows: dict[str, object] = {
        "tile_id": list("abcde"), "path": ["p"] * 5, "magnification": ["400X", "40X", "40X", "40X", None],
        "mpp": [0.25, 2.5, 2.5, 2.5, None], "mpp_source": ["estimated"] * 4 + [None],
        "mpp_factor": [1.25] * 4 + [None], "width_px": [700] * 4 + [None], "height_px": [460, 460, 460, 456, None],
    }  # fmt: skip
    return TileSet("t", tile_table(rows), ("a", "b"), "", "")


def test_fields_of_tile_and_network() -> None:
    table = fields_of_view(tiles(), ViewConfig())
    coarse_456, coarse, fine, unknown = (SimpleNamespace(**row) for row in table.iter_rows(named=True))
    assert (coarse.magnification, coarse.n_tiles, coarse_456.n_tiles) == ("40X", 2, 1)
    assert (coarse.tile_width_um, coarse.tile_height_um) == (1750, 1150)
    assert coarse.input_x_mpp == pytest.approx(2.5 * 700 / 340)
    assert coarse.input_y_mpp == pytest.approx(2.5 * 460 / 224)
    assert coarse.network_height_um == pytest.approx(1150)
    assert coarse.network_width_um == pytest.approx(224 * 2.5 * 700 / 340)
    assert fine.network_height_um == pytest.approx(115)
    assert (fine.mpp_source, fine.mpp_factor) == ("estimated", 1.25)
    assert (unknown.magnification, unknown.mpp_source, unknown.width_px) == ("unknown", "unknown", 0)
    assert np.isnan([unknown.mpp, unknown.input_x_mpp, unknown.tile_width_um]).all()


def test_the_view_decides_what_the_network_sees() -> None:
    small, large = (fields_of_view(tiles(), ViewConfig(size_px=size)).row(1, named=True) for size in (224, 448))
    assert small["input_y_mpp"] == pytest.approx(2 * large["input_y_mpp"])
    assert small["network_height_um"] == pytest.approx(large["network_height_um"])


def test_text_names_the_backbone_and_says_unknown() -> None:
    text = render_fields(tiles(), ViewConfig(), "lite0")
    assert "input of lite0 (short-side-crop 224 px, bicubic)" in text
    assert "1750 x 1150" in text
    assert "unknown" in text
    assert "nan" not in text


def test_tables_align_and_need_rows() -> None:
    assert text_table("t", []) == ""
    lines = text_table("t", [{"name": "x", "n": 1000}, {"name": "longer", "n": 2}]).splitlines()
    assert lines == ["t", "  name        n", "  x       1,000", "  longer      2"]
