"""The table of all recorded claims."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from benchmarks.harness import RESULTS, Result, load

if TYPE_CHECKING:
    from pathlib import Path

VERDICTS = {True: Text("yes", style="green"), False: Text("no", style="red")}


def recorded(folder: Path = RESULTS) -> list[Result]:
    """Return every recorded result, by name."""
    return [load(path) for path in sorted(folder.glob("*.json"))]


def results_table(results: list[Result]) -> Table:
    """Return the claims as a table: value, spread, 95 % bound, target, verdict, and where it was measured."""
    table = Table(title="Measured claims")
    for heading in ("claim", "value", "spread", "bound", "target", "met", "machine", "date"):
        table.add_column(heading, justify="right" if heading in ("value", "spread", "bound", "target") else "left")
    for result in results:
        verdict = Text("not measured", style="yellow") if result.value is None else VERDICTS[bool(result.met)]
        table.add_row(
            Text(f"{result.claim.name}: {result.claim.statement}"), _value(result), _spread(result), _bound(result),
            _target(result), verdict, Text(_machine(result)), result.date,
        )  # fmt: skip
        for part in result.parts:
            table.add_row(Text(f"    {part.name}", style="dim"), Text(f"{part.value:.3g}", style="dim"))
    return table


def _value(result: Result) -> Text:
    if result.value is None:
        return Text(result.reason)
    return Text(f"{result.value:.3g} {result.claim.unit}")


def _spread(result: Result) -> str:
    return f"{min(result.samples):.3g} to {max(result.samples):.3g}" if result.samples else ""


def _bound(result: Result) -> str:
    return "" if result.bound is None else f"{result.bound:.3g}"


def _target(result: Result) -> str:
    return f"{result.claim.direction} {result.claim.target:g}"


def _machine(result: Result) -> str:
    return f"{result.machine.get('n_cpus', '?')} x {result.machine.get('cpu', '?')}"
