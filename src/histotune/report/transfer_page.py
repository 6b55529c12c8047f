"""A transfer diagnosis as one self-contained page."""

from __future__ import annotations

import base64
import hashlib
import math
from typing import TYPE_CHECKING

from histotune.files import write_text
from histotune.report.charts import Estimate, ForestRow, Look, Panel, forest_panel
from histotune.report.page import page_environment, trusted_style
from histotune.report.transfer_table import METRIC_WORDS, plain_tables

if TYPE_CHECKING:
    from pathlib import Path

    from markupsafe import Markup

    from histotune.evaluation.transfer.records import Diagnosis
    from histotune.statistics.records import Score

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
    environment = page_environment()
    style = environment.get_template("style.css").render().strip()
    page = environment.get_template("transfer.html.j2").render(
        style=trusted_style(style),
        style_hash=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        found=found,
        tables=plain_tables(found),
        figures=tuple(_forests(found)),
        command=command,
        ledger=ledger,
    )
    write_text(path, page.encode("utf-8", "backslashreplace").decode("utf-8"))


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
                rows.append(ForestRow(label, f"{recovery.alone.n_groups} groups", _estimate(recovery.alone), look,
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


def _estimate(score: Score) -> Estimate:
    if score.interval is None:
        return Estimate(score.value)
    return Estimate(score.value, score.interval.low, score.interval.high)
