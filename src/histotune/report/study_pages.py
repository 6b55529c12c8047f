"""One self-contained page for an audit: verdicts, pictures of the tiles concerned, tables."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from histotune.report.page import page_environment, render_template
from histotune.report.study_figures import domain_figures, ranks_figure
from histotune.report.study_tables import board_table, plain_table, score_text
from histotune.report.svg import PLOTS, Drawings
from histotune.report.words import covered_score, format_score, metric_label, number
from histotune.tools.atomic import atomic_path
from histotune.tools.files import write_json, write_text
from histotune.tools.manifest import CLAIM, write_manifest
from histotune.tools.marks import SYNTHETIC
from histotune.tools.provenance import redact
from histotune.tools.table import Column, Table, columns_of, rows_of, table_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from histotune.audit.verdicts import Audit, AuditTable, Cell
    from histotune.evaluation.magnifications import MagnificationMatrix, MatrixCell, MatrixStudy
    from histotune.evaluation.run_comparison import ComparisonFamily, Ranking, RunComparison
    from histotune.published.leaderboard import Board
    from histotune.report.pictures import AuditPicture, CrossGallery
    from histotune.statistics.predictions import Score
    from histotune.statistics.scores import SeedScore
    from histotune.transfer.case import Diagnosis


MAX_ROWS = 500  # of a table on the page; audit.json has them all


def render_audit_page(audit: Audit, pictures: Sequence[AuditPicture], command: str) -> str:
    """Return the page's HTML; equal inputs give equal text."""
    environment = page_environment()
    environment.filters["audit_cells"] = audit_cells
    return render_template(
        environment,
        "audit.html.j2",
        ("style.css", "audit.css"),
        audit=audit,
        synthetic=audit.synthetic,
        shown=pictures,
        command=command,
        max_rows=MAX_ROWS,
    )


def audit_cells(table: AuditTable) -> Table:
    """Return an audit's table as texts, numbers to the right."""
    numeric = [
        name for k, name in enumerate(table.columns) if any(isinstance(row[k], int | float) for row in table.rows)
    ]
    return Table(
        table.title,
        columns_of(table.columns, right=numeric),
        rows_of([[cell_text(v) for v in row] for row in table.rows]),
    )


def cell_text(value: Cell) -> str:
    """Return a table's cell as text.

    Example:
        >>> cell_text(1234), cell_text(0.25), cell_text(None)
        ('1,234', '0.25', '–')
    """
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:g}"
    return f"{value:,}" if isinstance(value, int) else value


# ------------------------------------------------------------------------------
# An audit on disk: the findings as JSON and as a page.


def write_audit(audit: Audit, pictures: Sequence[AuditPicture], folder: Path) -> None:
    """Write ``audit.json``, ``audit.html`` and the tiles of long lists, each file whole or not at all.

    Args:
        audit: What was found.
        pictures: Tiles that the page shows.
        folder: Made where it is missing; other files in it are left alone.

    Raises:
        UserError: The disk is full or the folder can't be written.
    """
    for finding in audit.findings:
        path = folder / f"{finding.id}.csv"
        if finding.every is None:
            path.unlink(missing_ok=True)  # of an earlier audit
        else:
            with atomic_path(path) as temporary:
                finding.every.write_csv(temporary)
    write_json(folder / "audit.json", audit.as_dict())
    command = redact(" ".join(["histotune", *sys.argv[1:]]))
    write_text(folder / "audit.html", render_audit_page(audit, pictures, command))


# ------------------------------------------------------------------------------
# A comparison of runs as tables and as one self-contained page.


def comparison_tables(found: RunComparison) -> tuple[Table, ...]:
    """Return all tables of a comparison: per family the runs' scores and their differences, then the rankings."""
    tables = [table for family in found.families for table in (_scores(family), _differences(family))]
    return (*tables, *(_ranks(ranking) for ranking in found.rankings if ranking.ranks is not None))


def write_comparison_page(found: RunComparison, command: str, path: Path) -> None:
    """Write the page; it loads nothing.

    Args:
        found: The comparison.
        command: The command that made it.
        path: Target file, usually ``comparison.html``.
    """
    marks = tuple(dict.fromkeys(mark for family in found.families for mark in family.marks))
    drawings = Drawings()
    page = render_template(
        page_environment(),
        "comparison.html.j2",
        found=found,
        verdict=comparison_verdict(found),
        marks=tuple(mark for mark in marks if mark != SYNTHETIC),
        synthetic=SYNTHETIC in marks,
        drawings=drawings,
        figures=domain_figures(found.families),
        ranks=[figure for ranking in found.rankings if (figure := ranks_figure(ranking)) is not None],
        tables=comparison_tables(found),
        all_notes=(*comparison_notes(found), LAST_NOTE),
        command=redact(command),
    )
    write_text(path, page)
    drawings.finish()


LAST_NOTE = (
    "Intervals and p values speak of other groups, for the heads as they were trained; they don't hold for other "
    "training groups."
)


def comparison_verdict(found: RunComparison) -> str:
    """Say in a sentence which differences in the first family are shown."""
    family = found.families[0] if found.families else None
    if family is None:
        return "The runs share no tiles that both scored."
    shown = [pair for pair in family.comparisons if _is_shown(pair.difference)]
    what = f"{metric_label(family.metric)} on {family.domain}"
    if not shown:
        return f"No difference between the runs is shown in {what}."
    told = "; ".join(
        f"{pair.first} less {pair.second} is {score_text(pair.difference, signed=True)}" for pair in shown[:3]
    )
    return f"In {what} {told}{'; and more below' if len(shown) > 3 else ''}."


def _is_shown(score: Score) -> bool:
    """Whether an interval leaves 0 out."""
    return score.interval is not None and (score.interval.low > 0 or score.interval.high < 0)


def comparison_notes(found: RunComparison) -> tuple[str, ...]:
    """Return what must be known beside the tables."""
    why = dict.fromkeys(f"No mean ranks: {ranking.reason}." for ranking in found.rankings if ranking.ranks is None)
    return (
        "p values come from swapping all of a group's predictions between two runs, and are adjusted within each "
        "family: one metric on one domain.",
        *why,
        *found.notes,
    )


def _scores(family: ComparisonFamily) -> Table:
    rows = tuple((name, covered_score(found.score) + _spread(found)) for name, found in family.scores)
    n = family.scores[0][1].score
    groups = f"{n.n_groups} groups" if n.n_groups else "groups unknown"
    marks = f" [{', '.join(family.marks)}]" if family.marks else ""
    title = f"{metric_label(family.metric)}, {family.domain} ({family.finding}): {n.n_tiles:,} tiles, {groups}{marks}"
    return plain_table(title, ("run", metric_label(family.metric)), rows)


def _spread(found: SeedScore) -> str:
    """Return the spread over seeds, which is no interval: it says nothing of other groups."""
    n_seeds = len(found.seed_values)
    return (
        f"; probabilities averaged over {n_seeds} seeds, SD of the seeds' own {found.seed_sd:.3f}"
        if n_seeds > 1
        else ""
    )


def _differences(family: ComparisonFamily) -> Table:
    rows = tuple(
        (f"{pair.first} − {pair.second}", score_text(pair.difference, signed=True), pair.in_words())
        for pair in family.comparisons
    )
    return plain_table(
        f"{metric_label(family.metric)}, {family.domain}: paired differences", ("pair", "difference", "p"), rows
    )


def _ranks(ranking: Ranking) -> Table:
    ranks = ranking.ranks
    if ranks is None:
        raise ValueError("a ranking without ranks has no table")
    rows = [(name, f"{rank:.2f}") for name, rank in zip(ranks.names, ranks.mean_ranks, strict=True)]
    rows += [
        (
            f"{pair.first} and {pair.second}",
            f"Wilcoxon p = {pair.p_value:.2g}, by Holm {pair.p_adjusted:.2g} "
            f"(smallest attainable {ranks.smallest_p:.2g})"
            + ("; within the critical difference" if pair.within_critical_difference else ""),
        )
        for pair in ranks.pairs
    ]
    overall = (
        "all runs tie everywhere" if math.isnan(ranks.p_value) else f"Friedman (Iman-Davenport) p = {ranks.p_value:.2g}"
    )
    title = (
        f"{metric_label(ranking.metric)}: mean ranks over {len(ranks.data_sets)} data sets "
        f"({', '.join(ranks.data_sets)}); "
        f"{overall}; critical difference {ranks.critical_difference:.2f}"
    )
    return plain_table(title, ("run", "mean rank"), rows)


# ------------------------------------------------------------------------------
# One self-contained page for the cross-magnification study.


def render_matrix_page(study: MatrixStudy, command: str, ledger: str, drawings: Drawings | None = None) -> str:
    """Return the page's HTML; equal inputs give equal text."""
    synthetic = SYNTHETIC in study.marks
    return render_template(
        page_environment(),
        "matrix.html.j2",
        study=study,
        synthetic=synthetic,
        drawings=drawings or Drawings(),
        methods=tuple(sorted(_methods(study))),
        command=redact(command),
        ledger=ledger,
    )


def _methods(study: MatrixStudy) -> set[str]:
    """Return how the intervals were made, each once."""
    scores = [s for m in study.matrices for cell in m.cells for s in (*cell.scores, *cell.differences)]
    return {f"{score.interval.level:.0%}: {score.interval.method}" for score in scores if score.interval is not None}


# ------------------------------------------------------------------------------
# The cross-magnification study on disk: JSON, a table of cells, a page; and a table for the terminal.


def save_matrices(study: MatrixStudy, how: tuple[dict[str, object], str, str], folder: Path) -> None:
    """Write ``matrix.json``, ``matrix.csv``, ``matrix.html`` and the plots."""
    config, command, ledger = how
    write_json(folder / "matrix.json", {**study.as_dict(), **CLAIM})
    write_json(folder / "config.json", config)
    write_text(folder / "matrix.csv", cells_table(study).as_csv())
    drawings = Drawings(folder / PLOTS)
    write_text(folder / "matrix.html", render_matrix_page(study, command, ledger, drawings))
    drawings.finish()
    write_manifest(folder)


def cells_table(study: MatrixStudy) -> Table:
    """Return a row per cell and metric, numbers in full."""
    rows = [row for matrix in study.matrices for cell in matrix.cells for row in _cell_rows(matrix, cell)]
    return replace(table_of("Every cell", rows), marks=study.marks)


def _cell_rows(matrix: MagnificationMatrix, cell: MatrixCell) -> Iterator[dict[str, str]]:
    scale = next(scale for scale in matrix.scales if scale.magnification == cell.magnification)
    for index, score in enumerate(cell.scores):
        gap = cell.differences[index] if cell.differences else None
        low, high = _limits(score)
        gap_low, gap_high = _limits(gap)
        yield {
            "experiment": matrix.experiment,
            "training_size": matrix.training_size,
            "trained_on": cell.trained_on,
            "magnification": cell.magnification,
            "metric": score.name,
            "value": _known(score.value),
            "low": low,
            "high": high,
            "difference": "" if gap is None else _known(gap.value),
            "difference_low": gap_low,
            "difference_high": gap_high,
            "n_tiles": str(score.n_tiles),
            "n_groups": str(score.n_groups),
            "n_train_tiles": str(cell.n_train_tiles),
            "n_train_groups": str(cell.n_train_groups),
            "input_mpp": _known(scale.input_mpp),
            "lost": scale.lost,
            "reason": score.reason,
        }


def matrix_table(matrix: MagnificationMatrix, marks: tuple[str, ...]) -> Table:
    """Return a matrix: AUROC with its interval."""
    size = "equal training size" if matrix.training_size == "equal" else "all data"
    marked = f" ({', '.join(marks)})" if marks else ""
    columns = [Column("trained at", fit="cut"), Column("n (tiles of groups)", "right", "cut")]
    for name in matrix.columns:
        n = matrix.cell(matrix.rows[0], name).scores[0]
        columns.append(Column(f"scored at {name}\nn = {n.n_tiles:,} of {n.n_groups}", fit="cut"))
    rows = []
    for row in matrix.rows:
        cells = [matrix.cell(row, name) for name in matrix.columns]
        n_trained = f"{cells[0].n_train_tiles:,} of {cells[0].n_train_groups}"
        rows.append((row, n_trained, *(_terminal_cell(cell.scores[0]) for cell in cells)))
    return Table(f"AUROC{marked}: {matrix.experiment}, {size}", tuple(columns), rows_of(rows))


def reasons_of(matrix: MagnificationMatrix) -> tuple[str, ...]:
    """Return why rows or cells are not estimable, each reason once with the rows it holds for."""
    rows: dict[str, list[str]] = {}
    for cell in matrix.cells:
        score = cell.scores[0]
        for reason in [score.reason] if math.isnan(score.value) or score.interval is None else []:
            if cell.trained_on not in rows.setdefault(reason, []):
                rows[reason].append(cell.trained_on)
    return tuple(f"trained at {', '.join(names)}: {reason}" for reason, names in rows.items())


def _terminal_cell(score: Score) -> str:
    if math.isnan(score.value):
        return "n. e."
    return number(score.value) if score.interval is None else format_score(score)


def _known(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6g}"


def _limits(score: Score | None) -> tuple[str, str]:
    if score is None or score.interval is None:
        return "", ""
    return f"{score.interval.low:.6g}", f"{score.interval.high:.6g}"


# ------------------------------------------------------------------------------
# A transfer diagnosis as one self-contained page.


def write_transfer_page(
    found: Diagnosis, command: str, ledger: str, path: Path, gallery: CrossGallery | None = None
) -> None:
    """Write the page; it loads nothing.

    Args:
        found: The diagnosis.
        command: The command line.
        ledger: How often the target was scored.
        path: Target file, usually ``transfer.html``.
        gallery: Target tiles with their nearest source tiles; None where the images are not at hand.

    Raises:
        UserError: The disk is full or the folder can't be written.
    """
    drawings = Drawings()
    page = render_template(
        page_environment(),
        "transfer.html.j2",
        ("style.css", "transfer.css"),
        found=found,
        synthetic=SYNTHETIC in found.marks,
        drawings=drawings,
        gallery_of=gallery,
        command=redact(command),
        ledger=ledger,
    )
    write_text(path, page)
    drawings.finish()


# ------------------------------------------------------------------------------
# Leaderboards as one self-contained page.


def boards_page(boards: Sequence[Board]) -> str:
    """Return published scores as a page: a table per protocol that can be sorted and filtered, with what weakens it."""
    counts = f"{sum(len(board.rows) for board in boards):,} scores under {len(boards):,} protocols"
    return render_template(
        page_environment(),
        "leaderboard.html.j2",
        synthetic=False,
        verdict=f"{counts}; scores of different protocols can't be compared.",
        tables=tuple(board_table(board) for board in boards),
    )
