"""Paths with brackets, stars, question marks and braces: commands read what is named, and write where they say."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from histotune.tools.tabular import read_csv, write_parquet
from tests.cli.test_run_tiles import QUICK
from tests.conftest import CommandResult, write_pcam
from tests.datasets.fakes import encoded, write_image_parquet

Histotune = Callable[..., CommandResult]
RNG = np.random.default_rng(0)
ODD = "a[1] {b,c} s*t?"
DECOYS = ("a1 b s*t?", "a1 {b,c} st", "a[1] b seet1", "a1 b set1")
"""A name that would be a pattern, and some that it would match."""


def write_tiles(folder: Path, classes: tuple[str, str], n_groups: int = 12) -> Path:
    """Write class folders, and a table of the same tiles with their groups."""
    lines = ["path,label,group"]
    for number in range(3 * n_groups):
        label = number // 3 % 2
        path = folder / "images" / classes[label] / f"g{number // 3}_{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = RNG.normal(RNG.normal(160 - 20 * label, 15), 20, (24, 32, 3)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(path)
        lines.append(f"{path.relative_to(folder)},{classes[label]},g{number // 3}")
    (folder / "tiles.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_parquet(read_csv(folder / "tiles.csv"), folder / "tiles.parquet")
    return folder


@pytest.fixture
def named(tmp_path: Path) -> Path:
    """Return a folder whose name would be a pattern, beside folders that it would match, of other classes."""
    for number, name in enumerate(DECOYS):
        write_tiles(tmp_path / name, (f"wrong{number}", f"other{number}"), n_groups=4)
    return write_tiles(tmp_path / ODD, ("benign", "malignant"))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("inside", ["tiles.csv", "tiles.parquet", "images", "t[1]*.csv"])
def test_tables_and_folders_are_those_that_were_named(histotune: Histotune, named: Path, inside: str) -> None:
    if inside == "t[1]*.csv":
        shutil.copy(named / "tiles.csv", named / inside)
        (named / "t1x.csv").write_text((named / "tiles.csv").read_text().replace("benign,", "wrong,"), encoding="utf-8")
    result = histotune("data", "describe", "tiles", "--data", named / inside)
    assert result.code == 0, result.err
    assert "Classes: benign, malignant" in result.out and "36 tiles" in result.out


def test_a_table_that_is_not_there_is_not_a_neighbours(histotune: Histotune, named: Path) -> None:
    (named / "tiles.csv").unlink()
    result = histotune("data", "describe", "tiles", "--data", named / "tiles.csv")
    assert result.code == 2 and "wrong" not in result.err


def test_hdf5_and_parquet_files_of_images(histotune: Histotune, named: Path, tmp_path: Path) -> None:
    write_pcam(named / "pcam", n_per_part=8)
    for name in DECOYS:
        write_pcam(tmp_path / name / "pcam", n_per_part=4)
    result = histotune("data", "describe", "pcam", "--data", named / "pcam")
    assert result.code == 0 and "24 tiles" in result.out, result.err
    images = [encoded(RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)) for _ in range(6)]
    write_image_parquet(named / "p[0].parquet", images, [0, 1] * 3)
    write_image_parquet(named / "p0.parquet", images[:2], [0, 1])
    result = histotune("data", "describe", "tiles", "--data", named / "p[0].parquet")
    assert result.code == 0 and "6 tiles" in result.out, result.err


def test_runs_heads_caches_and_outputs_stay_in_their_places(histotune: Histotune, named: Path, tmp_path: Path) -> None:
    before = {name: contents(tmp_path / name) for name in DECOYS}
    cache, run = named / "c[a]*che?", named / "r[u]n {1}"
    table = named / "tiles.csv"
    result = histotune("run", "tiles", "--data", table, "--out", run, "--cache", cache, *QUICK)
    assert result.code == 0, result.err
    assert str(run / "report.html") in result.out.replace("\n", "")
    commands: tuple[tuple[object, ...], ...] = (
        ("report", run),
        ("report", run, "--out", named / "p[a]ge*.html"),
        ("run", "--from", run, "--out", named / "r[e]peat?", "--cache", cache),
        ("compare", run, named / "r[e]peat?"),
        ("transfer", run, "tiles", "--data", table, "--no-images", "--out", named / "t[r]*", "--cache", cache),
        ("data", "split", "tiles", "--data", table, "--split", "grouped-3-seed0", "--out", named / "s[p]*.json"),
        ("data", "split", "tiles", "--data", table, "--split", named / "s[p]*.json"),
        ("data", "croissant", "tiles", "--data", table, "--out", named / "m[1]*.json"),
        ("data", "audit", "tiles", "--data", table, "--out", named / "au[d]it?"),
        ("cache", "ls", "--cache", cache),
        ("cache", "verify", "--cache", cache),
        ("cache", "export", "colour-histogram", "--out", named / "e[x]*.parquet", "--cache", cache),
        ("predict", run, named / "images", "--out", named / "pr[1]*.csv", "--cache", cache),
        ("doctor", "--cache", cache),
    )
    for command in commands:
        result = histotune(*command)
        assert result.code in ((0, 1) if command[1] == "audit" else (0,)), (command, result.err)
        assert "Traceback" not in result.err
    for written in (
        "p[a]ge*.html",
        "r[e]peat?/report.html",
        "t[r]*",
        "s[p]*.json",
        "m[1]*.json",
        "au[d]it?",
        "pr[1]*.csv",
    ):
        assert (named / written).exists(), written
    assert json.loads((run / "scores.json").read_text())["findings"]
    assert {name: contents(tmp_path / name) for name in DECOYS} == before
    made = {path.name for path in tmp_path.iterdir()} - {"xdg-cache", "xdg-state"}
    assert made == {ODD, *DECOYS}
