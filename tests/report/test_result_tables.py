"""Every result has its tables, and every table can be shown in every form."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from histotune.datasets.describe import describe
from histotune.embeddings.estimate import EmbeddingEstimate, StageRate
from histotune.evaluation.findings import Finding, Findings, PairedDifference, PartTable
from histotune.evaluation.magnifications import MagnificationMatrix, MatrixCell, MatrixStudy, SeenScale
from histotune.evaluation.run_comparison import compare_runs
from histotune.heads.config import SweepConfig
from histotune.heads.sweep import sweep
from histotune.published.leaderboard import RunConditions, make_boards
from histotune.published.published_numbers import published_scores
from histotune.published.study import ProtocolRow, ProtocolStudy
from histotune.report.result_tables import tables_of
from histotune.report.study_pages import cells_table
from histotune.report.tables import score_tables
from histotune.statistics.predictions import Interval, IntervalConfig, Score
from histotune.tools.doctor import Check, MachineDiagnosis
from histotune.tools.table import Table
from histotune.transfer.case import TransferConfig
from histotune.transfer.diagnose import diagnose
from tests.datasets.test_describe import NAMES, breakhis
from tests.evaluation.test_run_comparison import FEW, INTERVAL, contender
from tests.heads.samples import make_task
from tests.report.made_up import made_findings
from tests.report.test_study_pages_audit import made_audit
from tests.report.test_sweep_figures_map import made_robustness
from tests.transfer.conftest import make_transfer

AUROC = Score("auroc", 0.8, Interval(0.7, 0.9, 0.95, "a method"), 20, 10)


def findings() -> Findings:
    found = made_findings(synthetic=True)
    first = found.findings[0]
    parts = (PartTable("site", (replace(first.rows[0], domain="site A"),), "Two sites."),)
    paired = (
        PairedDifference("breakhis 100X", first.rows[1].arm, replace(AUROC, name="auroc difference"), "p = 0.01"),
    )
    first = replace(first, parts=parts, paired=paired, robustness=(made_robustness(),))
    return replace(found, findings=(first, *found.findings[1:]))


def matrices() -> MatrixStudy:
    gap = replace(AUROC, name="auroc difference", value=-0.1)
    undefined = Score("auroc", float("nan"), None, 3, 2, reason="no tile of class 'malignant'")
    cells = (
        MatrixCell("40X", "40X", (AUROC, AUROC, AUROC), (), 40, 10),
        MatrixCell("40X", "400X", (undefined, AUROC, AUROC), (gap, gap, gap), 40, 10),
    )
    scales = (SeenScale("40X", 2.1, 0.66, 0.0, 0.5), SeenScale("400X", float("nan"), 0.66, 0.0, 0.5))
    matrix = MagnificationMatrix("as the network sees it", "equal", "short side", cells, scales, ("A note.",))
    return MatrixStudy("breakhis", "lite0", "a protocol", (matrix,), ("TOO NARROW",), "An answer.", "CC", "cited", "h")


def protocol() -> ProtocolStudy:
    row = ProtocolRow("kNN", "cls", "balanced_accuracy", 0.9, float("nan"), 1, "seed", None, "few groups", 9, 3, (), "")
    conditions = RunConditions("pcam", ("normal", "tumour"), "", "test", 9, 9, 9, "lite0", "cls", {}, True, {})
    return ProtocolStudy("eva on pcam", "its test part", (row,), ("It is weak.",), ("LEAKY",), "h", conditions,
                         pl.DataFrame())  # fmt: skip


def estimate() -> EmbeddingEstimate:
    stages = (StageRate("read and decode", 90.0), StageRate("forward", 30.0))
    return EmbeddingEstimate(100, 20, 8, (0.25, 0.5), stages, 384, 0, "cpu", "fp32", ("Assumed.",))


def results(folder: Path) -> dict[str, object]:
    """Return one result of each kind."""
    arms = [contender(name, effect, seed=number) for number, (name, effect) in enumerate([("a", 2), ("b", 1)])]
    embeddings, task = make_task()
    return {
        "findings": findings(),
        "finding": findings().findings[0],
        "matrices": matrices(),
        "comparison": compare_runs(arms, ["auroc"], FEW, INTERVAL),
        "transfer": replace(
            diagnose(make_transfer(), TransferConfig(draws=2), IntervalConfig(n_resamples=200)), marks=("LEAKY",)
        ),
        "protocol": protocol(),
        "audit": replace(made_audit(), synthetic=True),
        "sweep": sweep(embeddings, task, SweepConfig(penalties=(0.1, 1.0)))[-1],
        "board": make_boards(published_scores())[0],
        "description": describe(breakhis(folder, NAMES)),
        "estimate": estimate(),
        "doctor": MachineDiagnosis((Check("software", "torch", "2.1", "warning", "pip install"),)),
    }


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Table, ...]]:
    return {name: tables_of(one) for name, one in results(tmp_path_factory.mktemp("data")).items()}


def test_every_result_has_tables_that_every_form_can_show(every: dict[str, tuple[Table, ...]]) -> None:
    for name, tables in every.items():
        assert tables, name
        for table in tables:
            assert table.rows, (name, table.title)
            assert all(len(row.cells) <= len(table.columns) for row in table.rows)
            rows = list(csv.reader(io.StringIO(table.as_csv(), newline="")))
            assert rows[0] == list(table.names) and len(rows) == len(table.rows) + 1
            assert table.as_markdown().count("\n| ") >= len(table.rows)
            assert table.as_latex().count(r"\\[2pt]") == len(table.rows)
            assert table.as_html().count("<tr>") == len(table.rows) + 1
            Console(file=io.StringIO(), width=100).print(table.as_rich())
            assert table.as_text().count("\n") >= len(table.rows)


def test_findings_tell_every_score_of_the_page_with_its_marks_and_protocol(
    every: dict[str, tuple[Table, ...]],
) -> None:
    text = "\n".join(table.as_markdown() for table in every["findings"])
    for finding in findings().findings:
        assert finding.protocol in text
        for table in score_tables(finding):
            cells = [cell for group in table.groups for row in group.rows for cell in row.cells if cell is not None]
            assert all(f"{cell.value} {cell.interval}".strip() in text for cell in cells)
            assert all(f"{letter}: {words}" in text for letter, words in table.footnotes)
    assert "probe, random image split LEAKY" in text and "probe TOO NARROW" in text
    assert [table.marks for table in every["findings"][1:]] == [("SYNTHETIC",)] * (len(every["findings"]) - 1)
    titles = [table.title for table in every["findings"]]
    assert "Held-out cases: the probe by site" in titles and "Held-out cases: the probe less each floor" in titles
    assert "Class or site: robustness index" in titles and titles[-1] == "What each sweep chose"
    assert "0.47" in text and "Two sites." in text


def test_marks_and_weaknesses_stand_beside_the_numbers(every: dict[str, tuple[Table, ...]]) -> None:
    assert all(table.marks == ("LEAKY",) for table in (*every["transfer"], *every["protocol"]))
    assert every["protocol"][0].notes == ("a: few groups", "It is weak.")
    assert all("LEAKY" in table.title for table in every["comparison"] if table.columns[0].name == "run")
    assert every["audit"][0].marks == ("LEAKY",)
    assert {table.marks for table in every["audit"][1:]} == {("SYNTHETIC",)}


def test_numbers_of_details_stand_to_the_right(every: dict[str, tuple[Table, ...]]) -> None:
    _, details, *_ = every["audit"]
    assert [column.align for column in details.columns] == ["left", "right"]
    assert details.rows[-1].texts[1] == "502"


def test_the_cells_of_a_matrix_are_those_of_its_file(every: dict[str, tuple[Table, ...]]) -> None:
    grid, scales, cells = every["matrices"]
    assert cells.as_csv() == cells_table(matrices()).as_csv()
    assert grid.rows[0].texts == ("40X", "40 of 10", "0.800 [0.700, 0.900]", "n. e.")
    assert scales.rows[1].texts[1] == "–" and scales.notes == ("A note.",)


def test_an_estimate_names_its_limit(every: dict[str, tuple[Table, ...]]) -> None:
    (table,) = every["estimate"]
    assert [row.texts for row in table.rows] == [
        ("read and decode", "90.0", ""), ("forward", "30.0", "the limit"), ("all together", "21.3", ""),
    ]  # fmt: skip
    assert table.title == "80 of 100 tiles to compute (fp32 on cpu)" and table.notes == ("Assumed.",)


def test_a_finding_without_rows_has_no_tables() -> None:
    assert tables_of(Finding("direct", "Nothing", "none", ())) == ()


def test_what_is_no_result_is_refused() -> None:
    with pytest.raises(TypeError, match="no tables are made of int"):
        tables_of(3)
    with pytest.raises(TypeError, match="ndarray"):
        tables_of(np.zeros(2))
