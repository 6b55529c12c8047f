"""Views on the command line: one option, one message for what can't be, and marks on what was accepted."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from tests.cli.test_run import QUICK, assert_clear, run_breakhis
from tests.conftest import CommandResult

Histotune = Callable[..., CommandResult]
HISTOGRAM = ("--backbone", "colour-histogram")


def test_a_run_at_one_scale_for_all_magnifications(histotune: Histotune, breakhis: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = run_breakhis(histotune, breakhis, out, "--view", "tiles", "--set", "view.target_mpp=0.2")
    assert result.code == 0, result.err
    scores = json.loads((out / "scores.json").read_text())
    assert scores["view"] == "tiles 224 px, bicubic, 0.2 um/px"
    rows = [row for finding in scores["findings"] if finding["id"] == "cross-magnification" for row in finding["rows"]]
    assert {row["domain"] for row in rows} == {"breakhis 100X", "breakhis 400X"}
    assert [row["input_mpp"] for row in rows] == pytest.approx([0.2] * len(rows), rel=0.01)
    notes = " ".join(scores["datasets"][0]["notes"])
    for words in ("covers each tile with 1 to 4 crops", "no more detail than 0.25 um/px", "is padding"):
        assert words in notes, notes
    assert json.loads((out / "config.json").read_text())["view"]["size_px"] is None
    again = histotune("run", "--from", out, "--out", tmp_path / "again")
    assert "no forward pass" in again.out


def test_a_moved_label_is_refused_before_anything_or_marked(
    histotune: Histotune, breakhis: Path, pcam: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    settings = ("--pcam", pcam, "--view", "tiles", "--set", "view.target_mpp=0.3")
    refused = run_breakhis(histotune, breakhis, out, *settings)
    assert_clear(refused, "32 x 32 px", "moves it in 120 tiles", "view.allow_moved_label=true")
    assert "embed" not in refused.err.split("error:")[0]
    assert not out.exists() and not list((tmp_path / "xdg-cache").rglob("*.npy"))
    accepted = run_breakhis(histotune, breakhis, out, *settings, "--set", "view.allow_moved_label=true")
    assert accepted.code == 0, accepted.err
    scores = json.loads((out / "scores.json").read_text())
    for finding in scores["findings"]:
        on_target = finding["id"] in ("external", "direct")
        assert all(("LABEL MOVED" in row["marks"]) == on_target for row in finding["rows"]), finding["id"]
    assert any("LABEL MOVED" in note for note in scores["datasets"][1]["notes"])
    assert "LABEL MOVED" in (out / "report.html").read_text(encoding="utf-8")


def test_a_head_keeps_its_scale_on_other_images(
    histotune: Histotune, breakhis: Path, pcam: Path, tmp_path: Path
) -> None:
    head = tmp_path / "head"
    swept = histotune("sweep", "breakhis", "--data", breakhis, "--train-magnification", "100X", "--out", head,
                      *QUICK, "--view", "tiles", "--set", "view.target_mpp=0.4")  # fmt: skip
    assert swept.code == 0, swept.err
    refused = histotune("evaluate", head, "pcam", "--data", pcam)
    assert_clear(refused, "moves it in", "view.allow_moved_label=true")
    marked = histotune("evaluate", head, "pcam", "--data", pcam, "--set", "view.allow_moved_label=true")
    assert marked.code == 0, marked.err
    assert "LABEL MOVED" in re.sub(r"\s+", " ", marked.out)
    images = sorted(breakhis.rglob("*400X/*.png"))[:4]
    assert_clear(histotune("predict", head, *images), "4 of 4 tiles of images have no mpp", "--mpp 0.25")
    assert_clear(histotune("predict", head, *images, "--mpp", "-1"), "positive number")
    tables = []
    for mpp in ("0.25", "1.0"):
        table = tmp_path / f"{mpp}.parquet"
        predicted = histotune("predict", head, *images, "--mpp", mpp, "--out", table)
        assert predicted.code == 0, predicted.err
        assert "of the network's input is padding" in predicted.err
        assert ("no more detail than 1 um/px" in predicted.err) == (mpp == "1.0")
        tables.append(pl.read_parquet(table))
    assert tables[0]["path"].to_list() == tables[1]["path"].to_list() == [str(image) for image in images]
    assert not tables[0].equals(tables[1])
    images[1].write_bytes(b"broken")
    assert_clear(histotune("predict", head, *images, "--mpp", "0.25"), images[1].name)
    skipped = histotune("predict", head, *images, "--mpp", "0.25", "--on-bad-image", "skip")
    assert skipped.code == 0, skipped.err
    assert f"{images[1]},,," in skipped.out


def test_an_unknown_view_names_the_closest(histotune: Histotune, breakhis: Path) -> None:
    result = histotune("embed", "breakhis", "--data", breakhis, *HISTOGRAM, "--view", "leterbox")
    assert_clear(result, "unknown view", "did you mean: letterbox")


def test_a_letterbox_that_would_cut_says_which_scale_fits(histotune: Histotune, breakhis: Path) -> None:
    result = histotune("embed", "breakhis", "--data", breakhis, *HISTOGRAM, "--view", "letterbox",
                       "--set", "view.target_mpp=0.2")  # fmt: skip
    assert_clear(result, "36 tiles of breakhis do not fit", "view.target_mpp of at least 0.312")
