"""An audit's findings for the terminal, printed by rich."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from histotune.audit.records import Audit, Verdict

STYLES: dict[Verdict, str] = {"ok": "green", "note": "cyan", "warning": "yellow", "error": "bold red"}


def audit_table(audit: Audit) -> Table:
    """Return the findings as a table: verdict, title, sentence and advice.

    Args:
        audit: What was found.

    Returns:
        Something rich can print.

    Example:
        >>> from rich.console import Console
        >>> Console().print(audit_table(audit))  # doctest: +SKIP
    """
    from rich.table import Table
    from rich.text import Text

    title = f"{audit.title}{' · SYNTHETIC data' if audit.synthetic else ''}: {audit.n_tiles:,} tiles, "
    title += f"{audit.n_groups:,} groups" + (f", split {audit.split.name}" if audit.split else "")
    leaky = " LEAKY" if audit.split and audit.split.leaky else ""
    table = Table(title=Text(title).append(leaky, "bold red"), box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("", no_wrap=True)
    table.add_column("Looked at", max_width=24)
    table.add_column("Found")
    for finding in audit.findings:
        found = Text(finding.sentence)
        if finding.advice and finding.verdict != "ok":
            found.append(f"\n{finding.advice}", "dim")
        table.add_row(Text(finding.verdict, STYLES[finding.verdict]), Text(finding.title), found)
    return table
