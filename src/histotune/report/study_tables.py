"""A transfer diagnosis as tables, for the terminal and for the page."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from histotune.report.words import number
from histotune.transfer.differences import UNCHANGED

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.table import Table

    from histotune.statistics.predictions import Score
    from histotune.transfer.case import Diagnosis, Recovery

METRIC_WORDS = {"auroc": "AUROC", "balanced_accuracy": "balanced accuracy", "log_loss": "log-loss"}


@dataclass(frozen=True)
class PlainTable:
    """A table of texts.

    Attributes:
        title: Heading.
        columns: Names of the columns.
        rows: Texts.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def plain_tables(found: Diagnosis) -> tuple[PlainTable, ...]:
    """Return all tables of a diagnosis, oracles in a table of their own.

    Args:
        found: The diagnosis.

    Returns:
        What was lost, the decision loss, remedies, oracles, few-shot curve, shift, candidates; empty ones left out.
    """
    tables = (_lost(found), _decision(found), _remedies(found), _oracles(found), _few_shot(found), _shift(found),
              _candidates(found))  # fmt: skip
    return tuple(table for table in tables if table.rows)


def transfer_tables(found: Diagnosis) -> tuple[Table, ...]:
    """Return the tables for a terminal.

    Args:
        found: The diagnosis.

    Returns:
        rich tables.
    """
    return printed_tables(plain_tables(found), f" [{', '.join(found.marks)}]" if found.marks else "")


def printed_tables(tables: Iterable[PlainTable], marks: str = "") -> tuple[Table, ...]:
    """Return tables of text for a terminal.

    Args:
        tables: Tables of text.
        marks: Stands behind every title.

    Returns:
        rich tables.
    """
    from rich.markup import escape
    from rich.table import Table

    out = []
    for plain in tables:
        table = Table(title=escape(plain.title + marks), title_justify="left")
        for name in plain.columns:
            table.add_column(escape(name), overflow="fold")
        for row in plain.rows:
            table.add_row(*(escape(text) for text in row))
        out.append(table)
    return tuple(out)


def score_text(score: Score, *, signed: bool = False) -> str:
    """Return a score as "0.842 [0.751, 0.912]", with words where there is no interval or no change.

    Args:
        score: The score.
        signed: Show a plus sign.

    Returns:
        The text.
    """
    if math.isnan(score.value):
        return "not estimable"
    value = number(score.value, signed=signed)
    if score.interval is None:
        return "unchanged" if score.reason == UNCHANGED else f"{value} (no interval)"
    low, high = (number(end, signed=signed) for end in (score.interval.low, score.interval.high))
    return f"{value} [{low}, {high}]"


def _lost(found: Diagnosis) -> PlainTable:
    rows = tuple(
        (METRIC_WORDS[source.name], score_text(source), score_text(target), score_text(gap, signed=True))
        for source, target, gap in zip(found.source_scores, found.target_scores, found.gaps, strict=True)
    )
    n = found.target_scores[0]
    groups = f"{n.n_groups} groups" if n.n_groups else "groups unknown"
    title = f"As it is: {found.source} -> {found.target} ({n.n_tiles:,} tiles, {groups})"
    return PlainTable(title, ("metric", "source, held out", "target", "lost"), rows)


def _decision(found: Diagnosis) -> PlainTable:
    two = len(found.class_names) == 2
    best = "the best threshold's" if two else "that of a shift per class"
    shares = list(zip(found.class_names, *found.prevalence, strict=True))
    rows = (
        (f"balanced accuracy below {best}", score_text(found.threshold_loss, signed=True)),
        *((f"log-loss by {part.cause}", score_text(part.loss, signed=True)) for part in found.parts),
        *(
            (f"share of {name}: source, target", f"{source:.3f}, {target:.3f}")
            for name, source, target in (shares[1:] if two else shares)
        ),
    )  # fmt: skip
    return PlainTable("The decision loss (learned on other target groups)", ("part", "lost"), rows)


def _remedies(found: Diagnosis) -> PlainTable:
    rows = []
    for remedy in found.remedies:
        alone = [score_text(recovery.alone, signed=True) for recovery in remedy.recoveries]
        refined = score_text(remedy.refinement, signed=True) if remedy.refinement else ""
        rows.append((remedy.name, "yes" if remedy.uses_labels else "no", *alone, refined,
                     _left_out(remedy.recovery("auroc")), remedy.assumption))  # fmt: skip
    columns = ("remedy", "labels", "AUROC back", "balanced accuracy back", "log-loss back",
               "log-loss back, both recalibrated", "AUROC, left out of all", "assumes")  # fmt: skip
    return PlainTable("Remedies, each alone", columns, tuple(rows))


def _left_out(recovery: Recovery | None) -> str:
    return "" if recovery is None or recovery.left_out is None else score_text(recovery.left_out, signed=True)


def _oracles(found: Diagnosis) -> PlainTable:
    rows = tuple((oracle.name, *(score_text(score) for score in oracle.scores)) for oracle in found.oracles)
    columns = ("oracle", "AUROC", "balanced accuracy", "log-loss")
    return PlainTable("Oracles: what labels of the target would give; no remedies", columns, rows)


def _few_shot(found: Diagnosis) -> PlainTable:
    rows = tuple(
        (str(point.groups_per_class), score_text(point.auroc), f"{point.sd:.3f}", str(point.n_draws))
        for point in found.few_shot
    )
    columns = ("labelled groups per class", "AUROC", "SD over draws", "draws")
    return PlainTable("Few-shot curve: heads trained on few target groups", columns, rows)


def _shift(found: Diagnosis) -> PlainTable:
    shift = found.shift
    rows = [
        ("domain classifier, AUROC", score_text(shift.domain_auroc)),
        (f"Frechet distance in {shift.components} components", _number(shift.frechet)),
        ("the same between halves of the source", _number(shift.frechet_within)),
        ("input_mpp of the source, um/px", _number(shift.source_mpp)),
        ("input_mpp of the target, um/px", _number(shift.target_mpp)),
    ]
    for name, values in (("source", shift.stain_source), ("target", shift.stain_target)):
        if values:
            rows.append((f"mean optical density of the {name}: red, green, blue",
                         ", ".join(f"{value:.3f}" for value in values)))  # fmt: skip
    return PlainTable("The shift", ("measure", "value"), tuple(rows))


def _candidates(found: Diagnosis) -> PlainTable:
    rows = tuple((verdict.candidate, verdict.first, verdict.reason) for verdict in found.by_candidate)
    return PlainTable("Under every candidate scale", ("scale", "first cause", "why"), rows)


def _number(value: float) -> str:
    return "unknown" if math.isnan(value) else f"{value:.4g}"
