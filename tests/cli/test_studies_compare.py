"""``histotune compare`` from run folders to a page."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from histotune.cli.main import app
from histotune.evaluation.run_comparison import Ranking, RunComparison, compare_runs
from histotune.report.run_folder import save_run
from histotune.report.study_pages import comparison_tables, write_comparison_page
from histotune.statistics.mean_ranks import rank_arms
from histotune.statistics.predictions import ComparisonConfig, IntervalConfig
from histotune.studies.compare import read_contenders
from histotune.tools.errors import UserError
from tests.report.made_up import made_inputs


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two runs of two backbones on the same made-up tiles."""
    folder = tmp_path_factory.mktemp("runs")
    inputs = made_inputs()
    other = inputs.artifacts.predictions.with_columns(
        pl.Series("probability", 1.0 - np.array(inputs.artifacts.predictions["probability"].to_list()),
                  dtype=inputs.artifacts.predictions["probability"].dtype),
        pl.Series("logit", -np.array(inputs.artifacts.predictions["logit"].to_list()),
                  dtype=inputs.artifacts.predictions["logit"].dtype),
    )  # fmt: skip
    for name, table, backbone in (("one", inputs.artifacts.predictions, "lite0"), ("two", other, "midnight <b>")):
        (folder / name).mkdir()
        save_run(
            replace(inputs, findings=replace(inputs.findings, backbone=backbone),
                    artifacts=replace(inputs.artifacts, predictions=table)),
            folder / name,
        )  # fmt: skip
    return folder / "one", folder / "two"


def test_the_command_compares_and_saves(runs: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "comparison"
    done = CliRunner().invoke(app, ["compare", *map(str, runs), "--permutations", "99", "--out", str(out)])
    assert done.exit_code == 0, done.output
    saved = json.loads((out / "comparison.json").read_text(encoding="utf-8"))
    assert saved["names"] == ["lite0", "midnight <b>"] and saved["comparison"]["n_permutations"] == 99
    assert saved["families"][0]["finding"] == "in-domain"
    page = (out / "comparison.html").read_text(encoding="utf-8")
    assert "midnight &lt;b&gt;" in page and "<b>" not in page and page.count("<script") == 1
    assert "lite0 − midnight" in done.output


def test_scores_are_those_of_the_reports(runs: tuple[Path, Path]) -> None:
    found = compare_runs(read_contenders(runs), ["auroc"], ComparisonConfig(n_permutations=99), IntervalConfig())
    for family in found.families:
        (_, one), (_, two) = family.scores
        assert one.score.value + two.score.value == pytest.approx(1.0)  # the second run says the opposite
        assert family.comparisons[0].difference.value == pytest.approx(one.score.value - two.score.value)


def test_folders_name_runs_of_one_backbone(runs: tuple[Path, Path], tmp_path: Path) -> None:
    again = tmp_path / "again"
    again.symlink_to(runs[0])
    with pytest.raises(UserError, match="itself"):
        read_contenders([runs[0], again])
    copy = tmp_path / "x" / "one"
    shutil.copytree(runs[0], copy)
    names = {one.name for one in read_contenders([runs[0], copy])}
    assert names == {f"{runs[0].parent.name}/one", "x/one"}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--metric", "aurocc"], "did you mean: auroc"),
        (["--pair", "lite0,midnigth"], "a pair names two"),
        (["--pair", "lite0"], "a pair names two"),
    ],
)
def test_bad_input_is_one_message(runs: tuple[Path, Path], more: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        CliRunner().invoke(app, ["compare", *map(str, runs), *more], catch_exceptions=False)


def test_mean_ranks_stand_on_the_page_and_in_a_table(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((6, 3)) + np.array([0.0, 0.1, 0.8])
    ranks = rank_arms(values, [f"set {n}" for n in range(6)], ["a", "b", "c"])
    found = RunComparison(("a", "b", "c"), (), (Ranking("auroc", ranks),))
    (table,) = comparison_tables(found)
    assert table.rows[0].texts == ("c", f"{ranks.mean_ranks[0]:.2f}") and "Friedman" in table.title
    write_comparison_page(found, "histotune compare", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert f"critical difference {ranks.critical_difference:.2f}" in page and "<svg" in page


def test_rows_of_a_published_protocol_are_contenders(tmp_path: Path, runs: tuple[Path, Path]) -> None:
    table = pl.read_parquet(runs[0] / "predictions.parquet").filter(
        (pl.col("arm") == "probe") & (pl.col("finding") == "cross-magnification")
    )
    folder = tmp_path / "eva"
    folder.mkdir()
    seeds = [table.with_columns(seed=pl.lit(seed, pl.Int32), row=pl.lit(row), pooling=pl.lit("cls"))
             for row in ("linear layer", "kNN, cosine") for seed in (0, 1)]  # fmt: skip
    pl.concat(seeds).write_parquet(folder / "predictions.parquet")
    (folder / "protocol.json").write_text(json.dumps({"marks": ["LEAKY"]}), encoding="utf-8")
    contenders = read_contenders([folder])
    assert {one.name for one in contenders} == {"eva: linear layer, cls", "eva: kNN, cosine, cls"}
    found = compare_runs(contenders, ["auroc"], ComparisonConfig(n_permutations=99), IntervalConfig())
    assert found.families and all(family.marks == ("LEAKY",) for family in found.families)
    assert all(pair.difference.value == 0.0 for family in found.families for pair in family.comparisons)
    assert all(
        len(score.seed_values) == 2 and score.seed_sd == 0.0 for family in found.families for _, score in family.scores
    )
    assert "averaged over 2 seeds, SD of the seeds' own 0.000" in comparison_tables(found)[0].rows[0].texts[1]
    (folder / "predictions.parquet").write_bytes(b"cut")
    with pytest.raises(UserError, match="damaged"):
        read_contenders([folder])
