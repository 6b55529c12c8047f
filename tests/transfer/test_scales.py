"""Pairs of scales under which a conclusion must hold."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from histotune.datasets.tileset import TileSet, tile_table
from histotune.transfer.scales import Reading, scale_candidates, scale_readings


def made_tiles(name: str, mpp: float, source: str, factor: float, magnification: str | None = "100X") -> TileSet:
    table = tile_table(
        {"tile_id": ["a", "b"], "path": ["a.png", "b.png"], "mpp": [mpp] * 2, "mpp_source": [source] * 2,
         "mpp_factor": [factor] * 2, "magnification": pl.Series([magnification] * 2, dtype=pl.String)}
    )  # fmt: skip
    return TileSet(name, table, ("benign", "malignant"), "", "")


def test_every_reading_on_record_is_a_candidate() -> None:
    found = scale_readings(made_tiles("breakhis", 1.0, "estimated", 1.25), np.array([2.0, 2.0]))
    assert found[0] == Reading(2.0, 1.25)
    assert [reading.name for reading in found[1:]] == ["nominal"]
    assert found[1].input_mpp == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("tiles", "n"),
    [
        (made_tiles("breakhis", 1.0, "user", 1.0), 1),
        (made_tiles("patch_camelyon", 0.972, "nominal", 1.0, None), 1),
        (made_tiles("my tiles", 0.5, "estimated", 1.5), 1),
        (made_tiles("breakhis", 0.2, "nominal", 1.0), 2),
    ],
)
def test_a_users_scale_and_a_lone_reading_have_no_rival(tiles: TileSet, n: int) -> None:
    assert len(scale_readings(tiles, np.array([1.0, 1.0]))) == n


def test_both_uncertainties_count_and_the_view_gets_the_ratio() -> None:
    pairs = scale_candidates(
        (Reading(2.0, 1.25), Reading(0.4, 1.0, "nominal")), (Reading(0.4, 1.1),), one_data_set=False
    )
    ratios = [pair.source_mpp / pair.target_mpp for pair in pairs]
    assert ratios == pytest.approx([5.0, 5.0 / 1.375, 5.0 * 1.375, 1.0])
    # A view at the source's stated scale magnifies the target by stated source / (factor x stated target).
    assert [2.0 / (0.4 * pair.mpp_factor) for pair in pairs] == pytest.approx(ratios)
    assert [pair.matched for pair in pairs] == [False, False, False, True]
    assert len({pair.words for pair in pairs}) == 4


def test_exact_scales_and_one_data_set_leave_the_stated_pair_alone() -> None:
    (exact,) = scale_candidates((Reading(2.0),), (Reading(1.0),), one_data_set=False)
    (same,) = scale_candidates((Reading(2.0, 1.25), Reading(0.4)), (Reading(1.0, 1.25),), one_data_set=True)
    assert exact == same
    assert (exact.words, exact.mpp_factor, exact.matched) == ("", 1.0, False)


def test_an_unknown_scale_stays_unknown() -> None:
    found = scale_readings(made_tiles("breakhis", 1.0, "estimated", 1.25), np.array([np.nan, np.nan]))
    assert len(found) == 1
    assert np.isnan(found[0].input_mpp)
