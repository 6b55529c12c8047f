"""What a run found as one small table for the terminal: AUROC with its interval and n, a row for each question."""

from __future__ import annotations

from typing import TYPE_CHECKING

from histotune.datasets.dataset_spec import group_words
from histotune.report.tables import summary_table
from histotune.report.words import Footnotes, count, metric_score, sample_size, score_cell
from histotune.statistics.predictions import FULL_COVERAGE
from histotune.tools.marks import FLOORS, SYNTHETIC
from histotune.tools.streams import one_line
from histotune.tools.table import Column, Row, Span, Table

if TYPE_CHECKING:
    from histotune.evaluation.findings import Findings
    from histotune.report.tables import SummaryRow
    from histotune.statistics.predictions import Score

TERMINAL_WIDTH = 80
"""In which the table fits, where names are not longer than those of the data sets that have a reader."""


def run_table(findings: Findings) -> Table:
    """Return what a run found as a table of five columns that fits a terminal of 80; the page has everything else.

    Args:
        findings: What the run found.

    Returns:
        A row for the probe on each domain with its strongest floor, the random image split, and what was carried over;
        notes say what is missing, and where an interval holds the truth less often than it should.
    """
    summary, notes = summary_table(findings), Footnotes()
    rows = tuple(_line(row, notes, hide_synthetic=summary.synthetic) for row in summary.rows)
    levels = {one.interval.level for row in summary.rows for one in row.arm.scores if one.interval is not None}
    level = f"{levels.pop() * 100:g} % interval" if len(levels) == 1 else "interval"
    columns = (
        Column("", min_chars=14),
        Column("AUROC", "right", "whole"),
        Column(level, fit="whole"),
        Column("tiles", "right", "whole"),
        Column("from", "right", "whole"),
    )
    return Table(summary.title, columns, rows, notes.lines(), (SYNTHETIC,) if summary.synthetic else ())


def _line(row: SummaryRow, notes: Footnotes, *, hide_synthetic: bool) -> Row:
    """Return a domain's row: what it is, the score, its interval or the letter of the reason, and its n."""
    n_tiles, n_groups = sample_size(row.arm)
    value, interval = _cells(row, metric_score(row.arm, "auroc"), notes)
    marks = (mark for mark in row.arm.marks if not (hide_synthetic and mark == SYNTHETIC))
    label = (Span(one_line(row.label)), *(Span(f" {mark}", "mark") for mark in marks))
    n = (count(n_tiles), group_words(row.arm.domain, n_groups))
    return Row((label, value, interval, *n), "faint" if row.arm.arm in FLOORS else "plain")


def _cells(row: SummaryRow, score: Score | None, notes: Footnotes) -> tuple[str, str]:
    if score is None:
        return "–", ""
    cell = score_cell(row.arm, score, None, notes)
    if not cell.interval:
        return "–", f"{cell.value} {cell.note}"
    short = _coverage_words(score)
    note = " ".join(part for part in (cell.note, notes.mark(short) if short else "") if part)
    return cell.value, f"{cell.interval} {note}".strip()


def _coverage_words(score: Score) -> str:
    """Say how often such an interval holds the truth, where that is less often than it should."""
    one = score.interval
    if one is None or one.coverage is None or one.coverage >= FULL_COVERAGE:
        return ""
    return f"in simulations, {one.coverage * 100:.0f} % of such {one.level * 100:g} % intervals held the truth"
