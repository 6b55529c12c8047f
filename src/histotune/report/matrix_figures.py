"""The matrix as a picture, and its differences to the diagonal as a forest."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from histotune.report.charts import Estimate, ForestRow, Look, Panel, forest_panel
from histotune.report.svg import VERMILLION, WIDTH_PX, box, drawing, heading, text
from histotune.report.words import group_count, number

if TYPE_CHECKING:
    from markupsafe import Markup

    from histotune.evaluation.magnifications import MagnificationMatrix, MatrixCell
    from histotune.statistics.predictions import Score

LEFT_PX, TOP_PX, ROW_PX = 84.0, 62.0, 46.0
PALE, DEEP = (255, 255, 255), (0x7F, 0xB8, 0xDA)  # black text stays readable on both


@dataclass(frozen=True)
class ShownMatrix:
    """A matrix with its pictures."""

    matrix: MagnificationMatrix
    panels: tuple[Markup, ...]


def show_matrix(matrix: MagnificationMatrix, synthetic: bool) -> ShownMatrix:
    """Draw a matrix, and its differences to the diagonal where there are any.

    Args:
        matrix: Which.
        synthetic: Whether its tiles are rendered.
    """
    panels = (matrix_panel(matrix, synthetic), difference_panel(matrix, synthetic))
    return ShownMatrix(matrix, tuple(panel for panel in panels if panel is not None))


def matrix_panel(matrix: MagnificationMatrix, synthetic: bool) -> Markup:
    """Draw AUROC with its interval in every cell, darker where it is higher; the diagonal is framed.

    Args:
        matrix: Which.
        synthetic: Whether the tissue is rendered.

    Returns:
        The picture.
    """
    column_px = (WIDTH_PX - LEFT_PX - 4) / len(matrix.columns)
    parts = [heading(f"{matrix.experiment}, {matrix.training_size} size", synthetic),
             text(LEFT_PX + (WIDTH_PX - LEFT_PX) / 2, 36, "scored at", "small")]  # fmt: skip
    parts += [text(LEFT_PX + (c + 0.5) * column_px, TOP_PX - 8, name, "tick") for c, name in enumerate(matrix.columns)]
    for r, row in enumerate(matrix.rows):
        top = TOP_PX + r * ROW_PX
        parts.append(text(LEFT_PX - 6, top + ROW_PX / 2 + 4, row, "tick", anchor="end"))
        for c, name in enumerate(matrix.columns):
            parts += _draw_cell(matrix.cell(row, name), (LEFT_PX + c * column_px, top), column_px)
    return drawing(TOP_PX + ROW_PX * len(matrix.rows) + 6, _alt(matrix, synthetic), parts)


def difference_panel(matrix: MagnificationMatrix, synthetic: bool) -> Markup | None:
    """Draw AUROC differences to heads trained at the scored magnification.

    Args:
        matrix: Which.
        synthetic: Whether the tissue is rendered.

    Returns:
        A forest; None where no difference is estimable.
    """
    cells = [cell for cell in matrix.cells if cell.differences and not math.isnan(cell.differences[0].value)]
    if not cells:
        return None
    rows = [
        ForestRow(f"{cell.trained_on} → {cell.magnification}", _cell_sample(cell.scores[0]),
                  Estimate.of(cell.differences[0]),
                  Look(VERMILLION, "diamond"), strong=cell.trained_on in matrix.columns)
        for cell in cells
    ]  # fmt: skip
    known = [v for row in rows for v in (row.estimate.value, row.estimate.low, row.estimate.high) if math.isfinite(v)]
    low, high = min([-0.05, *known]), max([0.05, *known])
    axis = (low - 0.08 * (high - low), high + 0.08 * (high - low))
    told = "; ".join(f"{row.label} {row.estimate.words(signed=True)}" for row in rows)
    panel = Panel("AUROC less heads trained there", synthetic, f"Paired differences, {matrix.experiment}: {told}.")
    return forest_panel(panel, rows, axis, 0.0, signed=True)


def _draw_cell(cell: MatrixCell, corner: tuple[float, float], width_px: float) -> list[Markup]:
    score = cell.scores[0]
    middle = corner[0] + width_px / 2
    frame = "#1B1B1B" if cell.on_diagonal else "none"
    parts = [box((corner[0] + 1, corner[1] + 1), (width_px - 2, ROW_PX - 2), _shade(score.value), frame)]
    if math.isnan(score.value):
        return [*parts, text(middle, corner[1] + ROW_PX / 2 + 4, "n. e.", "small")]
    parts.append(text(middle, corner[1] + 20, number(score.value), "tick"))
    if score.interval is not None:
        limits = f"{score.interval.low:.2f}–{score.interval.high:.2f}"
        parts.append(text(middle, corner[1] + 35, limits, "small"))
    return parts


def _shade(value: float) -> str:
    """Return a pale to deeper blue over AUROC 0.5 to 1; grey where undefined."""
    if math.isnan(value):
        return "#EEEEEE"
    share = min(max((value - 0.5) / 0.5, 0.0), 1.0)
    return "#" + "".join(f"{round(low + share * (high - low)):02X}" for low, high in zip(PALE, DEEP, strict=True))


def _alt(matrix: MagnificationMatrix, synthetic: bool) -> str:
    told = "; ".join(f"{c.trained_on} on {c.magnification} {Estimate.of(c.scores[0])}" for c in matrix.cells)
    return Panel("", synthetic, f"AUROC by training and scored magnification, {matrix.experiment}: {told}.").words


def _cell_sample(score: Score) -> str:
    return f"{score.n_tiles:,} tiles, {group_count(score.n_groups)} groups"
