"""Scores in words: number format, the tables of the page and the summary for the terminal."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rich.console import Console, ConsoleOptions
    from rich.table import Table

    from histotune.evaluation.records import Finding, FindingId, Findings, ScoredArm
    from histotune.statistics.records import Interval, Score

METRIC_LABELS = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "balanced_accuracy": "Balanced accuracy",
    "accuracy": "Accuracy",
    "macro_f1": "Macro-F1",
    "patient_recognition_rate": "Patient recognition rate",
    "log_loss": "Log-loss",
}
SYNTHETIC = "SYNTHETIC"
PROBE = "probe"
RANDOM_SPLIT = "probe, random image split"
FLOORS = ("random-weight backbone + probe", "colour histogram + probe", "untuned head", "majority class")
NARROW_TERMINAL = 78


@dataclass
class Footnotes:
    """Reasons and methods that a table's cells refer to by letter."""

    texts: list[str] = field(default_factory=list)

    def mark(self, text: str) -> str:
        """Return the letter of a text, the same letter for the same text."""
        if text not in self.texts:
            self.texts.append(text)
        return _letter(self.texts.index(text))

    def items(self) -> tuple[tuple[str, str], ...]:
        """Return letter and text of each note."""
        return tuple((_letter(index), text) for index, text in enumerate(self.texts))


@dataclass(frozen=True)
class Cell:
    """One score of a table: the value, its interval under it, what else must stand beside it, a footnote letter."""

    value: str
    interval: str
    beside: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Row:
    """One scored arm of a table, as text; ``cells`` follow the table's metrics, None where not computed."""

    arm: str
    domain: str
    trained_on: str
    n_tiles: str
    n_groups: str
    input_mpp: str
    marks: tuple[str, ...]
    floor: bool
    cells: tuple[Cell | None, ...]


@dataclass(frozen=True)
class ScoreTable:
    """A finding as text.

    Attributes:
        metrics: Column labels.
        rows: The arms, in the finding's order.
        intervals: How most intervals were made; empty where there are none.
        footnotes: Letter and text: reasons for what is missing, and intervals made differently.
        group_weighted: Labels of metrics in which each group counts once.
    """

    metrics: tuple[str, ...]
    rows: tuple[Row, ...]
    intervals: str
    footnotes: tuple[tuple[str, str], ...]
    group_weighted: tuple[str, ...]


@dataclass(frozen=True)
class SummaryRow:
    """One line of the summary."""

    label: str
    arm: ScoredArm


@dataclass(frozen=True)
class SummaryTable:
    """The run's summary; rich prints it, with the interval on its own line where the terminal is narrow."""

    title: str
    synthetic: bool
    rows: tuple[SummaryRow, ...]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        """Yield the table that fits the width."""
        yield _rich_table(self, stacked=options.max_width < NARROW_TERMINAL)


def summary_table(findings: Findings) -> SummaryTable:
    """Return the run's main numbers as something rich can print.

    Args:
        findings: What the run found.

    Returns:
        In-domain, each other magnification, leak's price, external and direct, each with AUROC, balanced accuracy,
        interval, n tiles, n groups and marks; under the first of them and the last two stands the best floor.

    Example:
        >>> from rich.console import Console
        >>> Console().print(summary_table(findings))  # doctest: +SKIP
    """
    return SummaryTable(findings.title, findings.synthetic, tuple(_summary_rows(findings)))


def finding_table(finding: Finding) -> ScoreTable:
    """Return a finding as text for the page.

    Args:
        finding: Scored arms.

    Returns:
        Every row with its n tiles and n groups; every missing number or interval with a footnote saying why.
    """
    names = _metric_names(finding.rows)
    common = _common_interval(finding.rows)
    notes = Footnotes()
    rows = tuple(_row(arm, names, common, notes) for arm in finding.rows)
    weighted = {score.name for arm in finding.rows for score in arm.scores if score.weighting == "group"}
    return ScoreTable(
        metrics=tuple(metric_label(name) for name in names),
        rows=rows,
        intervals=f"{common[0] * 100:g} % intervals: {common[1]}" if common else "",
        footnotes=notes.items(),
        group_weighted=tuple(metric_label(name) for name in names if name in weighted),
    )


def format_score(score: Score, *, signed: bool = False) -> str:
    """Return a score as ``0.842 [0.751, 0.912]``; where something is missing, the reason in its place.

    Args:
        score: The score.
        signed: Whether it is a difference, shown with its sign.

    Returns:
        The text without n, which stands in a column of its own.

    Example:
        >>> format_score(Score("auroc", 0.842, Interval(0.751, 0.912, 0.95, "percentile"), 10, 5))  # doctest: +SKIP
        '0.842 [0.751, 0.912]'
    """
    if math.isnan(score.value):
        return f"not estimable: {_reason(score)}"
    value = number(score.value, signed=signed)
    if score.interval is None:
        return f"{value} [interval not estimable: {_reason(score)}]"
    return f"{value} {format_interval(score.interval, signed=signed)}"


def format_interval(interval: Interval, *, signed: bool = False) -> str:
    """Return an interval as ``[0.751, 0.912]``."""
    return f"[{number(interval.low, signed=signed)}, {number(interval.high, signed=signed)}]"


def number(value: float, *, signed: bool = False) -> str:
    """Return three decimals with a true minus sign; a dash where undefined.

    Args:
        value: The number.
        signed: Show a plus as well.

    Example:
        >>> number(-0.0312, signed=True), number(0.9)
        ('−0.031', '0.900')
    """
    if not math.isfinite(value):
        return "–"
    text = f"{value:+.3f}" if signed else f"{value:.3f}"
    return text.replace("-", "−") if float(text) != 0 else "0.000"


def count(n: int) -> str:
    """Return a count with thousands separated; "unknown" for 0, which only stands for groups nobody knows."""
    return f"{n:,}" if n else "unknown"


def metric_label(name: str) -> str:
    """Return a metric's name for people."""
    return METRIC_LABELS.get(name, name.replace("_", " ").capitalize())


def is_difference(arm: ScoredArm) -> bool:
    """Whether a row holds paired differences instead of scores."""
    return arm.arm.startswith("difference")


def is_trained_domain(arm: ScoredArm) -> bool:
    """Whether an arm was trained on the domain it is scored on, as its ``trained_on`` says."""
    rest = arm.trained_on.removeprefix(arm.domain)
    return rest != arm.trained_on and not rest[:1].isalnum()


def sample_size(arm: ScoredArm) -> tuple[int, int]:
    """Return n tiles and n groups of a row, those of its first score."""
    return (arm.scores[0].n_tiles, arm.scores[0].n_groups) if arm.scores else (0, 0)


def _summary_rows(findings: Findings) -> Iterator[SummaryRow]:
    trained = _probe_domains(findings, "in-domain")
    yield from _probe_rows(findings, "in-domain", "in-domain", skip=(), floor=True)
    yield from _probe_rows(findings, "cross-magnification", "other magnification", skip=trained, floor=False)
    leak = findings.finding("leak-price")
    for arm in leak.rows if leak else ():
        if arm.arm == RANDOM_SPLIT:
            yield SummaryRow(f"random image split: {arm.domain}", arm)
        elif is_difference(arm):
            yield SummaryRow("leak's price (random − grouped)", arm)
    yield from _probe_rows(findings, "external", "external", skip=(), floor=True)
    yield from _probe_rows(findings, "direct", "direct training", skip=(), floor=True)


def _probe_rows(
    findings: Findings, finding_id: FindingId, label: str, skip: tuple[str, ...], floor: bool
) -> Iterator[SummaryRow]:
    """Yield the probe's rows of a finding, and the best floor of each domain."""
    finding = findings.finding(finding_id)
    for arm in finding.rows if finding else ():
        if arm.arm != PROBE or arm.domain in skip:
            continue
        yield SummaryRow(f"{label}: {arm.domain}", arm)
        best = _best_floor(finding.rows if finding else (), arm.domain) if floor else None
        if best is not None:
            yield SummaryRow(f"  best floor: {best.arm}", best)


def _probe_domains(findings: Findings, finding_id: FindingId) -> tuple[str, ...]:
    finding = findings.finding(finding_id)
    return tuple(arm.domain for arm in finding.rows if arm.arm == PROBE) if finding else ()


def _best_floor(rows: Iterable[ScoredArm], domain: str) -> ScoredArm | None:
    """Return the floor of a domain with the highest AUROC: the hardest one to beat."""
    floors = [row for row in rows if row.arm in FLOORS and row.domain == domain]
    return max(floors, key=lambda row: _value(row, "auroc"), default=None)


def _value(arm: ScoredArm, name: str) -> float:
    score = arm.score(name)
    return score.value if score is not None and not math.isnan(score.value) else -math.inf


def _rich_table(summary: SummaryTable, *, stacked: bool) -> Table:
    from rich.table import Table
    from rich.text import Text

    title = f"{summary.title} · {SYNTHETIC} data" if summary.synthetic else summary.title
    table = Table(title=Text(title), box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("", overflow="fold", min_width=14)
    for label in ("AUROC", "Balanced accuracy"):
        table.add_column(label, no_wrap=not stacked)
    for label in ("tiles", "groups"):
        table.add_column(label, justify="right", no_wrap=True)
    table.add_column("", style="bold", overflow="fold")
    notes = Footnotes()
    for row in summary.rows:
        cells = [_terminal_cell(row.arm, name, notes, stacked) for name in ("auroc", "balanced_accuracy")]
        n_tiles, n_groups = sample_size(row.arm)
        marks = [mark for mark in row.arm.marks if not (mark == SYNTHETIC and summary.synthetic)]
        style = "dim" if row.arm.arm in FLOORS else ""
        texts = [row.label, *cells, count(n_tiles), count(n_groups), " ".join(marks)]
        table.add_row(*(Text(text) for text in texts), style=style)
    if notes.texts:
        table.caption = Text("\n".join(f"{letter}: {text}" for letter, text in notes.items()))
        table.caption_justify = "left"
    return table


def _terminal_cell(arm: ScoredArm, name: str, notes: Footnotes, stacked: bool) -> str:
    score = arm.score(name)
    if score is None:
        return "–"
    cell = _cell(arm, score, None, notes)
    return f"{cell.value}{chr(10) if stacked else ' '}{cell.interval} {cell.note}".strip()


def _row(arm: ScoredArm, names: tuple[str, ...], common: tuple[float, str] | None, notes: Footnotes) -> Row:
    n_tiles, n_groups = sample_size(arm)
    scores = {score.name: score for score in arm.scores}
    return Row(
        arm=arm.arm,
        domain=arm.domain,
        trained_on=arm.trained_on,
        n_tiles=count(n_tiles),
        n_groups=count(n_groups),
        input_mpp=f"{arm.input_mpp:.2f}" if math.isfinite(arm.input_mpp) else "unknown",
        marks=tuple(mark for mark in arm.marks if mark != SYNTHETIC),
        floor=arm.arm in FLOORS,
        cells=tuple(_cell(arm, scores[name], common, notes) if name in scores else None for name in names),
    )


def _cell(arm: ScoredArm, score: Score, common: tuple[float, str] | None, notes: Footnotes) -> Cell:
    """Return a score as text; a reason or an unusual interval becomes a footnote."""
    signed = is_difference(arm)
    if math.isnan(score.value):
        return Cell("not estimable", "", note=notes.mark(f"not estimable: {_reason(score)}"))
    value, beside = number(score.value, signed=signed), tuple(_beside(arm, score))
    if score.interval is None:
        note = notes.mark(f"interval not estimable: {_reason(score)}")
        return Cell(value, "[not estimable]", beside, note)
    usual = common is None or (score.interval.level, score.interval.method) == common
    note = "" if usual and not _is_spread(score.interval) else notes.mark(score.interval.method)
    return Cell(value, format_interval(score.interval, signed=signed), beside, note)


def _is_spread(interval: Interval) -> bool:
    """Whether the interval is a spread of draws, which must not be read as a confidence interval."""
    return "not a confidence interval" in interval.method


def _beside(arm: ScoredArm, score: Score) -> Iterator[str]:
    if score.name == "auprc" and math.isfinite(score.chance) and not is_difference(arm):
        yield f"prevalence {number(score.chance)}"
    if (score.n_tiles, score.n_groups) != sample_size(arm):
        yield f"n = {count(score.n_tiles)} / {count(score.n_groups)}"


def _metric_names(rows: Iterable[ScoredArm]) -> tuple[str, ...]:
    """Metrics of a table: the known ones in their usual order, then any other in order of appearance."""
    present = dict.fromkeys(score.name for arm in rows for score in arm.scores)
    return (*(name for name in METRIC_LABELS if name in present), *(n for n in present if n not in METRIC_LABELS))


def _common_interval(rows: Iterable[ScoredArm]) -> tuple[float, str] | None:
    intervals = [score.interval for arm in rows for score in arm.scores if score.interval is not None]
    kinds = Counter((interval.level, interval.method) for interval in intervals if not _is_spread(interval))
    return kinds.most_common(1)[0][0] if kinds else None


def _reason(score: Score) -> str:
    return score.reason or "no reason was recorded"


def _letter(index: int) -> str:
    return "abcdefghijklmnopqrstuvwxyz"[index % 26] * (index // 26 + 1)
