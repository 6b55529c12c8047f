"""What a head decides as a table: true classes against decisions, sensitivity and specificity, the threshold used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from histotune.report.words import Footnotes, count, number, score_cell
from histotune.tools.marks import SYNTHETIC
from histotune.tools.table import Column, Row, Table

if TYPE_CHECKING:
    from histotune.evaluation.findings import Decisions, Finding, ScoredArm
    from histotune.statistics.predictions import Score

MOST_CLASSES = 10
"""With more classes only the rates are shown; ``scores.json`` has the whole matrix."""


def decision_tables(finding: Finding) -> tuple[Table, ...]:
    """Return what the probe decides on each domain of a finding.

    Args:
        finding: A finding; rows without decisions are passed over.

    Returns:
        A table per row that has them: a line per true class, a column per decision, and both rates.
    """
    return tuple(_table(row, row.decisions) for row in finding.rows if row.decisions is not None)


def threshold_words(decisions: Decisions) -> str:
    """Return from where on class 1 is said.

    Example:
        >>> from histotune.evaluation.findings import Decisions
        >>> threshold_words(Decisions(("benign", "malignant"), ((2, 1), (0, 3)), (0.4,), ()))
        'malignant is said from a probability of 0.400 on'
    """
    thresholds = decisions.thresholds
    if not thresholds:
        return "the most probable class is said"
    positive = f"{decisions.class_names[1]} is said from a probability of"
    if len(thresholds) == 1:
        return f"{positive} {number(thresholds[0])} on"
    return f"{positive} {number(thresholds[0])} to {number(thresholds[-1])} on, by the head of each fold"


def _table(row: ScoredArm, decisions: Decisions) -> Table:
    names, notes = decisions.class_names, Footnotes()
    shows_matrix = len(names) <= MOST_CLASSES
    said = tuple(Column(f"said {name}", "right") for name in names) if shows_matrix else ()
    columns = (Column("true class"), Column("tiles", "right"), *said, Column("Sensitivity"), Column("Specificity"))
    lines = []
    for rates, counts in zip(decisions.rates, decisions.counts, strict=True):
        cells = tuple(count(n) for n in counts) if shows_matrix else ()
        shares = (_share(row, score, notes) for score in (rates.sensitivity, rates.specificity))
        lines.append(Row((rates.name, count(sum(counts)), *cells, *shares)))
    marks = "".join(f" {mark}" for mark in row.marks if mark != SYNTHETIC)
    more = () if shows_matrix else (f"The matrix of {len(names)} classes is in scores.json.",)
    title = f"Decisions, {row.domain}{marks}: {threshold_words(decisions)}"
    own = (SYNTHETIC,) if SYNTHETIC in row.marks else ()
    return Table(title, columns, tuple(lines), (*notes.lines(), *more), marks=own)


def _share(row: ScoredArm, score: Score, notes: Footnotes) -> str:
    cell = score_cell(row, score, None, notes)
    return " ".join(part for part in (cell.value, cell.interval, cell.note) if part)
