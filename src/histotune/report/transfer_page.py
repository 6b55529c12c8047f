"""A transfer diagnosis as one self-contained page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from histotune.report.page import page_environment, render_template
from histotune.report.study_figures import few_shot_figure, recovery_figures
from histotune.report.study_tables import plain_tables
from histotune.report.words import SYNTHETIC
from histotune.tools.files import write_text
from histotune.tools.provenance import redact

if TYPE_CHECKING:
    from pathlib import Path

    from histotune.report.transfer_pictures import CrossGallery
    from histotune.transfer.case import Diagnosis


def write_transfer_page(
    found: Diagnosis, command: str, ledger: str, path: Path, gallery: CrossGallery | None = None
) -> None:
    """Write the page; it loads nothing and runs no script.

    Args:
        found: The diagnosis.
        command: The command line.
        ledger: How often the target was scored.
        path: Target file, usually ``transfer.html``.
        gallery: Target tiles with their nearest source tiles; None where the images are not at hand.

    Raises:
        UserError: The disk is full or the folder can't be written.
    """
    page = render_template(
        page_environment(),
        "transfer.html.j2",
        ("style.css", "transfer.css"),
        found=found,
        synthetic=SYNTHETIC in found.marks,
        tables=plain_tables(found),
        recoveries=recovery_figures(found),
        few_shot=few_shot_figure(found),
        gallery=gallery,
        command=redact(command),
        ledger=ledger,
    )
    write_text(path, page)
