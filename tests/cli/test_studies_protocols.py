"""Published protocols from the command line, on small images in the real layouts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from histotune.datasets.splits.named import published_patients
from tests.conftest import CommandResult

COLOURS = {"TA": (200, 120, 160), "MC": (120, 160, 210), "F": (190, 190, 120), "DC": (110, 110, 160)}
KINDS = {
    "TA": ("benign", "tubular_adenoma"),
    "F": ("benign", "fibroadenoma"),
    "MC": ("malignant", "mucinous_carcinoma"),
    "DC": ("malignant", "ductal_carcinoma"),
}


@pytest.fixture
def published_breakhis(tmp_path: Path) -> Path:
    """One small image of every patient of eva's split, coloured by tumour type."""
    rng = np.random.default_rng(0)
    for patient in published_patients():
        side, kind = KINDS[patient.tumour]
        letter = side[0].upper()
        place = tmp_path / "data/BreaKHis_v1/histology_slides/breast" / side / "SOB" / kind
        place = place / f"SOB_{letter}_{patient.tumour}_14-{patient.number}" / "40X"
        place.mkdir(parents=True)
        pixels = rng.normal(COLOURS[patient.tumour], 45, (23, 35, 3)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(place / f"SOB_{letter}_{patient.tumour}-14-{patient.number}-40-001.png")
    return tmp_path / "data"


def run(histotune: Callable[..., CommandResult], recipe: str, data: Path, out: Path, *more: object) -> CommandResult:
    return histotune("run", recipe, "--data", data, "--backbone", "colour-histogram", "--out", out, *more)


def test_eva_breakhis_prints_its_weakness_beside_its_number(
    histotune: Callable[..., CommandResult], published_breakhis: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    done = run(histotune, "eva-breakhis", published_breakhis, out, "--set", "protocol.max_steps=40",
               "--set", "protocol.runs=3", "--set", "protocol.lr=0.1")  # fmt: skip
    assert done.code == 0, done.err
    words = " ".join(done.out.split())
    assert "LEAKY" in words and "chosen on the very tiles that are reported" in words
    assert "initial weights and batch order" in words and "scored once under 1 choice" in words
    saved = json.loads((out / "protocol.json").read_text())
    (row,) = saved["rows"]
    predictions = pl.read_parquet(out / "predictions.parquet")
    per_run = []
    for seed in range(3):
        part = predictions.filter(pl.col("seed") == seed)
        predicted = np.stack(part["probability"].to_numpy()).argmax(axis=1)
        y = part["y_true"].to_numpy()
        per_run.append(np.mean([(predicted[y == k] == k).mean() for k in range(4)]))
    assert row["mean"] == pytest.approx(np.mean(per_run)) and row["sd"] == pytest.approx(np.std(per_run, ddof=1))
    assert row["mean"] > 0.4  # colours tell
    assert row["interval"] is None and "an interval needs 5" in row["reason"]  # few cases of some types
    assert predictions["split_hash"].n_unique() == 1
    again = histotune("run", "--from", out, "--out", tmp_path / "again")
    assert again.code == 0, again.err
    repeated = json.loads((tmp_path / "again/protocol.json").read_text())
    assert repeated["rows"] == saved["rows"]


def test_thunder_scores_its_test_part_only_when_final(
    histotune: Callable[..., CommandResult], published_breakhis: Path, tmp_path: Path
) -> None:
    short = ("--set", "protocol.epochs=3", "--set", "protocol.draws=5", "--set", "protocol.shots=[1]")
    tuning = run(histotune, "thunder-breakhis", published_breakhis, tmp_path / "a", *short)
    assert tuning.code == 0, tuning.err
    assert "needs --final" in " ".join(tuning.out.split())
    final = run(histotune, "thunder-breakhis", published_breakhis, tmp_path / "b", "--final", *short)
    assert final.code == 0, final.err
    words = " ".join(final.out.split())
    assert "breakhis thunder test" in words and "needs --final" not in words and "majority vote" in words
    assert [row["name"] for row in json.loads((tmp_path / "b/protocol.json").read_text())["rows"]] == [
        "linear probe, best of 9", "kNN, cosine", "SimpleShot, 1 shots",
    ]  # fmt: skip


def test_uni_and_eva_on_patch_camelyon(histotune: Callable[..., CommandResult], pcam: Path, tmp_path: Path) -> None:
    done = run(histotune, "uni-pcam", pcam, tmp_path / "a", "--final", "--set", "protocol.draws=5",
               "--set", "protocol.shots=[2]")  # fmt: skip
    assert done.code == 0, done.err
    rows = json.loads((tmp_path / "a/protocol.json").read_text())["rows"]
    names = ["logistic regression", "kNN", "class prototypes", "SimpleShot, 2 shots"]
    assert [row["name"] for row in rows] == names and rows[1]["mean"] > 0.6
    for row in rows:
        assert row["n_groups"] == 10 and (row["interval"] is None) == bool(row["reason"])
    shots = run(histotune, "eva-pcam-10shot", pcam, tmp_path / "b", "--final", "--set", "protocol.runs=2",
                "--set", "protocol.max_steps=30")  # fmt: skip
    assert shots.code == 0, shots.err
    assert "Twenty labelled tiles train" in " ".join(shots.out.split())


def test_mistakes_are_named(histotune: Callable[..., CommandResult], breakhis: Path, tmp_path: Path) -> None:
    unknown = histotune("run", "eva-breakhi", "--data", breakhis)
    assert unknown.code == 2 and "eva-breakhis" in unknown.err
    wrong = run(histotune, "eva-breakhis", breakhis, tmp_path / "a", "--set", "protocol.run=3")
    assert wrong.code == 2 and "runs" in wrong.err
    other = run(histotune, "eva-breakhis", breakhis, tmp_path / "a")
    assert other.code == 2 and "none of these tiles belongs to" in other.err
    assert not (tmp_path / "a").exists()
