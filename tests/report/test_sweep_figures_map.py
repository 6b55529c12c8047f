"""The map of embeddings and the robustness index on the page: bounded, escaped, with what they can't show."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from histotune.evaluation.findings import Artifacts, RobustnessTable, ScoredArm, findings_from_dict
from histotune.report.charts import Chart, PointMap
from histotune.report.drawing import NARROW_PX
from histotune.report.page import render_page
from histotune.report.run_folder import load_run, save_run
from histotune.report.svg import Drawings, draw_svg, inline_svg
from histotune.report.sweep_figures import map_figures
from histotune.report.tables import robustness_lines, robustness_section
from histotune.statistics.predictions import Interval, Score
from tests.report.made_up import made_findings, made_inputs, made_predictions, made_trials


def made_map(n: int = 40, n_groups: int = 8, **columns: pl.Expr) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    table = pl.DataFrame(
        {
            "method": ["pca"] * n,
            "tile_id": [f"t{row:05d}" for row in range(n)],
            "class": ["benign" if row % 2 else "malignant" for row in range(n)],
            "group_id": [f"g{row % n_groups}" for row in range(n)],
            "site": pl.Series([None] * n, dtype=pl.String),
            "scanner": pl.Series([None] * n, dtype=pl.String),
            "stain": pl.Series([None] * n, dtype=pl.String),
            "n_tiles": [n] * n,
            "x": np.round(rng.uniform(-1, 1, n), 4),
            "y": np.round(rng.uniform(-1, 1, n), 4),
            "x_share": [0.31] * n,
            "y_share": [0.12] * n,
        }
    )
    return table.with_columns(**columns)


def made_robustness() -> RobustnessTable:
    interval = Interval(0.31, 0.62, 0.95, "t interval from leaving out one group at a time")
    scores = (Score("robustness_index", 0.47, interval, 80, 24, chance=0.5),
              Score("robustness_index", 0.22, None, 80, 24, reason="site 'A' has 3 groups", chance=0.5))  # fmt: skip
    rows = tuple(
        ScoredArm(arm, "breakhis 100X", "pooled", 2.0, (score,))
        for arm, score in zip(("probe", "random-weight backbone + probe"), scores, strict=True)
    )
    return RobustnessTable("site", rows, ("Compared: the 11 nearest tiles.",))


def n_points(chart: Chart) -> list[int]:
    assert isinstance(chart, PointMap)
    return [len(kind.points) for kind in chart.kinds]


def test_every_tile_is_a_dot_in_both_charts() -> None:
    (figure,) = map_figures(made_map(), synthetic=True)
    by_class, by_group = figure.charts
    assert n_points(by_class) == [20, 20] and sum(n_points(by_group)) == 40
    assert "benign (20)" in by_class.alt and "malignant (20)" in by_class.alt and "SYNTHETIC" in by_class.words
    assert "other groups (15)" in by_group.alt and "g0 (5)" in by_group.alt and "g7" not in by_group.alt
    assert "43\u00a0% of the variance" in figure.caption
    for words in ("can't show", "overlap", "a case lie together", "held-out cases is the evidence", "most tiles"):
        assert words in figure.caption


def test_a_known_site_colours_the_second_panel_and_unknown_ones_are_grey() -> None:
    place = pl.when(pl.col("tile_id") < "t00010").then(None).otherwise(
        pl.when(pl.col("class") == "benign").then(pl.lit("<b>A</b>")).otherwise(pl.lit("B")))  # fmt: skip
    chart = map_figures(made_map(site=place), synthetic=False)[0].charts[1]
    assert chart.title == "By site" and "unknown site (10)" in chart.alt
    shown = str(inline_svg(draw_svg(chart, NARROW_PX), chart, ""))
    assert "&lt;b&gt;A&lt;/b&gt; (15)" in shown and "<b>" not in shown


def test_unknown_groups_and_many_classes_still_make_a_map() -> None:
    table = made_map(**{"class": pl.format("class {}", pl.col("tile_id").str.slice(-1)),
                        "group_id": pl.lit(None, dtype=pl.String)})  # fmt: skip
    by_class, by_group = map_figures(table, synthetic=False)[0].charts
    assert "other classes (20)" in by_class.alt and by_class.alt.count("class 0") == 1
    assert "unknown group (40)" in by_group.alt


def test_tsne_says_what_its_distances_mean() -> None:
    both = pl.concat([made_map(), made_map(method=pl.lit("tsne"), x_share=None, y_share=None)], how="vertical_relaxed")
    pca, tsne = map_figures(both, synthetic=False)
    assert "mean nothing" in tsne.caption and "another seed" in tsne.caption and "variance" not in tsne.caption
    assert "mean nothing" not in pca.caption
    assert map_figures(None, synthetic=False) == ()


def test_the_largest_map_stays_small() -> None:
    (figure,) = map_figures(made_map(2000, 300, n_tiles=pl.lit(30_000)), synthetic=False)
    assert "2,000 of 30,000 tiles, spread over groups" in figure.caption
    assert all(sum(n_points(chart)) == 2000 for chart in figure.charts)
    shown = [str(panel) for panel in Drawings().panels(figure)]
    assert sum(len(panel) for panel in shown) < 250_000
    assert not re.search(r"\d\.\d\d\d", "".join(re.findall(r' d="([^"]*)"', shown[0])))


def test_page_and_folder_keep_the_map_and_the_index(tmp_path: Path) -> None:
    findings = made_findings()
    inside = replace(findings.findings[0], robustness=(made_robustness(),))
    findings = replace(findings, findings=(inside, *findings.findings[1:]))
    artifacts = Artifacts(made_predictions(), made_trials(), embedding_map=made_map())
    inputs = made_inputs(findings=findings, artifacts=artifacts)
    page = render_page(inputs)
    assert page.count("Map of embeddings, 40 tiles") == 1
    assert "Class or site: robustness index" in page and "0.470" in page and "[0.310, 0.620]" in page
    assert "site &#39;A&#39; has 3 groups" in page and "whatever their site" in page
    save_run(inputs, tmp_path)
    again = load_run(tmp_path)
    assert again.artifacts.embedding_map is not None and again.artifacts.embedding_map.equals(made_map())
    assert render_page(again) == page
    assert "Map of embeddings" not in render_page(made_inputs()) and "robustness" not in render_page(made_inputs())


def test_findings_of_older_runs_have_no_index() -> None:
    data = made_findings().as_dict()
    for finding in data["findings"]:  # type: ignore[attr-defined]
        del finding["robustness"]
    assert findings_from_dict(data).findings[0].robustness == ()


def test_a_table_names_the_network_and_says_why_there_is_no_interval() -> None:
    section = robustness_section(made_robustness(), made_findings())
    assert [row.label for row in section.rows] == ["efficientnet-lite0", "random weights"]
    assert [row.floor for row in section.rows] == [False, True]
    assert [row.cell.interval for row in section.rows] == ["[0.310, 0.620]", "no interval"]
    assert [text for _, text in section.footnotes] == [
        "t interval from leaving out one group at a time", "interval not estimable: site 'A' has 3 groups",
    ]  # fmt: skip


def test_the_terminal_gets_a_line_per_row_with_its_reason() -> None:
    known, refused, note = robustness_lines(made_robustness())
    assert known == (
        "Class or site, robustness index on breakhis 100X: 0.470 [0.310, 0.620] (80 tiles, 24 groups; chance 0.500)"
    )
    assert "0.220 (interval not estimable: site 'A' has 3 groups)" in refused
    assert note == "Compared: the 11 nearest tiles."
    nothing = Score("robustness_index", float("nan"), None, 0, 0, reason="one")
    row = ScoredArm("probe", "tiles", "pooled", 2.0, (nothing,))
    (undefined,) = robustness_lines(RobustnessTable("stain", (row,)))
    assert undefined == "Class or stain, robustness index on tiles: not estimable: one"
