"""A protocol's table for the terminal, its weaknesses under it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from histotune.report.words import METRIC_LABELS, Footnotes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console, ConsoleOptions
    from rich.table import Table
    from rich.text import Text

    from histotune.published.study import ProtocolRow, ProtocolStudy


@dataclass(frozen=True)
class ProtocolTable:
    """What rich prints: the table, why an interval is missing, then what weakens the numbers."""

    study: ProtocolStudy

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table | Text]:
        """Yield the table and everything that must stand beside it."""
        from rich.text import Text

        del console, options
        notes = Footnotes()
        yield _table(self.study, notes)
        for letter, text in notes.items():
            yield Text(f"{letter}: {text}")
        yield Text("\nWhat weakens these numbers:", style="bold")
        for weakness in self.study.weaknesses:
            yield Text(f"- {weakness}")


def _table(study: ProtocolStudy, notes: Footnotes) -> Table:
    from rich.table import Table
    from rich.text import Text

    marks = "".join(f" {mark}" for mark in study.marks)
    title = Text(f"{study.title}, scored on {study.scored}").append(marks, style="bold red")
    table = Table(title=title, box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    for header in ("", "columns", "metric", "score", "SD over runs", "interval over groups"):
        table.add_column(header, overflow="fold")
    for header in ("tiles", "groups"):
        table.add_column(header, justify="right", no_wrap=True)
    for row in study.rows:
        cells = (row.name, row.pooling, METRIC_LABELS.get(row.metric, row.metric), *_numbers(row, notes))
        table.add_row(*(Text(cell) for cell in cells), f"{row.n_tiles:,}", f"{row.n_groups:,}" if row.n_groups else "?")
    return table


def _numbers(row: ProtocolRow, notes: Footnotes) -> tuple[str, str, str]:
    """Return the score, its spread and its interval, footnotes marked."""
    score = "diverged" if math.isnan(row.mean) else f"{row.mean:.3f}"
    chosen = dict.fromkeys(text for text in row.chosen if text)
    for text in (row.note, f"chosen: {'; '.join(chosen)}" if chosen else ""):
        if text:
            score += f" {notes.mark(text)}"
    spread = (
        "one run"
        if math.isnan(row.sd)
        else f"{row.sd:.3f} ({row.n_values:,}) {notes.mark(f'runs differ in {row.spread_over}')}"
    )
    if row.interval is None:
        return score, spread, f"– {notes.mark(row.reason)}" if row.reason else "–"
    of_one = " of the run nearest to the mean" if row.n_values > 1 else ""
    method = notes.mark(f"{row.interval.method}{of_one}")
    return score, spread, f"[{row.interval.low:.3f}, {row.interval.high:.3f}] {method}"
