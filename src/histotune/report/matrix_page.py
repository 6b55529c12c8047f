"""One self-contained page for the cross-magnification study."""

from __future__ import annotations

from typing import TYPE_CHECKING

from histotune.report.matrix_figures import show_matrix
from histotune.report.page import page_environment, render_template
from histotune.tools.provenance import redact

if TYPE_CHECKING:
    from histotune.evaluation.magnifications import MatrixStudy


def render_matrix_page(study: MatrixStudy, command: str, ledger: str) -> str:
    """Return the page's HTML; equal inputs give equal text.

    Args:
        study: The study.
        command: The command that made it.
        ledger: How often the split has been scored.

    Returns:
        A whole HTML document that loads nothing and runs no script.
    """
    synthetic = "SYNTHETIC" in study.marks
    return render_template(
        page_environment(),
        "matrix.html.j2",
        study=study,
        synthetic=synthetic,
        shown=tuple(show_matrix(matrix, synthetic) for matrix in study.matrices),
        methods=tuple(sorted(_methods(study))),
        command=redact(command),
        ledger=ledger,
    )


def _methods(study: MatrixStudy) -> set[str]:
    """Return how the intervals were made, each once."""
    scores = [s for m in study.matrices for cell in m.cells for s in (*cell.scores, *cell.differences)]
    return {f"{score.interval.level:.0%}: {score.interval.method}" for score in scores if score.interval is not None}
