"""Added studies as the sections of a page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from histotune.report.matrix_figures import ShownMatrix, show_matrix
from histotune.report.study_figures import few_shot_figure, recovery_figures
from histotune.report.study_tables import plain_tables
from histotune.tools.provenance import redact

if TYPE_CHECKING:
    from histotune.evaluation.magnifications import MatrixStudy
    from histotune.report.added import Added
    from histotune.report.figures import Figure
    from histotune.report.study_tables import PlainTable
    from histotune.transfer.case import Diagnosis


@dataclass(frozen=True)
class TransferSection:
    """A diagnosis with its figures and tables."""

    found: Diagnosis
    recoveries: tuple[Figure, ...]
    few_shot: Figure | None
    tables: tuple[PlainTable, ...]
    ledger: str
    command: str


@dataclass(frozen=True)
class MatrixSection:
    """A magnification study with its pictures."""

    study: MatrixStudy
    shown: tuple[ShownMatrix, ...]


@dataclass(frozen=True)
class AddedSections:
    """All added studies."""

    transfers: tuple[TransferSection, ...]
    matrices: tuple[MatrixSection, ...]


def show_added(added: Added) -> AddedSections:
    """Draw the added studies.

    Args:
        added: The studies of a run.

    Returns:
        Their sections.
    """
    transfers = [
        TransferSection(
            one.found, tuple(recovery_figures(one.found)), few_shot_figure(one.found), tuple(plain_tables(one.found)),
            one.ledger, redact(one.command),
        )
        for one in added.transfers
    ]  # fmt: skip
    matrices = [
        MatrixSection(study, tuple(show_matrix(matrix, "SYNTHETIC" in study.marks) for matrix in study.matrices))
        for study in added.matrices
    ]
    return AddedSections(tuple(transfers), tuple(matrices))
