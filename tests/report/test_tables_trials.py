from __future__ import annotations

import io
import math

import numpy as np
import polars as pl
import pytest
from rich.console import Console
from scipy import stats

from histotune.heads.config import SweepConfig
from histotune.heads.family import SweepSupport
from histotune.heads.sweep import sweep
from histotune.report.tables import TRIALS_LAYOUT, BestSoFar, interval_words, line_names, trials_table
from tests.heads.samples import make_task
from tests.report.made_up import made_trials


def printed(trials: pl.DataFrame, **options: int) -> str:
    stream = io.StringIO()
    Console(file=stream, width=140).print(trials_table(trials, n_groups=24, **options).as_rich(TRIALS_LAYOUT))
    return stream.getvalue()


def test_the_best_trials_stand_first_and_the_chosen_one_says_that_it_is_optimistic() -> None:
    trials = made_trials().head(18).drop("trained_on", "backbone")
    text = printed(trials)
    lines = [line for line in text.splitlines() if "pooled" in line or "stage4" in line]
    losses = [float(line.split("│")[4]) for line in lines]
    assert losses == sorted(losses) and len(lines) == 10
    chosen = next(line for line in lines if "chosen, optimistic" in line)
    assert "0.01" in chosen and "0.480 " in chosen and chosen is lines[0]
    assert "10 of 18" in text and "the lowest of several was selected" in text


def test_the_chosen_trial_is_shown_wherever_it_stands() -> None:
    trials = made_trials().head(18).with_columns(chosen=pl.Series([False] * 8 + [True] + [False] * 9))
    assert "chosen, optimistic" in printed(trials, top=1)


def test_a_diverged_trial_shows_no_score_and_stands_last() -> None:
    trials = (
        made_trials()
        .head(3)
        .with_columns(
            diverged=pl.Series([True, False, False]), log_loss=pl.Series([math.nan, 0.7, 0.6]), chosen=pl.lit(False)
        )
    )
    lines = [line for line in printed(trials).splitlines() if "pooled" in line]
    assert "diverged" in lines[-1] and "nan" not in printed(trials).lower()


@pytest.mark.parametrize("n_groups", [5, 14, 200])
def test_the_interval_is_scipys_t_interval(n_groups: int) -> None:
    low, high = stats.t.interval(0.95, n_groups - 1, loc=0.5, scale=0.04)
    assert interval_words(0.5, 0.04, n_groups) == f"[{low:.3f}, {high:.3f}]"
    assert interval_words(0.5, 0.04, 4) == interval_words(0.5, None, 20) == interval_words(0.5, math.nan, 20) == "-"


def test_lines_are_named_by_weighting_only_where_there_are_several() -> None:
    trials = made_trials().head(2)
    assert line_names(trials) == ["pooled", "pooled"]
    assert line_names(trials.with_columns(class_weight=pl.lit("balanced"))) == ["pooled", "pooled"]
    weighted = trials.with_columns(class_weight=pl.Series(["none", "balanced"]))
    assert line_names(weighted) == ["pooled, classes as they are", "pooled, classes balanced"]


def test_the_live_line_ends_at_the_lowest_loss_of_the_largest_training_set() -> None:
    embeddings, task = make_task()
    shown: list[str] = []
    config = SweepConfig(penalties=(0.01, 0.1, 1.0), folds=4, class_weights=("none", "balanced"))
    result = sweep(embeddings, task, config, SweepSupport(watch=BestSoFar(shown.append)))[-1]
    lowest = result.trials["log_loss"].min()
    assert f"log-loss {lowest:.3f} [" in shown[-1]
    assert shown[-1].startswith("6 of 6 trials; best so far (optimistic) pooled, ")
    plain = sweep(embeddings, task, config)[-1]
    np.testing.assert_array_equal(plain.head.weight_KD, result.head.weight_KD)
