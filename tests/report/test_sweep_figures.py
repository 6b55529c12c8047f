"""Plots of a sweep: every line is there, diverged trials are not, and saved pictures stand alone."""

from __future__ import annotations

import math
from pathlib import Path
from xml.etree import ElementTree

import polars as pl

from histotune.evaluation.findings import Artifacts
from histotune.report.charts import Curves
from histotune.report.page import render_page
from histotune.report.run_folder import load_run, save_run
from histotune.report.svg import Drawings
from histotune.report.sweep_figures import TrainedOn, label_efficiency_figure, plot_name, trials_figure
from tests.report.made_up import made_inputs, made_predictions, made_trials

KNOWN = {"breakhis 100X": TrainedOn(True, 2), "pcam train": TrainedOn(False, 2)}


def made_growth(*, refused: bool = False) -> pl.DataFrame:
    rows = [
        (metric, n, 6.0 * n, value, None if refused else value - 0.05, None if refused else value + 0.04, 5,
         "class 'benign' has 2 groups; an interval needs 5" if refused else "percentile bootstrap")
        for metric, start, step in (("auroc", 0.6, 0.05), ("balanced_accuracy", 0.55, 0.05), ("log_loss", 0.7, -0.04))
        for n, value in ((n, start + step * k) for k, n in enumerate((4, 8, 16, 22)))
    ]  # fmt: skip
    names = ("metric", "n_groups", "n_tiles", "value", "low", "high", "n_draws", "method")
    return pl.DataFrame(rows, schema=names, orient="row", schema_overrides={"low": pl.Float64, "high": pl.Float64})


def test_a_line_per_pooling_and_weighting_and_a_panel_per_training_set() -> None:
    trials = made_trials().with_columns(class_weight=pl.lit("none"))
    both = pl.concat([trials, trials.with_columns(class_weight=pl.lit("balanced"), chosen=pl.lit(False))])
    figure = trials_figure(both, KNOWN)
    assert figure is not None
    assert len(figure.charts) == 2
    for chart in figure.charts:
        assert isinstance(chart, Curves)
        assert [line.label for line in chart.lines] == [
            f"{pooling}, classes {how}" for how in ("as they are", "balanced") for pooling in ("pooled", "stage4")
        ]
    assert "optimistic" in figure.caption


def test_diverged_trials_are_not_drawn_and_families_without_a_penalty_have_no_plot() -> None:
    trials = made_trials().head(9).with_columns(trained_on=pl.lit("pcam train"))
    broken = trials.with_columns(log_loss=pl.when(pl.col("penalty") < 1e-3).then(math.nan).otherwise("log_loss"))
    figure = trials_figure(broken, KNOWN)
    assert figure is not None
    chart = figure.charts[0]
    assert isinstance(chart, Curves)
    assert all(math.isfinite(y) for line in chart.lines for _, y in line.points)
    assert "6 trials" in chart.alt
    assert trials_figure(trials.drop("penalty"), KNOWN) is None
    assert trials_figure(trials.with_columns(log_loss=pl.lit(math.nan)), KNOWN) is None


def test_trained_heads_are_points_over_their_learning_rates() -> None:
    n = 6
    trials = pl.DataFrame(
        {"pooling": ["cls"] * n, "class_weight": ["none"] * n, "penalty": [0.0] * n, "converged": [True] * n,
         "lr": [10.0 ** -k for k in range(1, n + 1)], "optimizer": ["adamw", "sgd"] * 3,
         "trained_on": ["pcam train"] * n,
         "log_loss": [math.nan, 0.6, 0.5, 0.61, 0.52, 0.69], "log_loss_se": [math.nan, *[0.02] * 5],
         "chosen": [False, False, True, False, False, False]}
    )  # fmt: skip
    figure = trials_figure(trials, KNOWN)
    assert figure is not None
    chart = figure.charts[0]
    assert isinstance(chart, Curves)
    assert not any(line.joined for line in chart.lines)
    assert [line.label for line in chart.lines] == ["cls, sgd", "cls, adamw"]
    assert "cls, adamw at learning rate 0.001, log-loss 0.500 ± 0.020" in chart.alt
    assert chart.x.label == "Learning rate" and "5 trials" in chart.alt
    assert "Not drawn: 1 that diverged" in figure.caption
    assert plot_name(trials) == "learning-rate"


def test_growth_has_a_panel_per_metric_with_every_number_in_words() -> None:
    figure = label_efficiency_figure(made_growth(), synthetic=True)
    assert figure is not None
    assert len(figure.charts) == 3
    assert "22 groups: 0.750 [0.700, 0.790]" in figure.charts[0].alt
    assert all("SYNTHETIC" in chart.words for chart in figure.charts)
    assert "5 draws" in figure.caption and "percentile bootstrap" in figure.caption
    chart = figure.charts[0]
    assert isinstance(chart, Curves)
    assert len(chart.lines[0].band) == 4


def test_growth_says_why_there_is_no_interval() -> None:
    figure = label_efficiency_figure(made_growth(refused=True), synthetic=False)
    assert figure is not None
    assert "needs 5" in figure.caption and isinstance(figure.charts[0], Curves)
    assert not figure.charts[0].lines[0].band and "no interval" in figure.charts[0].note
    assert label_efficiency_figure(made_growth().clear(), synthetic=False) is None


def test_the_page_and_the_run_folder_keep_the_growth(tmp_path: Path) -> None:
    inputs = made_inputs(artifacts=Artifacts(made_predictions(), made_trials(), made_growth()))
    save_run(inputs, tmp_path)
    again = load_run(tmp_path)
    assert again.artifacts.label_efficiency is not None
    assert again.artifacts.label_efficiency.equals(made_growth())
    assert render_page(again) == render_page(inputs)
    assert "What more training groups would bring" in render_page(inputs)
    assert "What more training groups would bring" not in render_page(made_inputs())


def test_saved_plots_open_by_themselves(tmp_path: Path) -> None:
    figure = trials_figure(made_trials(), KNOWN)
    assert figure is not None
    drawings = Drawings(tmp_path / "plots")
    drawings.panels(figure)
    drawings.finish()
    assert sorted(path.name for path in (tmp_path / "plots").glob("*.svg")) == ["penalty-2.svg", "penalty.svg"]
    root = ElementTree.fromstring((tmp_path / "plots" / "penalty.svg").read_text(encoding="utf-8"))
    assert root.tag == "{http://www.w3.org/2000/svg}svg" and root.get("width", "").endswith("pt")
