"""``histotune transfer`` from files to a page: scale and stain undone, neighbours as pictures, a source with parts."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from histotune.images.stain import has_torchstain
from tests.conftest import CommandResult, write_breakhis, write_pcam

Command = Callable[..., CommandResult]
QUICK = ("--backbone", "colour-histogram", "--train-magnification", "40X", "--set", "sweep.folds=2",
         "--set", "sweep.penalties=[0.1]", "--set", "evaluation.floors=[]", "--set", "evaluation.outer_folds=3",
         "--set", "sweep.label_efficiency.draws=0")  # fmt: skip


def train(histotune: Command, folder: Path, *more: object) -> Path:
    data = write_breakhis(folder / "breakhis", magnifications=(40,), n_tiles=3)
    result = histotune("run", "breakhis", "--data", data, "--out", folder / "run", "--cache", folder / "cache", *QUICK,
                       *more)  # fmt: skip
    assert result.code == 0, result.err
    return folder / "run"


def transfer(histotune: Command, folder: Path, *more: object) -> tuple[CommandResult, dict[str, Any], str]:
    pcam = write_pcam(folder / "pcam", n_per_part=20)
    result = histotune("transfer", folder / "run", "pcam", "--data", pcam, "--final", "--out", folder / "transfer",
                       "--cache", folder / "cache", "--set", "transfer.draws=3", "--set", "transfer.folds=2",
                       *more)  # fmt: skip
    assert result.code == 0, result.err
    found = json.loads((folder / "transfer/transfer.json").read_text(encoding="utf-8"))
    return result, found, (folder / "transfer/transfer.html").read_text(encoding="utf-8")


def test_from_images_to_remedies_and_pictures(histotune: Command, tmp_path: Path) -> None:
    train(histotune, tmp_path)
    result, found, page = transfer(histotune, tmp_path)
    remedies = {row["name"]: row for row in found["remedies"]}
    in_log_loss = remedies["scale"]["recoveries"][2]
    assert abs(in_log_loss["alone"]["value"]) > 1e-3, "the head was given the view as it was"
    assert in_log_loss["left_out"] is not None
    scales = [verdict["candidate"] for verdict in found["by_candidate"]]
    assert len(scales) == 4
    assert len(set(scales)) == 4
    assert sum("(nominal)" in scale for scale in scales) == 1
    assert ("stain" in remedies) == has_torchstain()
    assert any("Not tried" in note and "histotune[stain]" in note for note in found["notes"]) != has_torchstain()
    assert all(point["auroc"]["interval"] is not None for point in found["few_shot"])
    check_pictures(found, page, tmp_path)
    assert "scored once" in result.out


def check_pictures(found: dict[str, Any], page: str, folder: Path) -> None:
    """Every tile that the JSON names is a picture of the page, and none else."""
    shown = re.findall(r'<img src="data:image/jpeg;base64,([^"]+)" alt="(Target|Source) tile ([^:]+):', page)
    named = []
    for row in found["neighbours"]:
        named += [("Target", row["tile"]["tile_id"]), *(("Source", near["tile_id"]) for near in row["nearest"])]
    assert [(side, tile) for _, side, tile in shown] == named
    assert {row["why"] for row in found["neighbours"]} >= {"picked blindly"}
    for raw, side, tile in shown[:4]:
        with Image.open(io.BytesIO(base64.b64decode(raw))) as small:
            assert max(small.size) <= 180
            if side == "Source":
                with Image.open(next((folder / "breakhis").rglob(f"{tile}.png"))) as whole:
                    assert abs(small.width / small.height - whole.width / whole.height) < 0.02
    assert "CC BY 4.0" in page
    assert page.count("<script") == 1  # the page's own


def test_without_images_no_picture_is_shown_but_the_tiles_are_named(histotune: Command, tmp_path: Path) -> None:
    train(histotune, tmp_path)
    _, found, page = transfer(histotune, tmp_path, "--no-images")
    assert "scale" not in {row["name"] for row in found["remedies"]}
    assert len(found["neighbours"]) >= 3
    assert "<img" not in page


def test_the_stain_is_undone_from_images(histotune: Command, tmp_path: Path) -> None:
    if not has_torchstain():
        pytest.skip("torchstain is not installed (pip install 'histotune[stain]')")
    train(histotune, tmp_path)
    _, found, _ = transfer(histotune, tmp_path, "--set", "transfer.stain=reinhard")
    remedy = next(row for row in found["remedies"] if row["name"] == "stain")
    assert remedy["recoveries"][0]["left_out"] is not None


def test_a_source_with_parts_is_compared_by_its_scored_part(histotune: Command, tmp_path: Path) -> None:
    run = train(histotune, tmp_path, "--split", "holdout-40-seed0", "--final")
    _, found, _ = transfer(histotune, tmp_path, "--no-images")
    source = found["source_scores"][0]
    trained = set(json.loads((run / "head/head.json").read_text(encoding="utf-8"))["train_groups"])
    assert source["n_groups"] == 12 - len(trained)
    assert source["n_tiles"] == 3 * source["n_groups"]
    assert "not estimable" not in found["paragraph"]


def test_a_target_of_several_classes_is_refused_before_it_is_embedded(histotune: Command, tmp_path: Path) -> None:
    run = train(histotune, tmp_path)
    result = histotune("transfer", run, "breakhis", "--data", tmp_path / "breakhis", "--out", tmp_path / "transfer",
                       "--cache", tmp_path / "cache", "--set", "source.labels=all8")  # fmt: skip
    assert result.code == 2
    assert "classes are matched by name, and breakhis lacks 'benign', 'malignant'" in result.err
    assert "matched by name" in result.err and "--set source.labels=binary" in result.err
    assert "embedding" not in result.err
    assert not (tmp_path / "transfer").exists()


def test_groups_that_trained_the_head_are_said_first(histotune: Command, tmp_path: Path) -> None:
    run = train(histotune, tmp_path)
    result = histotune("transfer", run, "breakhis", "--data", tmp_path / "breakhis", "--out", tmp_path / "transfer",
                       "--cache", tmp_path / "cache", "--no-images")  # fmt: skip
    assert result.code == 0, result.err
    found = json.loads((tmp_path / "transfer/transfer.json").read_text(encoding="utf-8"))
    assert found["marks"] == ["LEAKY"]
    assert found["target"] == "breakhis 40X"
    assert found["paragraph"].startswith("LEAKY: of the target, 36 of 36 scored tiles, of 12 cases (14-1000,")
    assert len(found["notes"]) == len(set(found["notes"]))
