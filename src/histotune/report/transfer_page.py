"""A transfer diagnosis as one self-contained page."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from histotune.files import write_text
from histotune.provenance import redact
from histotune.report.charts import Estimate, ForestRow, Look, Panel, forest_panel
from histotune.report.page import page_environment, render_template
from histotune.report.transfer_table import METRIC_WORDS, plain_tables

if TYPE_CHECKING:
    from pathlib import Path

    from markupsafe import Markup

    from histotune.evaluation.transfer.records import Diagnosis

PROBE_LOOK, ORACLE_LOOK = Look("#0b5fa5", "circle"), Look("#6b6b6b", "square")


def write_transfer_page(found: Diagnosis, command: str, ledger: str, path: Path) -> None:
    """Write the page; it loads nothing and runs no script.

    Args:
        found: The diagnosis.
        command: The command line.
        ledger: How often the target was scored.
        path: Target file, usually ``transfer.html``.

    Raises:
        UserError: The disk is full or the folder can't be written.
    """
    page = render_template(
        page_environment(),
        "transfer.html.j2",
        found=found,
        tables=plain_tables(found),
        figures=tuple(_forests(found)),
        command=redact(command),
        ledger=ledger,
    )
    write_text(path, page)


def _forests(found: Diagnosis) -> list[Markup]:
    """Draw what every remedy gives back, one picture per metric."""
    pictures = []
    for metric in ("auroc", "log_loss"):
        rows = []
        for remedy in found.remedies:
            recovery = remedy.recovery(metric)
            if recovery is not None and not math.isnan(recovery.alone.value):
                look = ORACLE_LOOK if remedy.uses_labels else PROBE_LOOK
                label = f"{remedy.name} (needs labels)" if remedy.uses_labels else remedy.name
                rows.append(ForestRow(label, f"{recovery.alone.n_groups} groups", Estimate.of(recovery.alone), look,
                                      not remedy.uses_labels))  # fmt: skip
        if rows:
            ends = [value for row in rows for value in (row.estimate.value, row.estimate.low, row.estimate.high, 0.0)
                    if math.isfinite(value)]  # fmt: skip
            low, high = min(ends), max(ends)
            pad = 0.05 * max(high - low, 0.02)
            words = "; ".join(f"{row.label} {row.estimate.words(signed=True)}" for row in rows)
            title = f"{METRIC_WORDS[metric]} that each remedy gives back, alone"
            panel = Panel(title, "SYNTHETIC" in found.marks, f"{title}: {words}.")
            pictures.append(forest_panel(panel, rows, (low - pad, high + pad), 0.0, signed=True))
    return pictures
