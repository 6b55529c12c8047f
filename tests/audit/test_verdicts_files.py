"""A finding that lists only some of its tiles has a file with all of them beside the page."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from tests.conftest import CommandResult

Histotune = Callable[..., CommandResult]


def write_copies(folder: Path, n_copies: int, n_blank: int) -> Path:
    """Write two pictures, each many times, and white tiles of slightly different levels."""
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (32, 32, 3), dtype=np.uint8) for _ in range(2)]
    rows = []
    for number in range(n_copies + n_blank):
        is_copy = number < n_copies
        pixels = pictures[number % 2] if is_copy else np.full((32, 32, 3), 255, np.uint8)
        if not is_copy:
            pixels[0, 0] = (number // 250 + 1, number % 250, 7)
        Image.fromarray(pixels).save(folder / f"{number:04d}.png")
        rows.append((f"{number:04d}.png", "ab"[number % 2], f"p{number}"))
    table = pl.DataFrame(rows, schema=["path", "label", "group"], orient="row")
    table.write_csv(folder / "tiles.csv")
    return folder / "tiles.csv"


def findings(out: Path) -> dict[str, dict[str, object]]:
    found = json.loads((out / "audit.json").read_text(encoding="utf-8"))["findings"]
    return {one["id"]: one for one in found}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def test_long_lists_have_a_file_with_all_rows(histotune: Histotune, folder: Path, tmp_path: Path) -> None:
    table = write_copies(folder, n_copies=130, n_blank=110)
    result = histotune("data", "audit", "tiles", "--data", table, "--out", tmp_path / "a")
    assert result.code in (0, 1), result.err
    found = findings(tmp_path / "a")
    copies = pl.read_csv(tmp_path / "a" / "exact-duplicates.csv", infer_schema=False)
    assert copies.columns[:2] == ["cluster", "tile_id"]
    assert len(copies) == found["exact-duplicates"]["n_tiles"] == 130
    assert copies.group_by("cluster").len()["len"].to_list() == [65, 65]
    assert set(copies["tile_id"]) == {f"{number:04d}.png" for number in range(130)}
    of_one = copies.filter(pl.col("cluster") == copies["cluster"][0])["tile_id"].str.head(4).cast(pl.Int64) % 2
    assert of_one.n_unique() == 1
    page = (tmp_path / "a" / "audit.html").read_text(encoding="utf-8")
    for one in found.values():
        n_listed, file = len(one["tile_ids"]), one.get("file")  # type: ignore[arg-type]
        if one["n_tiles"] > 100:  # type: ignore[operator]
            assert n_listed == 100 and file == f"{one['id']}.csv"
            assert len(pl.read_csv(tmp_path / "a" / str(file), infer_schema=False)) == one["n_tiles"]
            assert f'href="{file}"' in page
            assert str(tmp_path / "a" / str(file)) in "".join(result.out.split())
    assert sum(one["n_tiles"] > 100 for one in found.values()) >= 2  # type: ignore[operator]


def test_short_lists_have_none_and_those_of_an_earlier_audit_go(
    histotune: Histotune, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "exact-duplicates.csv").write_text("old", encoding="utf-8")
    (tmp_path / "a" / "mine.csv").write_text("mine", encoding="utf-8")
    table = write_copies(folder, n_copies=6, n_blank=2)
    histotune("data", "audit", "tiles", "--data", table, "--out", tmp_path / "a")
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["audit.html", "audit.json", "mine.csv"]
    assert not any("file" in one or "every" in one for one in findings(tmp_path / "a").values())
