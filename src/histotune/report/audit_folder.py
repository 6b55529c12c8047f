"""An audit on disk: the findings as JSON and as a page."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from histotune.report.study_pages import write_audit_page
from histotune.tools.files import write_json
from histotune.tools.provenance import redact

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from histotune.audit.records import Audit
    from histotune.report.audit_pictures import AuditPicture


def write_audit(audit: Audit, pictures: Sequence[AuditPicture], folder: Path) -> None:
    """Write ``audit.json`` and ``audit.html``, each whole or not at all.

    Args:
        audit: What was found.
        pictures: Tiles that the page shows.
        folder: Made where it is missing; other files in it are left alone.

    Raises:
        UserError: The disk is full or the folder can't be written.
    """
    write_json(folder / "audit.json", audit.as_dict())
    command = redact(" ".join(["histotune", *sys.argv[1:]]))
    write_audit_page(audit, pictures, command, folder / "audit.html")
