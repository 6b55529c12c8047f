"""What the matrices say, in plain words made from their cells alone."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from histotune.evaluation.answer import in_words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from histotune.evaluation.matrix.records import MagnificationMatrix, MatrixCell


def matrix_answer(matrices: Sequence[MagnificationMatrix]) -> str:
    """Say how well heads do where they were trained, where they lose most, and whether matching changes it.

    Args:
        matrices: The first is the view as it is, with equal training sizes.

    Returns:
        A few sentences.
    """
    first = next((matrix for matrix in matrices if _estimable(matrix)), matrices[0])
    diagonal = [cell for cell in first.cells if cell.on_diagonal and not math.isnan(cell.scores[0].value)]
    if not diagonal:
        return "No magnification can be scored by heads trained at it: not estimable."
    values = [cell.scores[0].value for cell in diagonal]
    sentences = [
        f"With {'equal training sizes' if first.training_size == 'equal' else 'all data'}, heads scored at the"
        f" magnification they were trained at reach AUROC {min(values):.3f} to {max(values):.3f}."
    ]
    worst = _worst(first)
    if worst is None:
        return sentences[0]
    sentences.append(
        f"The largest loss is that of heads trained at {worst.trained_on} on {worst.magnification}: AUROC"
        f" {in_words(worst.scores[0])}, a difference of {in_words(worst.differences[0])} to heads trained there,"
        " on the same tiles."
    )
    sentences += [
        _matched(worst, other)
        for other in matrices
        if other.training_size == first.training_size and other.experiment != first.experiment
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def _estimable(matrix: MagnificationMatrix) -> bool:
    return any(cell.on_diagonal and not math.isnan(cell.scores[0].value) for cell in matrix.cells)


def _single(matrix: MagnificationMatrix) -> list[MatrixCell]:
    """Cells off the diagonal whose heads saw one magnification, and that have a difference."""
    return [
        cell
        for cell in matrix.cells
        if cell.trained_on in matrix.columns and cell.differences and not math.isnan(cell.differences[0].value)
    ]


def _worst(matrix: MagnificationMatrix) -> MatrixCell | None:
    return min(_single(matrix), key=lambda cell: cell.differences[0].value, default=None)


def _matched(worst: MatrixCell, other: MagnificationMatrix) -> str:
    cell = other.cell(worst.trained_on, worst.magnification)
    if not cell.differences or math.isnan(cell.differences[0].value):
        return f"With {other.experiment} that cell is not estimable."
    before, now = worst.differences[0].value, cell.differences[0].value
    share = (before - now) / before if before < 0 else float("nan")
    words = f"With {other.experiment} the same difference is {in_words(cell.differences[0])}"
    interval = cell.differences[0].interval
    if not math.isfinite(share) or interval is None:
        return f"{words}."
    if share >= 0.5:
        return f"{words}: consistent with scale as the larger part of the loss, at the price named beside the matrix."
    if interval.high < 0:
        return f"{words}: a loss remains that this match does not explain, or that the match itself costs."
    return f"{words}: whether scale explains the loss can't be told from these groups."
