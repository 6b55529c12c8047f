"""What ``histotune transfer`` does with what the user typed: diagnose, print the tables and the paragraph."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from histotune.studies.config import ExperimentConfig


def transfer_and_print(head: Path, config: ExperimentConfig, *, images: bool) -> None:
    """Diagnose a transfer and print what was found.

    Args:
        head: Folder of a finished run.
        config: Names the target.
        images: Also try the remedies that embed the target again.
    """
    from rich.console import Console

    from histotune.report.study_tables import transfer_tables
    from histotune.studies.transfer import run_transfer
    from histotune.tools.provenance import redact

    command = redact(" ".join(["histotune", *sys.argv[1:]]))
    outcome = run_transfer(head, config, command, images=images)
    console = Console(width=None if sys.stdout.isatty() else 140)
    for table in transfer_tables(outcome.diagnosis):
        console.print(table)
    console.print(f"\n{outcome.diagnosis.paragraph}\n", highlight=False, markup=False)
    for note in outcome.diagnosis.notes:
        console.print(note, highlight=False, markup=False)
    print(outcome.ledger)
    print(f"report: {outcome.folder / 'transfer.html'}")
