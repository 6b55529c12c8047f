"""A finding as the page's table: rows by arm, cells as text."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING

from histotune.report.words import (
    FLOORS,
    METRIC_LABELS,
    PROBABILITY_METRICS,
    SYNTHETIC,
    Cell,
    Footnotes,
    count,
    group_count,
    is_spread,
    metric_label,
    metric_of,
    metric_score,
    sample_size,
    score_cell,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from histotune.evaluation.findings import Finding, ScoredArm


@dataclass(frozen=True)
class Row:
    """One scored arm on one domain, as text; ``cells`` follow the table's metrics, None where not computed."""

    domain: str
    scale: str
    n_tiles: str
    n_groups: str
    marks: tuple[str, ...]
    cells: tuple[Cell | None, ...]


@dataclass(frozen=True)
class RowGroup:
    """The rows of one arm; ``trained_on`` is empty where it is what the table's caption says."""

    arm: str
    trained_on: str
    floor: bool
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class ScoreTable:
    """A finding as text.

    Attributes:
        metrics: Column labels.
        groups: The rows by arm, in the finding's order.
        trained_on: What trained most arms, for the caption.
        exceptions: Whether some arm was trained otherwise.
        intervals: How most intervals were made; empty where there are none.
        footnotes: Letter and text: reasons for what is missing, and intervals made differently.
        group_weighted: Labels of metrics in which each group counts once.
        title: What it shows; empty for the finding's main table.
    """

    metrics: tuple[str, ...]
    groups: tuple[RowGroup, ...]
    trained_on: str
    exceptions: bool
    intervals: str
    footnotes: tuple[tuple[str, str], ...]
    group_weighted: tuple[str, ...]
    title: str = ""


def score_tables(finding: Finding) -> tuple[ScoreTable, ...]:
    """Return a finding as text for the page: ranking and decisions, then probabilities and operating points.

    Args:
        finding: Scored arms.

    Returns:
        One table or two; every row with its n tiles and n groups; every missing number or interval with a footnote
        saying why.
    """
    tables = []
    for title, wanted in (("", False), ("Probabilities and operating points", True)):
        parts = [_only(arm, probabilities=wanted) for arm in finding.rows]
        rows = tuple(part for part in parts if part.scores)
        if rows:
            tables.append(replace(_score_table(replace(finding, rows=rows)), title=title))
    return tuple(tables)


def _only(arm: ScoredArm, *, probabilities: bool) -> ScoredArm:
    """Return an arm with the scores of one table."""
    scores = (score for score in arm.scores if (metric_of(score) in PROBABILITY_METRICS) == probabilities)
    return replace(arm, scores=tuple(scores))


def _score_table(finding: Finding) -> ScoreTable:
    names = _metric_names(finding.rows)
    common = _common_interval(finding.rows)
    notes = Footnotes()
    usual = Counter(arm.trained_on for arm in finding.rows).most_common(1)
    trained_on = usual[0][0] if usual else ""
    groups = tuple(
        RowGroup(
            arm=name,
            trained_on="" if origin == trained_on else _origin(origin),
            floor=name in FLOORS,
            rows=tuple(_row(arm, names, common, notes) for arm in arms),
        )
        for (name, origin), arms in groupby(finding.rows, key=lambda arm: (arm.arm, arm.trained_on))
    )
    weighted = {metric_of(score) for arm in finding.rows for score in arm.scores if score.weighting == "group"}
    return ScoreTable(
        metrics=tuple(metric_label(name) for name in names),
        groups=groups,
        trained_on=trained_on,
        exceptions=any(group.trained_on for group in groups),
        intervals=_interval_words(*common) if common else "",
        footnotes=notes.items(),
        group_weighted=tuple(metric_label(name) for name in names if name in weighted),
    )


def _interval_words(level: float, method: str) -> str:
    return f"{level * 100:g} % intervals: {method}; conditional on the trained heads"


def _origin(trained_on: str) -> str:
    """Say what trained an arm; untuned heads were trained on nothing and only say how many there are."""
    return trained_on.removeprefix("nothing: ") if trained_on.startswith("nothing: ") else f"trained on {trained_on}"


def _row(arm: ScoredArm, names: tuple[str, ...], common: tuple[float, str] | None, notes: Footnotes) -> Row:
    n_tiles, n_groups = sample_size(arm)
    scores = [metric_score(arm, name) for name in names]
    return Row(
        domain=arm.domain,
        scale=f"{arm.input_mpp:.2f}\u00a0µm/px" if math.isfinite(arm.input_mpp) else "scale unknown",
        n_tiles=count(n_tiles),
        n_groups=group_count(n_groups),
        marks=tuple(mark for mark in arm.marks if mark != SYNTHETIC),
        cells=tuple(score_cell(arm, score, common, notes) if score is not None else None for score in scores),
    )


def _metric_names(rows: Iterable[ScoredArm]) -> tuple[str, ...]:
    """Metrics of a table: the known ones in their usual order, then any other in order of appearance."""
    present = dict.fromkeys(metric_of(score) for arm in rows for score in arm.scores)
    return (*(name for name in METRIC_LABELS if name in present), *(n for n in present if n not in METRIC_LABELS))


def _common_interval(rows: Iterable[ScoredArm]) -> tuple[float, str] | None:
    intervals = [score.interval for arm in rows for score in arm.scores if score.interval is not None]
    kinds = Counter((interval.level, interval.method) for interval in intervals if not is_spread(interval))
    return kinds.most_common(1)[0][0] if kinds else None
