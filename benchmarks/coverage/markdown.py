"""The study's tables in the documentation."""

from __future__ import annotations

from itertools import groupby
from statistics import mean
from typing import TYPE_CHECKING

from histotune.statistics.bounds import METHODS
from histotune.statistics.intervals import StudiedCell, default_method
from histotune.statistics.metrics import METRIC_NAMES

if TYPE_CHECKING:
    from collections.abc import Sequence

BEGIN, END = "<!-- begin: written by python -m benchmarks.coverage write -->", "<!-- end -->"
SHORT = {
    "accuracy": "acc.", "balanced_accuracy": "bal. acc.", "macro_f1": "macro-F1", "mcc": "MCC", "auroc": "AUROC",
    "auprc": "AUPRC", "sensitivity_at_95_specificity": "sens. at 95 %", "log_loss": "log-loss", "brier": "Brier",
    "ece": "ECE", "ece_debiased": "ECE deb.", "patient_recognition_rate": "PRR",
}  # fmt: skip


def fill(text: str, cells: Sequence[StudiedCell]) -> str:
    """Return a page with its tables written anew between the marks.

    Args:
        text: The page.
        cells: The study.

    Returns:
        The page.
    """
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    parts = ["### The default, every setting", default_table(cells), "### All methods", methods_table(cells)]
    return before + BEGIN + "\n" + "\n\n".join(parts) + "\n" + END + after


def default_table(cells: Sequence[StudiedCell]) -> str:
    """Return the default's coverage: a line per setting, a column per metric."""
    names = [name for name in METRIC_NAMES if name in SHORT]
    lines = [
        "| groups | kind | AUROC | icc | " + " | ".join(SHORT[name] for name in names) + " |",
        "|---" * (len(names) + 4) + "|",
    ]
    by_setting: dict[tuple[int, str, float, float], dict[str, str]] = {}
    for cell in cells:
        method = default_method(cell.metric, cell.n_groups)
        covered = cell.coverage.get(method, float("nan"))
        setting = (cell.n_groups, cell.design, cell.auroc, cell.icc)
        by_setting.setdefault(setting, {})[cell.metric] = _percent(covered, cell.n_groups)
    for (n_groups, design, auroc, icc), values in sorted(by_setting.items()):
        row = " | ".join(values.get(name, "") for name in names)
        lines.append(f"| {n_groups} | {design} | {auroc:g} | {icc:g} | {row} |")
    return "\n".join(lines)


def methods_table(cells: Sequence[StudiedCell]) -> str:
    """Return every method's least and mean coverage over the settings of one number of groups."""
    lines = ["| metric | groups | " + " | ".join(METHODS) + " |", "|---" * (len(METHODS) + 2) + "|"]
    ordered = sorted(cells, key=lambda cell: (METRIC_NAMES.index(cell.metric), cell.n_groups))
    for (metric, n_groups), group in groupby(ordered, key=lambda cell: (cell.metric, cell.n_groups)):
        members = list(group)
        found = []
        for method in METHODS:
            values = [cell.coverage[method] for cell in members if method in cell.coverage]
            text = f"{100 * min(values):.1f} ({100 * mean(values):.1f})" if values else ""
            found.append(f"**{text}**" if method == default_method(metric, n_groups) else text)
        lines.append(f"| {SHORT[metric]} | {n_groups} | " + " | ".join(found) + " |")
    return "\n".join(lines)


def _percent(coverage: float, n_groups: int) -> str:
    """Return per cent; bold where it falls short of what is required."""
    least, most = (0.93, 0.97) if n_groups >= 50 else (0.90, 1.0) if n_groups == 20 else (0.0, 1.0)
    text = f"{100 * coverage:.1f}"
    return text if round(least, 3) <= coverage <= most else f"**{text}**"
