"""The transfer page: figures that say their numbers, pictures of the right tiles, nothing unescaped."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from histotune.datasets.tileset import TileSet, tile_table
from histotune.images.config import LoaderConfig
from histotune.report.charts import Curves
from histotune.report.pictures import cross_gallery
from histotune.report.study_figures import few_shot_figure, recovery_figures
from histotune.report.study_pages import write_transfer_page
from histotune.report.words import number
from histotune.statistics.predictions import IntervalConfig
from histotune.tools.errors import UserError
from histotune.transfer.case import Diagnosis, Side, TransferConfig
from histotune.transfer.diagnose import diagnose
from tests.transfer.conftest import make_transfer

EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def found() -> Diagnosis:
    """Return a diagnosis with a stain that spoils the ranking, and marks."""

    def stained(x_ND: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return x_ND + 2.0 * rng.normal(size=(len(x_ND), 1)) * np.array([1.0, 0.5, 0, 0, 0, 0])

    case = make_transfer(stained, undone=("scale", "stain"))
    return replace(diagnose(case, TransferConfig(draws=3), IntervalConfig()), marks=("SYNTHETIC", "LEAKY"))


def test_a_forest_names_every_recovery_that_can_differ(found: Diagnosis) -> None:
    auroc, log_loss = recovery_figures(found)
    alone, left_out = (chart.alt for chart in auroc.charts)
    for row in found.remedies[:3]:
        recovery = row.recovery("auroc")
        assert recovery is not None
        assert recovery.left_out is not None
        assert f"{row.name} {number(recovery.alone.value, signed=True)}" in alone
        assert f"{row.name} {number(recovery.left_out.value, signed=True)}" in left_out
    assert "recalibration" not in alone, "one shift and scale per fold can't change AUROC within folds"
    assert "recalibration" in log_loss.charts[0].alt
    assert all("SYNTHETIC" in chart.words for figure in (auroc, log_loss) for chart in figure.charts)


def test_the_few_shot_curve_stands_between_the_head_as_it_is_and_the_oracle(found: Diagnosis) -> None:
    figure = few_shot_figure(found)
    assert figure is not None
    (chart,) = figure.charts
    assert isinstance(chart, Curves)
    for point in found.few_shot:
        assert f"{point.groups_per_class} groups per class: {point.auroc.value:.3f} [" in chart.alt
    assert f"head as it is: {found.target_scores[0].value:.3f}" in chart.alt
    assert len(chart.lines[-1].points) == len(chart.lines[-1].band) == len(found.few_shot)
    assert few_shot_figure(replace(found, few_shot=())) is None


def test_points_without_interval_are_drawn_and_say_why() -> None:
    found = diagnose(make_transfer(target_labels=[0, 1] * 4), TransferConfig(draws=3), IntervalConfig())
    figure = few_shot_figure(found)
    assert figure is not None
    chart = figure.charts[0]
    assert isinstance(chart, Curves) and not chart.lines[-1].band
    assert "Missing intervals: class" in figure.caption


def test_pictures_are_those_of_the_named_tiles_and_names_are_escaped(tmp_path: Path) -> None:
    case = make_transfer()
    target, source = (hostile(side) for side in (case.target, case.source))
    found = diagnose(replace(case, target=target, source=source), TransferConfig(draws=2), IntervalConfig())
    tiles = [drawn(side, tmp_path / side.domain, level) for side, level in ((source, 40), (target, 200))]
    gallery = cross_gallery(found, tiles[0], tiles[1], LoaderConfig())
    write_transfer_page(found, f"histotune transfer {EVIL}", EVIL, tmp_path / "page.html", gallery)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert EVIL not in page
    assert "&lt;img src=x" in page
    for row in found.neighbours:
        assert brightness(gallery.target[row.tile.tile_id]) == pytest.approx(200, abs=4)
        shown = [brightness(gallery.source[near.tile_id]) for near in row.nearest]
        assert shown == pytest.approx([40] * 3, abs=4)
    assert len(re.findall(r"<img src=\"data:image/jpeg", page)) == 4 * len(found.neighbours)


def test_limits_on_image_size_hold_for_pictures(tmp_path: Path) -> None:
    case = make_transfer()
    found = diagnose(case, TransferConfig(draws=2), IntervalConfig())
    tiles = [drawn(side, tmp_path / side.domain, 90) for side in (case.source, case.target)]
    with pytest.raises(UserError, match="pixels"):
        cross_gallery(found, tiles[0], tiles[1], LoaderConfig(max_pixels=100))


def hostile(side: Side) -> Side:
    return replace(side, tile_ids=tuple(EVIL + tile for tile in side.tile_ids),
                   groups=tuple(EVIL + group for group in side.groups))  # fmt: skip


def drawn(side: Side, folder: Path, level: int) -> TileSet:
    """One grey picture stands for all tiles of a side."""
    folder.mkdir()
    Image.new("RGB", (60, 40), (level, level, level)).save(folder / "tile.png")
    ids = sorted(side.tile_ids)
    table = tile_table({"tile_id": ids, "path": pl.Series([str(folder / "tile.png")] * len(ids))})
    return TileSet(side.domain, table, ("benign", "malignant"), EVIL, EVIL)


def brightness(raw: bytes) -> float:
    with Image.open(io.BytesIO(raw)) as image:
        return float(np.asarray(image).mean())
