"""A user's own protocol runs beside published scores: of the same protocol only, and why not otherwise."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from histotune.datasets.splits.named import published_patients
from histotune.published.leaderboard import OwnScores, read_own_scores
from histotune.published.protocols import EvaConfig, ThunderConfig, eva_pcam_settings
from histotune.published.published_numbers import published_scores
from histotune.tools.errors import UserError
from histotune.tools.files import write_json
from histotune.tools.manifest import CLAIM, write_manifest
from tests.cli.test_studies_protocols import COLOURS, KINDS
from tests.conftest import CommandResult

Histotune = Callable[..., CommandResult]
BREAKHIS: dict[str, Any] = {
    "dataset": "breakhis", "class_names": ["TA", "MC", "F", "DC"], "split": "eva", "part": "valid",
    "n_train": 1132, "n_valid": 339, "n_scored": 339, "backbone": "midnight", "default_pooling": "cls+patch_mean",
    "view": {"name": "short-side-crop", "size_px": 224, "interpolation": "bilinear"}, "view_documented": True,
    "settings": EvaConfig().model_dump(mode="json"),
}  # fmt: skip
PCAM = BREAKHIS | {
    "dataset": "patch_camelyon", "class_names": ["normal", "tumour"], "split": "", "part": "test",
    "n_train": 262_144, "n_valid": 32_768, "n_scored": 32_768,
    "settings": eva_pcam_settings().model_dump(mode="json"),
}  # fmt: skip


@pytest.fixture
def whole_breakhis(tmp_path: Path) -> Path:
    """As many small images of every published patient as there are."""
    rng = np.random.default_rng(0)
    for patient in published_patients():
        side, kind = KINDS[patient.tumour]
        name = f"SOB_{side[0].upper()}_{patient.tumour}"
        place = tmp_path / "data/BreaKHis_v1/histology_slides/breast" / side / "SOB" / kind
        place = place / f"{name}_14-{patient.number}" / "40X"
        place.mkdir(parents=True)
        for image in range(patient.n_tiles):
            pixels = rng.normal(COLOURS[patient.tumour], 45, (8, 12, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(place / f"{name}-14-{patient.number}-40-{image + 1:03d}.png")
    return tmp_path / "data"


def write_run(folder: Path, conditions: dict[str, Any], pooling: str = "cls", **row: object) -> Path:
    """Write what a leaderboard reads of a run."""
    folder.mkdir()
    first = {"name": "linear layer", "pooling": pooling, "metric": "balanced_accuracy", "mean": 0.8, "sd": 0.01,
             "interval": {"low": 0.7, "high": 0.88}, "reason": "", "note": "", "n_tiles": 339}  # fmt: skip
    study = {"rows": [first | row], "weaknesses": ["It is weak."], "marks": ["LEAKY"], "conditions": conditions}
    (folder / "protocol.json").write_text(json.dumps(study), encoding="utf-8")
    return folder


def test_a_changed_score_is_refused_and_so_is_a_lost_manifest(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", PCAM)
    study = json.loads((run / "protocol.json").read_text(encoding="utf-8"))
    write_json(run / "protocol.json", study | {"provenance": CLAIM, "marks": []})
    write_manifest(run)
    assert read(run).scores
    whole = (run / "protocol.json").read_bytes()
    assert b"0.88" in whole
    (run / "protocol.json").write_bytes(whole.replace(b"0.88", b"0.98"))
    with pytest.raises(UserError, match=r"protocol\.json \(changed\)") as caught:
        read(run)
    assert f"histotune run --from {run} --out NEW" in str(caught.value)
    (run / "protocol.json").write_bytes(whole)
    (run / "manifest.json").unlink()
    with pytest.raises(UserError, match="which is gone"):
        read(run)


def read(*folders: Path) -> OwnScores:
    return read_own_scores(folders, [one.protocol for one in published_scores()])


def test_a_run_stands_among_the_scores_of_its_protocol(
    histotune: Histotune, whole_breakhis: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    done = histotune("run", "thunder-breakhis", "--data", whole_breakhis, "--backbone", "colour-histogram",
                     "--out", out, "--final", "--set", "protocol.epochs=2", "--set", "protocol.shots=[1]",
                     "--set", "protocol.draws=10")  # fmt: skip
    assert done.code == 0, done.err
    means = {row["name"]: row["mean"] for row in json.loads((out / "protocol.json").read_text())["rows"]}
    shown = histotune("leaderboard", "--run", out, "--format", "csv")
    assert shown.code == 0, shown.err
    rows = list(csv.DictReader(io.StringIO(shown.out)))
    own = {row["protocol"]: row for row in rows if row["own"] == "yes"}
    assert set(own) == {"thunder-knn"}  # its linear probe trained for 2 epochs
    assert float(own["thunder-knn"]["value"]) == means["kNN, cosine"]
    assert "LEAKY" in own["thunder-knn"]["caveat"] and own["thunder-knn"]["source"] == str(out)
    assert {(row["dataset"], row["split"], row["metric"]) for row in rows} == {("BreakHis", "test", "macro_f1")}
    assert sum(row["own"] == "no" for row in rows) == 14
    left_out = " ".join(shown.err.split())
    assert "protocol.epochs 2, published 200" in left_out and "SimpleShot, 1 shots (pooled)" in left_out
    table = histotune("leaderboard", "--run", out, "--protocol", "thunder-knn")
    words = " ".join(table.out.split())
    assert "(yours: " in words and "Left out: linear probe, best of 9" in words and "LEAKY" in words
    page = tmp_path / "board.md"
    assert histotune("leaderboard", "--run", out, "--out", page).code == 0
    text = page.read_text(encoding="utf-8")
    assert "**colour-histogram (yours" in text and "What weakens every number here:" in text
    assert "91 of 339 tiles of test come from groups" in own["thunder-knn"]["caveat"] and "91 of 339" in text
    other = histotune("leaderboard", "--run", out, "--protocol", "eva")
    assert other.code == 2 and "none of these runs shares its protocol" in " ".join(other.err.split())


def test_own_runs_find_their_tables(tmp_path: Path) -> None:
    never = BREAKHIS["settings"] | {"patience": 2500}
    found = read(
        write_run(tmp_path / "a", BREAKHIS),
        write_run(tmp_path / "b", BREAKHIS | {"settings": never}, "cls+patch_mean"),
        write_run(tmp_path / "c", PCAM),
        write_run(tmp_path / "d", PCAM | {"part": "valid", "split": "pcam-official"}),
    )
    assert not found.refused
    assert [(one.protocol.dataset, one.protocol.protocol, one.protocol.split) for one in found.scores] == [
        ("BreakHis", "eva", "val"), ("BreakHis", "eva-midnight", "val"), ("PCam", "eva", "test"), ("PCam", "eva", "val")
    ]  # fmt: skip
    first, fork = found.scores[:2]
    assert (first.value, first.seed_sd, first.low, first.high) == (0.8, 0.01, 0.7, 0.88)
    assert first.caveat == "LEAKY" and first.weaknesses == ("It is weak.",) and "early stopping off" in fork.caveat


def test_thunder_rows_take_the_backbones_own_columns_and_view(tmp_path: Path) -> None:
    thunder = BREAKHIS | {
        "split": "thunder", "part": "test", "n_train": 936, "n_valid": 196,
        "settings": ThunderConfig().model_dump(mode="json"), "view": {"name": "square", "size_px": 518},
    }  # fmt: skip
    row = {"name": "SimpleShot, 16 shots", "metric": "macro_f1"}
    kept = write_run(tmp_path / "kept", thunder, "cls+patch_mean", **row)
    columns = write_run(tmp_path / "columns", thunder, "cls", **row)
    view = write_run(tmp_path / "view", thunder | {"view_documented": False}, "cls+patch_mean", **row)
    found = read(kept, columns, view)
    assert [one.protocol.protocol for one in found.scores] == ["thunder-simpleshot16"]
    assert "published cls+patch_mean" in str(found.refused[0]) and "each backbone documents" in str(found.refused[1])


@pytest.mark.parametrize(
    ("changed", "pooling", "reason"),
    [
        ({}, "cls+patch_mean", "columns cls+patch_mean, published cls"),
        ({"split": "authors-fold1"}, "cls", "not the published one"),
        ({"part": "test", "settings": PCAM["settings"], "dataset": "patch_camelyon", "split": "random-images"}, "cls",
         "split random-images"),
        ({"n_train": 500}, "cls", "500 / 339 / 339, published 1,132 / 339 / 339"),
        ({"class_names": ["benign", "malignant"]}, "cls", "classes benign, malignant"),
        ({"view": BREAKHIS["view"] | {"interpolation": "bicubic"}}, "cls", "short-side-crop 224 px bicubic"),
        ({"view": BREAKHIS["view"] | {"target_mpp": 0.5}}, "cls", "0.5 um/px"),
        ({"view": {"name": "unknown"}}, "cls", "imported"),
        ({"settings": BREAKHIS["settings"] | {"runs": 3}}, "cls", "protocol.runs 3, published 5"),
        ({"settings": BREAKHIS["settings"] | {"patience": 5}}, "cls", "protocol.patience 5, published 500"),
        ({"settings": {"name": "uni"}}, "cls", "nobody has published"),
        ({"dataset": "mine"}, "cls", "nobody has published"),
    ],
)  # fmt: skip
def test_a_run_that_differs_is_refused_with_the_field(
    tmp_path: Path, changed: dict[str, Any], pooling: str, reason: str
) -> None:
    kept, other = write_run(tmp_path / "kept", BREAKHIS), write_run(tmp_path / "other", BREAKHIS | changed, pooling)
    found = read(kept, other)
    assert [one.source for one in found.scores] == [str(kept)]
    (refusal,) = found.refused
    assert refusal.source == str(other) and reason in str(refusal)
    with pytest.raises(UserError, match="none of these runs"):
        read(other)


def test_marked_and_diverged_numbers_stand_in_no_table(tmp_path: Path) -> None:
    marked = write_run(tmp_path / "marked", BREAKHIS)
    study = json.loads((marked / "protocol.json").read_text())
    (marked / "protocol.json").write_text(json.dumps(study | {"marks": ["SYNTHETIC"]}), encoding="utf-8")
    found = read(write_run(tmp_path / "kept", BREAKHIS), marked, write_run(tmp_path / "nan", BREAKHIS, mean=None))
    assert [one.reason for one in found.refused] == ["marked SYNTHETIC", "a run diverged"]


def test_folders_that_are_no_protocol_run_are_named(histotune: Histotune, tmp_path: Path) -> None:
    none = histotune("leaderboard", "--run", tmp_path)
    assert none.code == 2 and "no run of a published protocol" in " ".join(none.err.split())
    old = write_run(tmp_path / "old", BREAKHIS)
    study = json.loads((old / "protocol.json").read_text())
    del study["conditions"]
    (old / "protocol.json").write_text(json.dumps(study), encoding="utf-8")
    with pytest.raises(UserError, match="before protocols kept their conditions"):
        read(old)
    (old / "protocol.json").write_text('{"conditions": 3}', encoding="utf-8")
    with pytest.raises(UserError, match="damaged"):
        read(old)
