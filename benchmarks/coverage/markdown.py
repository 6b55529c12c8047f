"""The study's tables in the documentation."""

from __future__ import annotations

from itertools import groupby
from statistics import mean
from typing import TYPE_CHECKING

from histotune.statistics.bounds import METHODS
from histotune.statistics.intervals import default_method
from histotune.statistics.metrics import METRIC_NAMES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from histotune.statistics.metrics import MetricName

    Row = dict[str, str | float | int]

BEGIN, END = "<!-- begin: written by python -m benchmarks.coverage write -->", "<!-- end -->"
SHORT = {
    "accuracy": "acc.", "balanced_accuracy": "bal. acc.", "macro_f1": "macro-F1", "mcc": "MCC", "auroc": "AUROC",
    "auprc": "AUPRC", "sensitivity_at_95_specificity": "sens. at 95 %", "log_loss": "log-loss", "brier": "Brier",
    "ece": "ECE", "ece_debiased": "ECE deb.", "patient_recognition_rate": "PRR",
}  # fmt: skip


def fill(text: str, rows: Sequence[Row]) -> str:
    """Return a page with its tables written anew between the marks.

    Args:
        text: The page.
        rows: The study, a row per metric, setting and method.

    Returns:
        The page.
    """
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    parts = [
        "### The default, every setting", default_table(rows), "### The default's worst settings", worst_table(rows),
        "### All methods", methods_table(rows),
    ]  # fmt: skip
    return before + BEGIN + "\n" + "\n\n".join(parts) + "\n" + END + after


def _defaults(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["method"] == default_method(_name(row))]


def _name(row: Row) -> MetricName:
    return next(name for name in METRIC_NAMES if name == row["metric"])


def default_table(rows: Sequence[Row]) -> str:
    """Return the default's coverage: a line per setting, a column per metric."""
    names = [name for name in METRIC_NAMES if name in SHORT]
    lines = [
        "| groups | world | kind | AUROC | icc | " + " | ".join(SHORT[name] for name in names) + " |",
        "|---" * (len(names) + 5) + "|",
    ]
    by_setting: dict[tuple[int, str, str, float, float], dict[str, str]] = {}
    for row in _defaults(rows):
        setting = (int(row["n_groups"]), str(row["world"]), str(row["design"]), float(row["auroc"]), float(row["icc"]))
        by_setting.setdefault(setting, {})[_name(row)] = _percent(float(row["coverage"]), setting[0])
    for (n_groups, world, design, auroc, icc), values in sorted(by_setting.items()):
        told = " | ".join(values.get(name, "") for name in names)
        lines.append(f"| {n_groups} | {world} | {design} | {auroc:g} | {icc:g} | {told} |")
    return "\n".join(lines)


def worst_table(rows: Sequence[Row]) -> str:
    """Return, by metric and number of groups, the setting that the default covers least, its misses and its width."""
    lines = [
        "| metric | groups | coverage | truth below | truth above | width / needed | largest of these | setting |",
        "|---" * 8 + "|",
    ]
    ordered = sorted(_defaults(rows), key=lambda row: (METRIC_NAMES.index(_name(row)), int(row["n_groups"])))
    for (metric, n_groups), group in groupby(ordered, key=lambda row: (_name(row), int(row["n_groups"]))):
        members = list(group)
        worst = min(members, key=lambda row: float(row["coverage"]))
        widths = [float(row["median_width"]) / float(row["true_width"]) for row in members]
        below, above = (f"{100 * float(worst[side]):.1f}" for side in ("truth_below", "truth_above"))
        width = float(worst["median_width"]) / float(worst["true_width"])
        setting = f"{worst['world']}, {worst['design']}, AUROC {worst['auroc']}, icc {worst['icc']}"
        covered = _percent(float(worst["coverage"]), n_groups)
        told = f"{covered} | {below} | {above} | {width:.2f} | {max(widths):.2f} | {setting}"
        lines.append(f"| {SHORT[metric]} | {n_groups} | {told} |")
    return "\n".join(lines)


def methods_table(rows: Sequence[Row]) -> str:
    """Return every method's least and mean coverage over the settings of one number of groups."""
    judged = [method for method in METHODS if any(row["method"] == method for row in rows)]
    lines = ["| metric | groups | " + " | ".join(judged) + " |", "|---" * (len(judged) + 2) + "|"]
    ordered = sorted(rows, key=lambda row: (METRIC_NAMES.index(_name(row)), int(row["n_groups"])))
    for (metric, n_groups), group in groupby(ordered, key=lambda row: (_name(row), int(row["n_groups"]))):
        members, found = list(group), []
        for method in judged:
            values = [float(row["coverage"]) for row in members if row["method"] == method]
            text = f"{100 * min(values):.1f} ({100 * mean(values):.1f})" if values else ""
            found.append(f"**{text}**" if method == default_method(metric) else text)
        lines.append(f"| {SHORT[metric]} | {n_groups} | " + " | ".join(found) + " |")
    return "\n".join(lines)


def _percent(coverage: float, n_groups: int) -> str:
    """Return per cent; bold where it falls short of what is required."""
    least, most = (0.93, 0.98) if n_groups >= 50 else (0.90, 1.0) if n_groups == 20 else (0.0, 1.0)
    text = f"{100 * coverage:.1f}"
    return text if round(least, 3) <= coverage <= most else f"**{text}**"
