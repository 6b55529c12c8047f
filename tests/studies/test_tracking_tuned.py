"""Candidates of a fine-tuning stand in the table of trials beside the probes, and their curves go to W&B."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from histotune.evaluation.held_out import ArmSweep
from histotune.evaluation.tuned import TunedCrossFit
from histotune.finetune.tuning import TunedSet, tune_set
from histotune.statistics.predictions import Predictions
from histotune.studies.config import ExperimentConfig
from histotune.studies.tracking import SweptSet, read_trials, record_trials, tuned_curves, tuned_rows
from tests.conftest import CommandResult
from tests.finetune.tuning_tiles import all_of, bench_of, request_of, seen, write_groups


@pytest.fixture
def tuned(tmp_path: Path) -> TunedSet:
    of = seen(write_groups(tmp_path / "tiles", n_groups=16), tmp_path / "cache")
    bench = bench_of(of, inner="hold-out", rates=[1e-3, 3e-3], least_groups=4)
    return tune_set(bench, all_of(of), request_of())


def test_candidates_are_rows_of_the_table(
    tuned: TunedSet, tmp_path: Path, histotune: Callable[..., CommandResult]
) -> None:
    nothing = TunedSet(tuned.probe, type(tuned.decided)("probe", 0.0, 0, 0.0, 0.0, 0, "no groups"))
    fit = TunedCrossFit(Predictions.__new__(Predictions), tuned, (tuned, nothing), 2.5)
    swept = SweptSet("20300101T000000-00000000", "noise", "noise", "", tmp_path, (ArmSweep("probe", tuned.probe),))
    (*tables,) = tuned_rows(swept, fit, ExperimentConfig(recipe="x"))
    assert len(tables) == 2  # a fold without tuning groups has no candidate
    state = tmp_path / "xdg-state" / "histotune"
    record_trials(state, pl.concat(tables))
    table = read_trials(state)
    assert table["arm"].unique().to_list() == ["fine-tuned"] and len(table) == 4
    assert table["training_set"].unique(maintain_order=True).to_list() == ["all", "outer fold 0"]
    settings = [json.loads(text) for text in table["settings"]]
    assert [one["lr"] for one in settings] == [1e-3, 3e-3] * 2 and settings[0]["epoch"] >= 1
    chosen = table.filter(pl.col("chosen"))
    assert len(chosen) == 2 and chosen["score"][0] == table["score"].min() and table["score_se"].is_not_null().all()
    listed = histotune("trials", "--all", "--top", 3)
    assert listed.code == 0 and "4 trials of 1 run" in listed.out


def test_a_curve_begins_at_the_probe(tuned: TunedSet) -> None:
    one, other = tuned_curves("noise", tuned.decided)
    assert one.name == "noise: fine-tuning 0, lr 0.001" and other.name == "noise: fine-tuning 1, lr 0.003"
    assert [x for x, _ in one.points] == [0.0, 1.0, 2.0]
    assert one.points[0][1] == pytest.approx(other.points[0][1])  # both start at the probe
