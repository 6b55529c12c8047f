"""One self-contained page for the cross-magnification study."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from histotune.provenance import redact
from histotune.report.matrix_figures import difference_panel, matrix_panel
from histotune.report.page import page_environment, render_template
from histotune.report.wording import coverage_text, format_score

if TYPE_CHECKING:
    from markupsafe import Markup

    from histotune.evaluation.matrix.records import MagnificationMatrix, MatrixStudy
    from histotune.statistics.records import Score


@dataclass(frozen=True)
class ShownMatrix:
    """A matrix with its pictures."""

    matrix: MagnificationMatrix
    panels: tuple[Markup, ...]


def render_matrix_page(study: MatrixStudy, command: str, ledger: str) -> str:
    """Return the page's HTML; equal inputs give equal text.

    Args:
        study: The study.
        command: The command that made it.
        ledger: How often the split has been scored.

    Returns:
        A whole HTML document that loads nothing and runs no script.
    """
    environment = page_environment()
    environment.filters["score"] = score_text
    synthetic = "SYNTHETIC" in study.marks
    return render_template(
        environment,
        "matrix.html.j2",
        study=study,
        synthetic=synthetic,
        shown=tuple(_shown(matrix, synthetic) for matrix in study.matrices),
        methods=tuple(sorted(_methods(study))),
        command=redact(command),
        ledger=ledger,
    )


def score_text(score: Score, *, signed: bool = False) -> str:
    """Return a score with its interval, and its simulated coverage where that falls short."""
    text = format_score(score, signed=signed)
    short = "" if score.interval is None else coverage_text(score.interval)
    return f"{text} ({short})" if short else text


def _shown(matrix: MagnificationMatrix, synthetic: bool) -> ShownMatrix:
    panels = (matrix_panel(matrix, synthetic), difference_panel(matrix, synthetic))
    return ShownMatrix(matrix, tuple(panel for panel in panels if panel is not None))


def _methods(study: MatrixStudy) -> set[str]:
    """Return how the intervals were made, each once."""
    scores = [s for m in study.matrices for cell in m.cells for s in (*cell.scores, *cell.differences)]
    return {f"{score.interval.level:.0%}: {score.interval.method}" for score in scores if score.interval is not None}
