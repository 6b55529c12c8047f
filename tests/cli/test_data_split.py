"""Splits on the command line: made, kept, used, refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image

from tests.cli.test_run import assert_clear, run_breakhis
from tests.conftest import CommandResult
from tests.datasets.fakes import tree_folder
from tests.datasets.splits.cohorts import published_names

Histotune = Callable[..., CommandResult]


def test_a_split_is_made_shown_and_kept_and_a_run_takes_it(
    histotune: Histotune, breakhis: Path, tmp_path: Path
) -> None:
    path = tmp_path / "split.json"
    made = histotune("data", "split", "breakhis", "--data", breakhis, "--split", "grouped-3-seed1", "--out", path)
    assert made.code == 0, made.err
    saved = json.loads(path.read_text())
    assert f"grouped-3-seed1: 3 folds by group, hash {saved['split_hash']}" in made.out
    for words in ("side", "class", "tiles", "groups", "benign", "malignant", "Balance:", f"split: {path}"):
        assert words in made.out
    again = histotune("data", "split", "breakhis", "--data", breakhis, "--split", path)
    assert again.out.splitlines()[0] == made.out.splitlines()[0]
    result = run_breakhis(histotune, breakhis, tmp_path / "run", "--split", path)
    assert result.code == 0, result.err
    scores = json.loads((tmp_path / "run/scores.json").read_text())
    assert scores["split_hash"] == saved["split_hash"]
    assert f"split grouped-3-seed1 (hash {saved['split_hash'][:12]})" in scores["findings"][0]["protocol"]
    assert str(tmp_path) not in (tmp_path / "run/scores.json").read_text()
    assert saved["split_hash"][:12] in (tmp_path / "run/report.html").read_text()
    named = run_breakhis(histotune, breakhis, tmp_path / "named", "--split", "grouped-3-seed1")
    assert named.code == 0, named.err
    assert (tmp_path / "named/scores.json").read_bytes() == (tmp_path / "run/scores.json").read_bytes()


def test_a_hold_out_is_scored_with_final_and_counted(histotune: Histotune, breakhis: Path, tmp_path: Path) -> None:
    refused = run_breakhis(histotune, breakhis, tmp_path / "run", "--split", "holdout-34-seed0")
    assert_clear(refused, "no labelled tiles in its valid part", "--final")
    assert not (tmp_path / "run").exists()
    result = run_breakhis(histotune, breakhis, tmp_path / "run", "--split", "holdout-34-seed0", "--final")
    assert result.code == 0, result.err
    assert "breakhis holdout-34-seed0 test: scored once under 1 choice" in result.out
    table = pl.read_parquet(tmp_path / "run/predictions.parquet")
    assert table.filter(pl.col("arm") == "probe")["group_id"].n_unique() == 4
    again = histotune("run", "--from", tmp_path / "run", "--out", tmp_path / "again")
    assert (tmp_path / "again/scores.json").read_bytes() == (tmp_path / "run/scores.json").read_bytes(), again.err


def test_a_leaky_split_is_marked_from_the_table_to_the_page(
    histotune: Histotune, breakhis: Path, tmp_path: Path
) -> None:
    refused = run_breakhis(histotune, breakhis, tmp_path / "run", "--split", "random-images-3-seed0")
    assert_clear(refused, "--allow-leaky")
    result = run_breakhis(histotune, breakhis, tmp_path / "run", "--split", "random-images-3-seed0", "--allow-leaky")
    assert result.code == 0, result.err
    rows = [line for line in result.out.splitlines() if line.startswith(("in-domain", "  floor")) or "→" in line]
    assert rows
    assert all("LEAKY" in line for line in rows)
    scores = json.loads((tmp_path / "run/scores.json").read_text())
    assert all("LEAKY" in row["marks"] for finding in scores["findings"] for row in finding["rows"])
    assert "badge leaky" in (tmp_path / "run/report.html").read_text()


def test_eva_runs_from_names_to_report(histotune: Histotune, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in published_names(most_per_patient=2):
        folder = tree_folder(tmp_path / "data", name)
        folder.mkdir(parents=True, exist_ok=True)
        level = 120 + 20 * ("_DC-" in name) + 10 * ("_MC-" in name)
        Image.fromarray(rng.normal(level, 20, (46, 70, 3)).clip(0, 255).astype(np.uint8)).save(folder / f"{name}.png")
    eva = ("run", "breakhis", "--data", tmp_path / "data", "--split", "eva", "--train-magnification", "40X", "--set",
           "source.labels=eva4", "--out", tmp_path / "run", "--backbone", "colour-histogram", "--set", "sweep.folds=3",
           "--set", 'evaluation.floors=["majority","untuned"]', "--set", "interval.n_resamples=200")  # fmt: skip
    assert_clear(histotune(*eva), "the split eva leaks: 4 groups lie on two sides", "--allow-leaky")
    result = histotune(*eva, "--allow-leaky")
    assert result.code == 0, result.err
    assert "breakhis eva valid: scored once" in result.out
    finding = json.loads((tmp_path / "run/scores.json").read_text())["findings"][0]
    assert finding["protocol"].startswith("Split eva (hash ")
    assert "its authors" in finding["notes"][0].lower()
    assert all(row["marks"] == ["LEAKY"] for row in finding["rows"])
    assert finding["rows"][0]["scores"][0]["n_tiles"] == 28


def test_official_parts_by_name_equal_the_default(histotune: Histotune, pcam: Path, tmp_path: Path) -> None:
    quick = ("--set", "sweep.penalties=[0.01,1]", "--set", "sweep.folds=3", "--set", 'evaluation.floors=["majority"]',
             "--set", "interval.n_resamples=200", "--backbone", "colour-histogram")  # fmt: skip
    plain = histotune("run", "pcam", "--data", pcam, "--out", tmp_path / "plain", *quick)
    named = histotune("run", "pcam", "--data", pcam, "--out", tmp_path / "named", "--split", "pcam-official", *quick)
    assert plain.code == named.code == 0, named.err
    first, second = (json.loads((tmp_path / name / "scores.json").read_text()) for name in ("plain", "named"))
    assert [row["scores"] for row in first["findings"][0]["rows"]] == [
        row["scores"] for row in second["findings"][0]["rows"]
    ]
    assert "train part of split pcam-official (hash " in second["findings"][0]["protocol"]
    assert_clear(
        histotune("run", "pcam", "--data", pcam, "--out", tmp_path / "x", "--split", "grouped-3-seed0", *quick),
        "studied by its parts here",
    )


def test_mistakes_are_one_clear_message_before_anything_is_embedded(
    histotune: Histotune, breakhis: Path, tmp_path: Path
) -> None:
    split = ("data", "split", "breakhis", "--data", breakhis)
    assert_clear(histotune(*split, "--split", "grouped-3"), "did you mean: grouped-5-seed0?", "holdout-P-seedS")
    assert_clear(histotune(*split, "--split", "eva"), "none of these tiles belongs to the 64 patients")
    (tmp_path / "notes.json").write_text("{}", encoding="utf-8")
    assert_clear(histotune(*split, "--out", tmp_path / "notes.json"), "something else than a split lies here")
    broken = tmp_path / "broken.json"
    broken.write_text('{"format": "histotune split 1"', encoding="utf-8")
    for result in (
        histotune(*split, "--split", broken),
        run_breakhis(histotune, breakhis, tmp_path / "run", "--split", broken),
    ):
        assert_clear(result, "this split file is truncated or no JSON")
    assert not (tmp_path / "run").exists()


def test_sweep_and_evaluate_follow_the_parts(histotune: Histotune, breakhis: Path, tmp_path: Path) -> None:
    quick = ("--data", breakhis, "--set", "sweep.penalties=[0.01,1]", "--set", "sweep.folds=3",
             "--set", "interval.n_resamples=200", "--set", "evaluation.split=holdout-34-seed0")  # fmt: skip
    head = tmp_path / "head"
    swept = histotune("sweep", "breakhis", *quick, "--backbone", "colour-histogram", "--out", head)
    assert swept.code == 0, swept.err
    assert "tiles of 8 cases" in swept.out
    scored = histotune("evaluate", head, "breakhis", *quick, "--final")
    assert scored.code == 0, scored.err
    assert "breakhis holdout-34-seed0 test: scored once" in scored.out
    assert "LEAKY" not in scored.out
    folds = histotune("sweep", "breakhis", *quick, "--set", "evaluation.split=grouped-3-seed0", "--out", tmp_path / "x")
    assert_clear(folds, "this split has folds")


def test_a_subset_reaches_a_run_and_its_notes(histotune: Histotune, breakhis: Path, tmp_path: Path) -> None:
    result = run_breakhis(histotune, breakhis, tmp_path / "run", "--set", 'source.subset.magnifications=["100X"]',
                          "--set", "source.subset.group_fraction=0.75", "--set", "source.subset.seed=4")  # fmt: skip
    assert result.code == 0, result.err
    notes = json.loads((tmp_path / "run/scores.json").read_text())["datasets"][0]["notes"]
    assert any(note.startswith("Subset 100X-groups0.75-seed4: kept ") for note in notes)
    wrong = run_breakhis(histotune, breakhis, tmp_path / "x", "--set", 'source.subset.magnifications=["10X"]')
    assert_clear(wrong, "no such magnification", "100X, 400X")
