"""Tables for the terminal, printed by rich."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from histotune.evaluation.crossfit import REPEATED
from histotune.report.words import (
    FLOORS,
    PROBE,
    RANDOM_SPLIT,
    SHORT_FLOORS,
    SYNTHETIC,
    Footnotes,
    count,
    group_count,
    is_difference,
    metric_score,
    sample_size,
    score_cell,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rich.console import Console, ConsoleOptions
    from rich.table import Table
    from rich.text import Text

    from histotune.evaluation.findings import FindingId, Findings, ScoredArm
    from histotune.statistics.predictions import Score

NARROW_TERMINAL = 78


@dataclass(frozen=True)
class SummaryRow:
    """One line of the summary."""

    label: str
    arm: ScoredArm


@dataclass(frozen=True)
class SummaryTable:
    """The run's summary; rich prints it, with the interval on its own line where the terminal is narrow."""

    title: str
    synthetic: bool
    rows: tuple[SummaryRow, ...]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table | Text]:
        """Yield the table that fits the width, then the reasons for what is missing."""
        notes = Footnotes()
        yield _summary(self, notes, stacked=options.max_width < NARROW_TERMINAL)
        for letter, reason in notes.items():
            yield _plain(f"{letter}: {reason}")


def summary_table(findings: Findings) -> SummaryTable:
    """Return the run's main numbers as something rich can print.

    Args:
        findings: What the run found.

    Returns:
        In-domain, each other magnification, leak's price, external and direct, each with AUROC, balanced accuracy,
        interval, n tiles, n groups and marks; under the first of them and the last two stands the best floor.

    Example:
        >>> from rich.console import Console
        >>> Console().print(summary_table(findings))  # doctest: +SKIP
    """
    return SummaryTable(findings.title, findings.synthetic, tuple(_summary_rows(findings)))


def _summary_rows(findings: Findings) -> Iterator[SummaryRow]:
    trained = _probe_domains(findings, "in-domain")
    yield from _probe_rows(findings, "in-domain", "in-domain: ", skip=(), floor=True)
    origin = f"{trained[0]} → " if trained else ""
    yield from _probe_rows(findings, "cross-magnification", origin, skip=trained, floor=False)
    leak = findings.finding("leak-price")
    for arm in leak.rows if leak else ():
        if arm.arm == RANDOM_SPLIT:
            yield SummaryRow("random image split", arm)
        elif is_difference(arm):
            yield SummaryRow("leak's price (paired)", arm)
    yield from _probe_rows(findings, "external", "external: ", skip=(), floor=True)
    yield from _probe_rows(findings, "direct", "direct: ", skip=(), floor=True)


def _probe_rows(
    findings: Findings, finding_id: FindingId, label: str, skip: tuple[str, ...], floor: bool
) -> Iterator[SummaryRow]:
    """Yield the probe's rows of a finding, and the best floor of each domain."""
    finding = findings.finding(finding_id)
    for arm in finding.rows if finding else ():
        if arm.arm != PROBE or arm.domain in skip:
            continue
        yield SummaryRow(label + _without_prefix(arm.domain, label), arm)
        repeated = finding.row(REPEATED, arm.domain) if finding else None
        if repeated is not None:
            yield SummaryRow("  ± SD, other training cases", repeated)
        best = _best_floor(finding.rows if finding else (), arm.domain) if floor else None
        if best is not None:
            yield SummaryRow(f"  floor: {SHORT_FLOORS[best.arm]}", best)


def _without_prefix(domain: str, label: str) -> str:
    """Return a domain without its data set's name where the label names the same data set, "breakhis 100X → "."""
    name, _, last = domain.rpartition(" ")
    return last if name and label.startswith(f"{name} ") else domain


def _probe_domains(findings: Findings, finding_id: FindingId) -> tuple[str, ...]:
    finding = findings.finding(finding_id)
    return tuple(arm.domain for arm in finding.rows if arm.arm == PROBE) if finding else ()


def _best_floor(rows: Iterable[ScoredArm], domain: str) -> ScoredArm | None:
    """Return the floor of a domain with the highest AUROC: the hardest one to beat."""
    floors = [row for row in rows if row.arm in FLOORS and row.domain == domain]
    return max(floors, key=lambda row: _value(row, "auroc"), default=None)


def _value(arm: ScoredArm, name: str) -> float:
    score = arm.score(name)
    return score.value if score is not None and not math.isnan(score.value) else -math.inf


def _summary(summary: SummaryTable, notes: Footnotes, *, stacked: bool) -> Table:
    from rich.table import Table

    title = f"{summary.title} · {SYNTHETIC} data" if summary.synthetic else summary.title
    table = Table(title=_plain(title), box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("", overflow="fold", min_width=14)
    for header in ("AUROC", "Balanced accuracy"):
        table.add_column(header, no_wrap=not stacked)
    for header in ("tiles", "groups"):
        table.add_column(header, justify="right", no_wrap=True)
    for row in summary.rows:
        scores = [metric_score(row.arm, name) for name in ("auroc", "balanced_accuracy")]
        cells = [_terminal_cell(row.arm, score, notes, stacked=stacked) for score in scores]
        n_tiles, n_groups = sample_size(row.arm)
        texts = (_plain(entry) for entry in (*cells, count(n_tiles), group_count(n_groups)))
        label = _with_marks(row.label, row.arm, hide_synthetic=summary.synthetic)
        table.add_row(label, *texts, style="dim" if row.arm.arm in FLOORS else "")
    return table


def _with_marks(label: str, arm: ScoredArm, *, hide_synthetic: bool) -> Text:
    marks = [mark for mark in arm.marks if not (hide_synthetic and mark == SYNTHETIC)]
    return _plain(label).append("".join(f" {mark}" for mark in marks), style="bold red")


def _plain(text: str) -> Text:
    """Text that rich doesn't read as its own markup: intervals stand in square brackets."""
    from rich.text import Text

    return Text(text)


def _terminal_cell(arm: ScoredArm, score: Score | None, notes: Footnotes, *, stacked: bool) -> str:
    if score is None:
        return "–"
    cell = score_cell(arm, score, None, notes)
    return f"{cell.value}{chr(10) if stacked else ' '}{cell.interval} {cell.note}".strip()
