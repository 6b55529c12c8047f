"""The figures of a run, one by one: as matplotlib figures for a notebook, as PDF and PNG for a paper."""

from __future__ import annotations

from typing import TYPE_CHECKING

from histotune.report.drawing import NARROW_PX, WIDE_PX, chart_style, draw_chart
from histotune.report.page import render_page
from histotune.report.run_folder import load_run
from histotune.report.svg import PLOTS, Drawings
from histotune.tools.atomic import atomic_path

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure as Drawing

    from histotune.report.charts import Chart

ENDINGS = ("pdf", "png")
DOTS_PER_INCH = 300
"""Of PNG files: what journals ask for."""


def draw_run(run: Path) -> dict[str, Drawing]:
    """Draw every figure of a finished run anew.

    Args:
        run: Folder of a finished run.

    Returns:
        A matplotlib figure by its name, such as ``headline``, ``ranking`` (ROC) and ``ranking-2`` (precision-recall),
        in the order of the report. They belong to no window; ``savefig`` writes them.

    Raises:
        UserError: No finished run there.

    Example:
        >>> from histotune.report import draw_run
        >>> draw_run(Path("runs/demo"))["headline"].savefig("headline.pdf")  # doctest: +SKIP
    """
    return {name: draw_chart(chart, _width_px(name)) for name, chart in _charts_of(run).items()}


def save_figures(run: Path, folder: Path) -> tuple[Path, ...]:
    """Write every figure of a run as PDF, with text as text, and as PNG.

    Args:
        run: Folder of a finished run.
        folder: Where to; made where it is missing.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, chart in _charts_of(run).items():
        with chart_style():
            drawing = draw_chart(chart, _width_px(name))
            for ending in ENDINGS:
                path = folder / f"{name}.{ending}"
                _save(drawing, path, ending)
                files.append(path)
    return tuple(files)


def _charts_of(run: Path) -> dict[str, Chart]:
    """Return what the report shows, by the names of its pictures."""
    drawings = Drawings(earlier=(run / PLOTS,))
    render_page(load_run(run), drawings)
    return drawings.shown


def _width_px(name: str) -> float:
    """A headline is as wide as a page, everything else as a column."""
    return WIDE_PX if name == "headline" else NARROW_PX


def _save(drawing: Drawing, path: Path, ending: str) -> None:
    """Write one file, whole or not at all, without a date, so that equal runs give equal files."""
    import matplotlib as mpl

    nothing = {"CreationDate": None} if ending == "pdf" else {"Software": None}
    mpl.rcParams["pdf.fonttype"] = 42  # TrueType: text can be edited
    with atomic_path(path) as temporary:
        drawing.savefig(temporary, format=ending, dpi=DOTS_PER_INCH, facecolor="white", metadata=nothing)
