"""The robustness index as the page's table."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from histotune.report.words import (
    FLOORS,
    PROBE,
    SHORT_FLOORS,
    SYNTHETIC,
    Cell,
    Footnotes,
    count,
    format_score,
    group_count,
    number,
    score_cell,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from histotune.evaluation.findings import Findings, RobustnessTable, ScoredArm

NO_USUAL = (0.0, "")  # every interval's method becomes a footnote
HOW_TO_READ = (
    "1: the neighbours of a tile share its class, whatever their {column}; 0: they share its {column}, whatever their "
    "class; chance is what blindly drawn neighbours give. It speaks of neighbours in the embedding, not of the head, "
    "which may overlook what sets the {column}s apart, and it says nothing of {column}s that are not here."
)


@dataclass(frozen=True)
class RobustnessRow:
    """The index of one arm's embeddings, as text."""

    label: str
    reads: str
    n_tiles: str
    n_groups: str
    cell: Cell
    chance: str
    floor: bool
    marks: tuple[str, ...]


@dataclass(frozen=True)
class RobustnessSection:
    """The index for one of site, scanner and stain."""

    column: str
    rows: tuple[RobustnessRow, ...]
    footnotes: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]


def robustness_section(table: RobustnessTable, findings: Findings) -> RobustnessSection:
    """Return a table of the robustness index as text.

    Args:
        table: From the finding.
        findings: Name of the backbone.

    Returns:
        Rows with interval, chance and n; every interval's method and every missing number's reason as a footnote.
    """
    footnotes = Footnotes()
    several = len({arm.domain for arm in table.rows}) > 1
    rows = tuple(_robustness_row(arm, findings.backbone, footnotes, several=several) for arm in table.rows)
    notes = (HOW_TO_READ.format(column=table.column), *table.notes) if table.rows else table.notes
    return RobustnessSection(table.column, rows, footnotes.items(), notes)


def robustness_lines(table: RobustnessTable) -> Iterator[str]:
    """Yield the index of every row as one line for the terminal, then the notes."""
    for arm in table.rows:
        score = arm.scores[0]
        n = f"{count(score.n_tiles)} tiles, {group_count(score.n_groups)} groups; chance {number(score.chance)}"
        known = "" if math.isnan(score.value) else f" ({n})"
        yield f"Class or {table.column}, robustness index on {arm.domain}: {format_score(score)}{known}"
    yield from table.notes


def _robustness_row(arm: ScoredArm, backbone: str, footnotes: Footnotes, *, several: bool) -> RobustnessRow:
    score = arm.scores[0]
    name = backbone if arm.arm == PROBE else SHORT_FLOORS.get(arm.arm, arm.arm)
    return RobustnessRow(
        label=f"{name}, {arm.domain}" if several else name,
        reads=arm.trained_on,
        n_tiles=count(score.n_tiles),
        n_groups="–" if math.isnan(score.value) else group_count(score.n_groups),
        cell=score_cell(arm, score, NO_USUAL, footnotes),
        chance=number(score.chance),
        floor=arm.arm in FLOORS,
        marks=tuple(mark for mark in arm.marks if mark != SYNTHETIC),
    )
