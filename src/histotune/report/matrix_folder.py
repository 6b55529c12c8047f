"""The cross-magnification study on disk: JSON, a table of cells, a page; and a table for the terminal."""

from __future__ import annotations

import csv
import io
import math
from typing import TYPE_CHECKING

from histotune.report.matrix_figures import difference_panel, matrix_panel
from histotune.report.matrix_page import render_matrix_page
from histotune.report.sweep_folder import standalone
from histotune.report.words import format_score, number
from histotune.tools.files import write_json, write_text

if TYPE_CHECKING:
    from pathlib import Path

    from rich.table import Table

    from histotune.evaluation.magnifications import MagnificationMatrix, MatrixStudy
    from histotune.statistics.predictions import Score

COLUMNS = ("experiment", "training_size", "trained_on", "magnification", "metric", "value", "low", "high", "difference",
           "difference_low", "difference_high", "n_tiles", "n_groups", "n_train_tiles", "n_train_groups", "input_mpp",
           "lost", "reason")  # fmt: skip


def save_matrices(study: MatrixStudy, how: tuple[dict[str, object], str, str], folder: Path) -> None:
    """Write ``matrix.json``, ``matrix.csv``, ``matrix.html`` and the plots.

    Args:
        study: The study.
        how: The config, the command, and how often the split has been scored.
        folder: An existing folder.
    """
    config, command, ledger = how
    write_json(folder / "matrix.json", study.as_dict())
    write_json(folder / "config.json", config)
    write_text(folder / "matrix.csv", cells_csv(study))
    write_text(folder / "matrix.html", render_matrix_page(study, command, ledger))
    (folder / "plots").mkdir(exist_ok=True)
    synthetic = "SYNTHETIC" in study.marks
    for place, matrix in enumerate(study.matrices, 1):
        write_text(folder / "plots" / f"matrix-{place}.svg", standalone(matrix_panel(matrix, synthetic)))
        differences = difference_panel(matrix, synthetic)
        if differences is not None:
            write_text(folder / "plots" / f"differences-{place}.svg", standalone(differences))


def cells_csv(study: MatrixStudy) -> str:
    """Return a row per cell and metric."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for matrix in study.matrices:
        scales = {scale.magnification: scale for scale in matrix.scales}
        for cell in matrix.cells:
            scale = scales[cell.magnification]
            for index, score in enumerate(cell.scores):
                gap = cell.differences[index] if cell.differences else None
                limits = [] if score.interval is None else [score.interval.low, score.interval.high]
                gap_limits = [gap.interval.low, gap.interval.high] if gap is not None and gap.interval else []
                writer.writerow([
                    matrix.experiment, matrix.training_size, cell.trained_on, cell.magnification, score.name,
                    _known(score.value), *_two(limits), "" if gap is None else _known(gap.value), *_two(gap_limits),
                    score.n_tiles, score.n_groups, cell.n_train_tiles, cell.n_train_groups, _known(scale.input_mpp),
                    scale.lost, score.reason,
                ])  # fmt: skip
    return text.getvalue()


def matrix_table(matrix: MagnificationMatrix, marks: tuple[str, ...]) -> Table:
    """Return a matrix for the terminal: AUROC with its interval.

    Args:
        matrix: Which.
        marks: SYNTHETIC, TOO NARROW.
    """
    from rich.table import Table

    size = "equal training size" if matrix.training_size == "equal" else "all data"
    marked = f" ({', '.join(marks)})" if marks else ""
    table = Table(title=f"AUROC{marked}: {matrix.experiment}, {size}")
    table.add_column("trained at")
    table.add_column("n (tiles of groups)", justify="right")
    for name in matrix.columns:
        n = matrix.cell(matrix.rows[0], name).scores[0]
        table.add_column(f"scored at {name}\nn = {n.n_tiles:,} of {n.n_groups}")
    for row in matrix.rows:
        cells = [matrix.cell(row, name) for name in matrix.columns]
        size = f"{cells[0].n_train_tiles:,} of {cells[0].n_train_groups}"
        table.add_row(row, size, *(_terminal_cell(cell.scores[0]) for cell in cells))
    return table


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


def _two(limits: list[float]) -> list[str]:
    return [f"{value:.6g}" for value in limits] or ["", ""]
