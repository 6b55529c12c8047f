"""The verb ``report``: a finished run's page, drawn again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from histotune.studies.arguments import path_of
from histotune.tools.atomic import bring_back, claimed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from histotune.studies.arguments import Place


def report(
    run: Place,
    *,
    out: Place | None = None,
    add: Sequence[Place] = (),
    latex: Place | None = None,
    figures: Place | None = None,
) -> Path:
    """Draw a finished run's report again, with other studies of its head in it.

    Args:
        run: Folder of a finished run.
        out: Where to write the page; ``RUN/report.html`` without one.
        add: Folders of transfers or matrices: a section of its own each.
        latex: Also write all tables as LaTeX to this file.
        figures: Also write every figure as PDF and PNG into this folder.

    Returns:
        The page.

    Raises:
        UserError: No finished run there, or a study of another head.

    Example:
        >>> import histotune as ht
        >>> few = {"sweep.folds": 3, "evaluation.outer_folds": 3, "evaluation.floors": []}
        >>> run = ht.run("breakhis", "BreaKHis_v1", backbone="colour-histogram", out="run", set=few)
        >>> ht.report("run", out="page.html").name
        'page.html'
    """
    from histotune.report.figure_files import save_figures
    from histotune.report.page import write_report
    from histotune.report.run_folder import add_study, load_added, load_run
    from histotune.report.study_tables import write_latex
    from histotune.report.svg import PLOTS, Drawings

    folder = Path(run)
    page, tables = Path(out) if out is not None else folder / "report.html", path_of(latex)
    bring_back(folder)
    if not folder.is_dir():
        load_run(folder)  # which says what is missing
    changed = folder.resolve() if add or out is None else None
    with claimed(changed, folder=True, is_replaced=False), claimed(page, tables, folder=False):
        inputs = load_run(folder)
        for study in add:
            add_study(folder, inputs.findings, Path(study))
        inputs = replace(inputs, added=load_added(folder))
        write_report(inputs, page, Drawings(earlier=(folder / PLOTS,)))
        if tables is not None:
            write_latex(inputs, tables)
        if figures is not None:
            save_figures(folder, Path(figures))
    return page
