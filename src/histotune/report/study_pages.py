"""One self-contained page for an audit: verdicts, pictures of the tiles concerned, tables."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING

from histotune.report.page import page_environment, render_template
from histotune.tools.files import write_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from histotune.audit.records import Audit, AuditFinding, Cell, Cluster
    from histotune.report.audit_pictures import AuditPicture

MAX_ROWS = 500  # of a table on the page; audit.json has them all


@dataclass(frozen=True)
class ShownPicture:
    """A tile, its JPEG as a data URI."""

    picture: AuditPicture
    uri: str


@dataclass(frozen=True)
class ShownCluster:
    """Pictures that belong together; ``cluster`` is None where tiles stand alone."""

    cluster: Cluster | None
    pictures: tuple[ShownPicture, ...]


@dataclass(frozen=True)
class ShownFinding:
    """A finding as the page shows it."""

    finding: AuditFinding
    clusters: tuple[ShownCluster, ...]


def write_audit_page(audit: Audit, pictures: Sequence[AuditPicture], command: str, path: Path) -> None:
    """Write the page as one HTML file that loads nothing and runs no script.

    Args:
        audit: What was found.
        pictures: Tiles to show.
        command: The command that made it.
        path: Target file, usually ``audit.html``.

    Raises:
        UserError: The disk is full or the folder can't be written.
    """
    write_text(path, render_audit_page(audit, pictures, command))


def render_audit_page(audit: Audit, pictures: Sequence[AuditPicture], command: str) -> str:
    """Return the page's HTML; equal inputs give equal text.

    Args:
        audit: What was found.
        pictures: Tiles to show.
        command: The command that made it.

    Returns:
        A whole HTML document in valid Unicode.
    """
    environment = page_environment()
    environment.filters["cell"] = cell_text
    return render_template(
        environment,
        "audit.html.j2",
        ("style.css", "audit.css"),
        audit=audit,
        shown=tuple(_shown(finding, pictures) for finding in audit.findings),
        has_pictures=bool(pictures),
        command=command,
        max_rows=MAX_ROWS,
    )


def cell_text(value: Cell) -> str:
    """Return a table's cell as text.

    Example:
        >>> cell_text(1234), cell_text(0.25), cell_text(None)
        ('1,234', '0.25', '–')
    """
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:g}"
    return f"{value:,}" if isinstance(value, int) else value


def _shown(finding: AuditFinding, pictures: Sequence[AuditPicture]) -> ShownFinding:
    own = [picture for picture in pictures if picture.finding == finding.id]
    clusters = []
    for number in dict.fromkeys(picture.cluster for picture in own):
        members = tuple(ShownPicture(one, _uri(one.jpeg)) for one in own if one.cluster == number)
        clusters.append(ShownCluster(finding.clusters[number - 1] if number else None, members))
    return ShownFinding(finding, tuple(clusters))


def _uri(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
