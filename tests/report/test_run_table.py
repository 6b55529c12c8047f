"""The small table at the end of a run: five columns, eighty wide, every number with its interval and its n."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from histotune.evaluation.findings import Findings
from histotune.report.run_table import TERMINAL_WIDTH, run_table
from histotune.statistics.predictions import Interval, Score
from histotune.tools.marks import PROBE
from histotune.tools.table import OPEN
from tests.report.made_up import METHOD, REASON, made_findings


def named(findings: Findings, old: str, new: str) -> Findings:
    """Return findings with another name of a data set."""
    tables = tuple(
        replace(one, rows=tuple(replace(row, domain=row.domain.replace(old, new)) for row in one.rows))
        for one in findings.findings
    )
    return replace(findings, findings=tables)


def printed(findings: Findings, width: int = TERMINAL_WIDTH) -> list[str]:
    stream = io.StringIO()
    Console(file=stream, width=width).print(run_table(findings).as_rich(OPEN))
    return stream.getvalue().splitlines()


def test_it_has_five_columns_and_fits_a_terminal_of_eighty_without_a_broken_row() -> None:
    findings = named(made_findings(synthetic=True), "pcam", "patch_camelyon")
    table = run_table(findings)
    assert len(table.columns) == 5
    lines = printed(findings)
    assert max(map(len, lines)) <= TERMINAL_WIDTH
    assert len(lines) == len(table.rows) + 2  # the title and the names of the columns


def test_every_row_has_its_number_interval_and_n() -> None:
    findings = named(made_findings(), "pcam", "patch_camelyon")
    rows = {row.texts[0]: row.texts[1:] for row in run_table(findings).rows}
    assert rows["in-domain: breakhis 100X"] == ("0.842", "[0.772, 0.892]", "96", "24 cases")
    assert rows["leak's price (paired) LEAKY"] == ("+0.109", "[0.039, 0.159]", "96", "24 cases")
    assert rows["direct: patch_camelyon test TOO NARROW"][-1] == "24 slides"
    assert rows["breakhis 100X → 400X"] == ("0.690", "no interval a", "21", "4 cases")
    assert run_table(findings).notes == (f"a: interval not estimable: {REASON}",)
    assert {row.texts[0] for row in run_table(findings).rows} >= {"random image split LEAKY", "  floor: random weights"}


def test_the_numbers_are_those_of_the_findings() -> None:
    findings = made_findings()
    known = {f"{score.value:.3f}" for one in findings.findings for row in one.rows for score in row.scores}
    for row in run_table(findings).rows:
        assert row.texts[1].lstrip("+−") in known


def test_an_interval_that_falls_short_and_a_score_that_is_none_are_explained() -> None:
    findings = made_findings(only=("in-domain",))
    (found,) = findings.findings
    short = Score("auroc", 0.8, Interval(0.7, 0.9, 0.95, METHOD, 0.87), 96, 24)
    none = Score("auroc", float("nan"), None, 96, 24, reason="one class")
    for score, cells, note in (
        (short, ("0.800", "[0.700, 0.900] a"), "a: in simulations, 87 % of such 95 % intervals held the truth"),
        (none, ("–", "not estimable a"), "a: not estimable: one class"),
    ):
        rows = (replace(found.rows[0], scores=(score,)), *found.rows[1:])
        table = run_table(replace(findings, findings=(replace(found, rows=rows),)))
        assert table.rows[0].texts[1:3] == cells
        assert note in table.notes


def test_marks_are_said_once_for_all_or_beside_their_row() -> None:
    assert run_table(made_findings(synthetic=True)).marks == ("SYNTHETIC",)
    assert run_table(made_findings()).marks == ()


@pytest.mark.parametrize("name", ["[red]x[/red]", "a\x1b[31mb", "a\nverdict: ok", "\x9b2J\u2028z"])
def test_a_hostile_domain_is_text_on_one_line(name: str) -> None:
    findings = named(made_findings(only=("in-domain",)), "breakhis 100X", f"own {name}")
    assert findings.findings[0].rows[0].arm == PROBE
    lines = printed(findings, 200)
    assert not re.search("[\x00-\x1f\x7f-\x9f\u2028]", "".join(lines))
    assert not any(line.startswith("verdict") for line in lines)
    assert len(lines) == len(run_table(findings).rows) + 2
    if name.startswith("["):
        assert any(name in line for line in lines)
