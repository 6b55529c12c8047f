"""An estimate counts the trainings that a run does, times steps on real tiles, and guesses no price."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from histotune.finetune import loop
from histotune.finetune.estimate_tuning import (
    PRICES,
    MachinePrice,
    TimedSteps,
    TuningEstimate,
    TuningWork,
    count_work,
    estimate_tuning,
    machine_prices,
)
from histotune.finetune.memory import MemoryPlan, plan_memory
from histotune.finetune.tuning import TuningRequest, tune_set
from histotune.finetune.workbench import TunedTiles
from histotune.heads.config import SweepConfig
from histotune.tools.progress import time_words
from tests.conftest import CommandResult
from tests.finetune.small_benches import DIM, small_bench, small_tiles

Histotune = Callable[..., CommandResult]
PLAN = MemoryPlan(8, 4, False, "fp32", 1.0, 0.5, 0.1, 2.0, 8.0, "computed, not measured")
WORK = TuningWork(n_sets=6, n_trials=48, n_refits=6, n_trial_steps=480, n_refit_steps=120, n_scored=1000, n_tiles=100)
TIMED = TimedSteps((0.5, 1.0, 1.5), 32, 0.1, 0.2, "a card")


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> TunedTiles:
    """Return noise tiles of 24 cases and a ViT of six blocks."""
    return small_tiles(tmp_path_factory.mktemp("tiles"), n=48)


def two_folds(of: TunedTiles) -> list[np.ndarray]:
    """Return the training sets of two outer folds, whole cases held out, and of the final model."""
    fold_N = np.arange(len(of.tiles)) // 2 // 2 % 2
    return [fold_N != 0, fold_N != 1, np.ones(len(of.tiles), dtype=bool)]


@pytest.mark.parametrize(
    ("settings", "n_trials", "n_refits"),
    [
        ({"inner": "folds", "inner_folds": 2, "rates": (1e-4, 1e-3)}, 2 * 2, 1),
        ({"inner": "hold-out", "tuning_share": 0.34}, 1, 0),
    ],
)
def test_as_many_trainings_are_counted_as_a_run_does(
    tiles: TunedTiles,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, object],
    n_trials: int,
    n_refits: int,
) -> None:
    bench = small_bench(tiles, loop__epochs=1, loop__batch_size=5, augment__dihedral=False, augment__stain=0.0,
                        keep_tuned=True, least_groups=100, **settings)  # fmt: skip
    done: list[loop.Trained] = []
    real = loop._Training.result

    def counted(training: loop._Training) -> loop.Trained:
        done.append(real(training))
        return done[-1]

    monkeypatch.setattr(loop._Training, "result", counted)  # asked for once, at the end of every training
    sets = two_folds(tiles)
    for train_N in sets:
        tune_set(bench, train_N, TuningRequest(SweepConfig(penalties=(0.1,), folds=2)))
    work = count_work(bench, sets)
    assert (work.n_trials, work.n_refits) == (3 * n_trials, 3 * n_refits)
    assert work.n_trainings == len(done)
    assert work.n_steps == sum(one.n_steps for one in done)
    assert work.n_scored == sum(one.logit_EnK.shape[0] * one.logit_EnK.shape[1] for one in done)
    assert (work.n_sets, work.n_tiles) == (3, len(tiles.tiles))


def test_steps_are_timed_on_real_tiles_and_nothing_is_kept(tiles: TunedTiles) -> None:
    bench = small_bench(tiles, loop__batch_size=4, loop__epochs=3, views=2)
    before = {path: path.stat().st_mtime_ns for path in tiles.cache.rglob("*")}
    found = estimate_tuning(bench, two_folds(tiles), plan_memory(bench), 0.1)
    assert {path: path.stat().st_mtime_ns for path in tiles.cache.rglob("*")} == before
    assert len(found.timed.steps_s) >= 3 and min(found.timed.steps_s) > 0
    assert found.timed.scored_s > 0 and found.timed.prefix_s > 0
    low, high = found.hours_between
    assert 0 < low <= found.hours <= high
    n_tokens = (32 // 4) ** 2 + 1
    assert found.n_prefix == len(tiles.tiles) * 2
    assert found.disk_bytes == found.n_prefix * 2 * n_tokens * DIM
    whole = estimate_tuning(small_bench(tiles, method__name="full"), two_folds(tiles), PLAN, 0.1)
    assert (whole.n_prefix, whole.disk_bytes, whole.timed.prefix_s) == (0, 0, 0.0)


def test_a_long_step_is_timed_with_fewer_tiles(tiles: TunedTiles) -> None:
    bench = small_bench(tiles, method__name="full", loop__batch_size=4096)
    found = estimate_tuning(bench, two_folds(tiles), PLAN, 0.05)
    assert found.timed.n_timed < 4096
    assert any("timed with" in note for note in found.notes)


def test_hours_are_steps_scoring_and_frozen_blocks() -> None:
    found = TuningEstimate(WORK, TIMED, PLAN, n_prefix=50, prefix_bytes=10**6)
    assert found.hours == pytest.approx((600 * 1.0 + 1000 * 0.1 + 50 * 0.2) / 3600)
    assert found.hours_between[0] == pytest.approx((480 * 0.5 + 110) / 3600)
    assert found.hours_between[1] == pytest.approx((600 * 1.5 + 110) / 3600)
    assert found.words == "up to 54 trainings of 600 steps in all, about 11.8 min (5.8 min to 16.8 min) on a card"
    tables = found.tables()
    assert [table.title for table in tables] == ["Fine-tuning", "Memory (computed, not measured)", "Prices"]
    rows = dict(row.texts for row in tables[0].rows)
    assert rows["trainings, at most"] == "54"
    assert rows["room for their output"] == "50.0 MB"
    assert time_words(2.5) == "2.5 h"


def test_a_price_is_worked_out_on_its_own_card_alone() -> None:
    price = MachinePrice("big.1", "a card", 1, 16.0, 2.0, "here", "2026-01-01", "a list")
    on_it = TuningEstimate(WORK, TIMED, PLAN, 0, 0, (), (price,))
    usd = f"about {2 * on_it.hours:.2f} USD"
    assert any(usd in line for line in on_it.price_lines())
    other = TuningEstimate(WORK, TIMED, PLAN, 0, 0, (), (MachinePrice(**{**vars(price), "card": "another"}),))
    assert not any("about" in line and "USD" in line for line in other.price_lines()[1:])
    assert any("2.000 USD an hour" in line for line in other.price_lines())


def test_every_price_has_a_date_and_a_source() -> None:
    assert PRICES
    for row in PRICES:
        assert dt.date(2026, 1, 1) <= dt.date.fromisoformat(row["date"]) <= dt.datetime.now(dt.UTC).date()
        assert "." in row["source"] and row["region"] == "us-east-1"
        assert row["usd_per_hour"] > 0 and row["card_gib"] > 0
    assert machine_prices()[0].name == "g4dn.xlarge"
    assert machine_prices()[0].usd_per_hour == 0.526


# ---- As a user sees it ----


QUICK = ("--train-magnification", "100X", "--backbone", "lite0", "--set", "view.size_px=64", "--set",
         "finetune.loop.epochs=1", "--set", "finetune.loop.batch_size=4", "--set", "finetune.inner_folds=2",
         "--outer", "2")  # fmt: skip


def test_the_command_says_what_a_fine_tuning_takes(histotune: Histotune, breakhis: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    told = histotune("finetune", "breakhis", "--data", breakhis, "--out", out, *QUICK, "--estimate", "--fit", "15GB")
    assert told.code == 0, told.err
    assert "Memory (computed, not measured)" in told.out
    assert "14.0 GiB" in told.out
    assert "Up to 9 trainings of" in " ".join(told.out.split())  # (2 outer folds + 1) x (1 rate x 2 inner folds + 1)
    assert "g4dn.xlarge" in told.out and "time elsewhere is not guessed" in " ".join(told.out.split())
    assert not out.exists()
    wrong = histotune("finetune", "breakhis", "--data", breakhis, "--out", out, *QUICK, "--estimate", "--fit", "15")
    assert wrong.code == 2 and "no amount of memory" in wrong.err
    little = histotune("finetune", "breakhis", "--data", breakhis, "--out", out, *QUICK, "--fit", "10kB")
    assert little.code == 2 and little.err.count("error:") == 1 and "not even one tile" in little.err
    assert not out.exists()


@pytest.mark.slow
def test_a_run_says_it_before_it_starts(histotune: Histotune, breakhis: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    probe = ("--set", "sweep.penalties=[0.1]", "--set", "sweep.folds=2", "--set", "interval.n_resamples=200")
    done = histotune("finetune", "breakhis", "--data", breakhis, "--out", out, *QUICK, *probe)
    assert done.code == 0, done.err
    assert done.err.index("memory: a step takes") < done.err.index("fine-tuning: up to 9 trainings of")
