"""The error gallery's maps: by the head that scored the tile, adding up to its logit, kept for the next run."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

import histotune as ht
from histotune.report.run_folder import load_run, read_thumbnails

SMALL = {"sweep.penalties": [0.01, 0.1], "sweep.folds": 3, "evaluation.outer_folds": 3, "evaluation.floors": []}


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noisy tiles of two classes that a colour histogram confuses often."""
    folder, rng = tmp_path_factory.mktemp("tiles"), np.random.default_rng(0)
    rows = []
    for number in range(48):
        label = number // 3 % 2
        pixels = rng.normal(110 + 6 * label + rng.normal(0, 8), 40, (32, 32, 3)).clip(0, 255)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number:02d}.png")
        rows.append({"path": f"{number:02d}.png", "label": ("benign", "malignant")[label], "group": f"g{number // 3}"})
    pl.DataFrame(rows).write_csv(folder / "tiles.csv")
    return folder / "tiles.csv"


def run(tiles: Path, out: Path, **more: object) -> Path:
    settings = {**SMALL, "ledger": str(out.parent / "state"), **more}
    ht.run("tiles", tiles, backbone="colour-histogram", out=out, cache=out.parent / "cache", set=settings)
    return out


@pytest.fixture(scope="module")
def done(tiles: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tiles, tmp_path_factory.mktemp("runs") / "run")


def test_each_of_the_largest_errors_has_a_map_by_the_head_that_scored_it(done: Path) -> None:
    inputs = load_run(done)
    assert inputs.thumbnails
    table = inputs.artifacts.predictions.filter(pl.col("arm") == "probe")
    for one in inputs.thumbnails:
        row = table.filter((pl.col("tile_id") == one.tile_id) & (pl.col("finding") == one.finding)).row(0, named=True)
        assert one.head_id == row["head_id"]
        with Image.open(io.BytesIO(one.map_jpeg)) as picture:
            assert picture.format == "JPEG" and picture.width > 500
        # the map speaks for the class that was said: its log-odds are those of the prediction
        said = float(re.search(r"logit ([+-][\d.]+)", one.map_words)[1])  # type: ignore[index]
        assert said == pytest.approx(np.log(one.probability / (1 - one.probability)), abs=0.02)


def test_the_page_shows_tile_and_map_and_what_a_map_says(done: Path) -> None:
    page = (done / "report.html").read_text(encoding="utf-8")
    n_tiles = len(load_run(done).thumbnails)
    assert page.count('class="tile why"') == n_tiles and page.count('alt="Why: logit') == n_tiles
    assert "by the head that scored it" in page


def test_an_equal_run_takes_the_maps_that_are_there(tiles: Path, done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = read_thumbnails(done)
    monkeypatch.setattr("histotune.studies.error_maps._drawn", lambda *_: pytest.fail("drawn again"))
    run(tiles, done)
    assert read_thumbnails(done) == before and all(one.map_jpeg for one in before)


def test_a_changed_picture_of_an_earlier_run_is_not_taken(done: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(done, tmp_path / "copy")
    picture = next((tmp_path / "copy" / "thumbnails").glob("*-map.jpg"))
    picture.write_bytes(picture.read_bytes()[:-1] + b"x")
    assert read_thumbnails(tmp_path / "copy") == () and read_thumbnails(tmp_path / "nothing") == ()


def test_runs_of_before_have_no_maps_and_open(done: Path) -> None:
    old = tuple(replace(one, head_id="", map_jpeg=b"", map_words="") for one in load_run(done).thumbnails)
    from histotune.report.page import render_page

    assert 'class="tile why"' not in render_page(replace(load_run(done), thumbnails=old))
