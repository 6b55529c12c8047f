"""Whatever a study gives back, as tables: ``tables_of(result)``."""

from __future__ import annotations

from dataclasses import replace
from functools import singledispatch
from typing import TYPE_CHECKING

from histotune.audit.verdicts import Audit, AuditTable
from histotune.embeddings.estimate import EmbeddingEstimate
from histotune.evaluation.findings import Finding, Findings
from histotune.evaluation.magnifications import MatrixStudy
from histotune.evaluation.run_comparison import RunComparison
from histotune.heads.head import SweepResult
from histotune.published.leaderboard import Board
from histotune.published.study import ProtocolStudy
from histotune.report.decision_tables import decision_tables
from histotune.report.study_pages import cell_text, cells_table, comparison_tables, matrix_table
from histotune.report.study_tables import board_table, transfer_tables
from histotune.report.tables import (
    audit_table,
    findings_table,
    part_finding,
    protocol_table,
    robustness_section,
    score_tables,
    trials_table,
)
from histotune.report.words import (
    chosen_trial,
    count,
    format_score,
    group_count,
    metric_label,
    metric_of,
    nested_estimates,
    number,
    selected_score,
    temperature,
    threshold,
    weighting_words,
)
from histotune.tools.marks import SYNTHETIC, short_words
from histotune.tools.table import Column, Row, Span, Table, columns_of, rows_of, table_of
from histotune.transfer.case import Diagnosis

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from histotune.evaluation.findings import RobustnessTable
    from histotune.evaluation.magnifications import MagnificationMatrix
    from histotune.report.tables import RobustnessRow, RowGroup, ScoreTable, SummaryLine
    from histotune.report.words import Cell


@singledispatch
def tables_of(result: object) -> tuple[Table, ...]:
    """Return everything that a result's terminal output and pages show as tables.

    Args:
        result: Findings or one finding, a matrix study, a comparison of runs, a diagnosis of a transfer, a protocol
            study, an audit, a sweep, a leaderboard, an estimate; or anything with a method ``tables``, such as the
            description of a data set and the doctor's diagnosis.

    Returns:
        The tables, the most important first; each with its notes and marks.

    Raises:
        TypeError: This is no result.

    Example:
        >>> [table.title for table in tables_of(findings)][:1]  # doctest: +SKIP
        ['A run']
    """
    own = getattr(result, "tables", None)
    if not callable(own):
        raise TypeError(f"no tables are made of {type(result).__name__}")
    return tuple(own())


# ------------------------------------------------------------------------------
# The magnification study and the audit, with their details.


tables_of.register(Diagnosis, transfer_tables)
tables_of.register(RunComparison, comparison_tables)
tables_of.register(ProtocolStudy, lambda result: (protocol_table(result),))
tables_of.register(SweepResult, lambda result: (trials_table(result.trials, result.head.n_groups),))
tables_of.register(Board, lambda result: (board_table(result),))


@tables_of.register(MatrixStudy)
def _of_matrices(result: MatrixStudy) -> tuple[Table, ...]:
    tables = [table for one in result.matrices for table in (matrix_table(one, result.marks), _scales(one))]
    return (*tables, cells_table(result))


def _scales(matrix: MagnificationMatrix) -> Table:
    rows = [(scale.magnification, number(scale.input_mpp), scale.lost or "nothing") for scale in matrix.scales]
    columns = (Column("magnification"), Column("input_mpp, um/px", "right"), Column("lost"))
    return Table("What the network saw, and what the view cost", columns, rows_of(rows), matrix.notes)


@tables_of.register(Audit)
def _of_audit(result: Audit) -> tuple[Table, ...]:
    details = (*(table for finding in result.findings for table in finding.tables), *result.tables)
    marks = (SYNTHETIC,) if result.synthetic else ()
    return (replace(audit_table(result), notes=result.notes), *(_detail(table, marks) for table in details))


def _detail(table: AuditTable, marks: tuple[str, ...]) -> Table:
    numbers = [
        name
        for place, name in enumerate(table.columns)
        if table.rows and all(isinstance(row[place], int | float) for row in table.rows)
    ]
    rows = rows_of([cell_text(cell) for cell in row] for row in table.rows)
    return Table(table.title, columns_of(table.columns, right=numbers), rows, marks=marks)


# ------------------------------------------------------------------------------
# An estimate of what embedding takes.


@tables_of.register(EmbeddingEstimate)
def _of_estimate(result: EmbeddingEstimate) -> tuple[Table, ...]:
    limit = result.limit
    stages = [(one.name, f"{one.images_per_s:,.1f}", "the limit" if one == limit else "") for one in result.stages]
    together = [("all together", f"{result.images_per_s:,.1f}", "")] if result.batches_s else []
    title = (
        f"{count(result.n_missing)} of {count(result.n_tiles)} tiles to compute ({result.precision} on {result.device})"
    )
    return (
        Table(
            title,
            columns_of(("stage", "images/s", ""), right=("images/s",)),
            rows_of([*stages, *together]),
            result.notes,
        ),
    )


# ------------------------------------------------------------------------------
# Findings: the summary, then each finding with the probe's parts and its robustness, then what was chosen.


@tables_of.register(Findings)
def _of_findings(result: Findings) -> tuple[Table, ...]:
    marks = (SYNTHETIC,) if result.synthetic else ()
    tables = [
        replace(table, marks=marks)
        for finding in result.findings
        for table in (*tables_of(finding), *(_robustness(one, result) for one in finding.robustness if one.rows))
    ]
    chosen = (replace(_choices(result), marks=marks),) if result.choices else ()
    return (findings_table(result), *tables, *chosen)


@tables_of.register(Finding)
def _of_finding(result: Finding) -> tuple[Table, ...]:
    parts = (part_finding(part, result) for part in result.parts if part.rows)
    found = [_scores(finding, table) for finding in (result, *parts) for table in score_tables(finding)]
    return (*found, *decision_tables(result), *((_paired(result),) if result.paired else ()))


def _scores(finding: Finding, table: ScoreTable) -> Table:
    names = ("arm", "scored", "scale", "trained on", "n tiles", "n groups", *table.metrics)
    rows = tuple(_score_row(group, row, table) for group in table.groups for row in group.rows)
    notes = (
        finding.protocol,
        f"{table.intervals}." if table.intervals else "",
        weighting_words(table.patient_weighted),
        *(f"{letter}: {text}" for letter, text in table.footnotes),
        *finding.notes,
    )
    title = f"{finding.title}: {table.title.lower()}" if table.title else finding.title
    columns = columns_of(names, right=("n tiles", "n groups", *table.metrics))
    return Table(title, columns, rows, tuple(note for note in notes if note))


def _score_row(group: RowGroup, row: SummaryLine, table: ScoreTable) -> Row:
    arm = (Span(group.arm), *(Span(f" {mark}", "mark") for mark in row.marks))
    facts = (row.domain, row.scale, group.trained_on or table.trained_on, row.n_tiles, row.n_groups)
    return Row((arm, *facts, *(_score(cell) for cell in row.cells)), "faint" if group.floor else "plain")


def _score(cell: Cell | None) -> str:
    if cell is None:
        return "–"
    return " ".join(filter(None, (cell.value, cell.interval, ", ".join(cell.beside), cell.note)))


def _paired(finding: Finding) -> Table:
    rows = [
        {
            "scored": pair.domain,
            "probe less": short_words(pair.against),
            "metric": metric_label(metric_of(pair.difference)),
            "difference": format_score(pair.difference, signed=True),
            "p": pair.p_words,
        }
        for pair in finding.paired
    ]
    return table_of(f"{finding.title}: the probe less each floor", rows)


def _robustness(table: RobustnessTable, findings: Findings) -> Table:
    section = robustness_section(table, findings)
    rows = tuple(_robustness_rows(section.rows))
    names = ("embeddings of", "columns", "n tiles", "n groups", "index", "chance")
    notes = (*(f"{letter}: {text}" for letter, text in section.footnotes), *section.notes)
    columns = columns_of(names, right=("n tiles", "n groups", "chance"))
    return Table(f"Class or {section.column}: robustness index", columns, rows, notes)


def _robustness_rows(rows: Sequence[RobustnessRow]) -> Iterator[Row]:
    for row in rows:
        label = (Span(row.label), *(Span(f" {mark}", "mark") for mark in row.marks))
        cells = (label, row.reads, row.n_tiles, row.n_groups, _score(row.cell), row.chance)
        yield Row(cells, "faint" if row.floor else "plain")


def _choices(findings: Findings) -> Table:
    rows = [
        {
            "trained on": one.trained_on,
            "n tiles": count(one.n_tiles),
            "n groups": group_count(one.n_groups),
            "chosen": chosen_trial(one),
            "log-loss": selected_score(one),
            "estimate of the procedure": nested_estimates(one),
            "temperature": temperature(one),
            "threshold": threshold(one),
            "fits": count(one.n_fits),
            "head": one.head_id,
        }
        for one in findings.choices
    ]
    return table_of("What each sweep chose", rows, ("n tiles", "n groups", "fits"))
