"""Findings, trials, audits and protocols as tables, for the terminal and for the page."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

from histotune.datasets.dataset_spec import group_word
from histotune.heads.calibrate import MIN_GROUPS, t_interval
from histotune.heads.select import score_trials
from histotune.heads.sweep import CONTEXT, OUTCOME
from histotune.report.words import (
    METRIC_LABELS,
    PROBABILITY_METRICS,
    Cell,
    Footnotes,
    count,
    format_score,
    group_count,
    is_difference,
    is_spread,
    metric_label,
    metric_of,
    metric_score,
    number,
    sample_size,
    sample_words,
    score_cell,
)
from histotune.tools.marks import FLOORS, LEAKY, PROBE, RANDOM_SPLIT, REPEATED, SYNTHETIC, TUNED, arm_words, short_words
from histotune.tools.streams import one_line
from histotune.tools.table import OPEN, Column, Layout, Row, Span, Table, Tone, columns_of, rows_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import polars as pl
    from rich.console import Console, ConsoleOptions
    from rich.table import Table as RichTable
    from rich.text import Text

    from histotune.audit.verdicts import Audit, AuditFinding, Verdict
    from histotune.evaluation.findings import Finding, FindingId, Findings, PartTable, RobustnessTable, ScoredArm
    from histotune.heads.family import Tried
    from histotune.published.study import ProtocolRow, ProtocolStudy
    from histotune.statistics.predictions import Score


NARROW_TERMINAL = 78


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

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RichTable | Text]:
        """Yield the table that fits the width, then the reasons for what is missing."""
        table = _summary(self, stacked=options.max_width < NARROW_TERMINAL)
        yield table.as_rich(OPEN)
        yield from (_plain(note) for note in table.notes)


def summary_table(findings: Findings) -> SummaryTable:
    """Return the run's main numbers as something rich can print."""
    return SummaryTable(findings.title, findings.synthetic, tuple(_summary_rows(findings)))


def findings_table(findings: Findings) -> Table:
    """Return the run's main numbers as a table, with the reasons for what is missing."""
    return _summary(summary_table(findings), stacked=False)


def _summary_rows(findings: Findings) -> Iterator[SummaryRow]:
    trained = _probe_domains(findings, "in-domain")
    yield from _probe_rows(findings, "in-domain", "in-domain: ", skip=(), floor=True)
    origin = f"{trained[0]} → " if trained else ""
    yield from _probe_rows(findings, "cross-magnification", origin, skip=trained, floor=False)
    leak = findings.finding("leak-price")
    for arm in leak.rows if leak else ():
        if arm.arm == RANDOM_SPLIT:
            yield SummaryRow("random image split", arm)
        elif is_difference(arm):
            yield SummaryRow("leak's price (paired)", arm)
    yield from _probe_rows(findings, "external", "external: ", skip=(), floor=True)
    yield from _probe_rows(findings, "direct", "direct: ", skip=(), floor=True)


def _probe_rows(
    findings: Findings, finding_id: FindingId, label: str, skip: tuple[str, ...], floor: bool
) -> Iterator[SummaryRow]:
    """Yield the probe's rows of a finding, and the best floor of each domain."""
    finding = findings.finding(finding_id)
    for arm in finding.rows if finding else ():
        if arm.arm != PROBE or arm.domain in skip:
            continue
        yield SummaryRow(label + _without_prefix(arm.domain, label), arm)
        repeated = finding.row(REPEATED, arm.domain) if finding else None
        if repeated is not None:
            yield SummaryRow("  ± SD, other training cases", repeated)
        tuned = finding.row(TUNED, arm.domain) if finding else None
        if tuned is not None:
            yield SummaryRow(f"  {short_words(TUNED)}", tuned)
        best = _best_floor(finding.rows if finding else (), arm.domain) if floor else None
        if best is not None:
            yield SummaryRow(f"  floor: {short_words(best.arm)}", best)


def _without_prefix(domain: str, label: str) -> str:
    """Return a domain without its data set's name where the label names the same data set, "breakhis 100X → "."""
    name, _, last = domain.rpartition(" ")
    return last if name and label.startswith(f"{name} ") else domain


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


def _summary(summary: SummaryTable, *, stacked: bool) -> Table:
    title = f"{summary.title} · {SYNTHETIC} data" if summary.synthetic else summary.title
    columns = (
        Column("", min_chars=14),
        *(Column(name, fit="cut" if stacked else "whole") for name in ("AUROC", "Balanced accuracy")),
        *(Column(name, "right", "whole") for name in ("tiles", _groups_are(summary.rows))),
    )
    notes, rows = Footnotes(), []
    for row in summary.rows:
        scores = [metric_score(row.arm, name) for name in ("auroc", "balanced_accuracy")]
        cells = [_terminal_cell(row.arm, score, notes, stacked=stacked) for score in scores]
        n_tiles, n_groups = sample_size(row.arm)
        label = _with_marks(row.label, row.arm, hide_synthetic=summary.synthetic)
        tone: Tone = "faint" if row.arm.arm in FLOORS else "plain"
        rows.append(Row((label, *cells, count(n_tiles), group_count(n_groups)), tone))
    return Table(title, columns, tuple(rows), notes.lines())


def _groups_are(rows: Iterable[SummaryRow]) -> str:
    """Return what the groups of all rows are called: cases, slides, or groups where data sets differ."""
    words = {group_word(row.arm.domain) for row in rows}
    return f"{words.pop()}s" if len(words) == 1 else "groups"


def _with_marks(label: str, arm: ScoredArm, *, hide_synthetic: bool) -> tuple[Span, ...]:
    marks = [mark for mark in arm.marks if not (hide_synthetic and mark == SYNTHETIC)]
    return (Span(label), *(Span(f" {mark}", "mark") for mark in marks))


def _plain(text: str, style: str = "") -> Text:
    """Text on one line that rich doesn't read as its own markup: intervals stand in square brackets."""
    from rich.text import Text

    return Text(one_line(text), style)


def _terminal_cell(arm: ScoredArm, score: Score | None, notes: Footnotes, *, stacked: bool) -> str | tuple[Span, ...]:
    if score is None:
        return "–"
    cell = score_cell(arm, score, None, notes)
    beside = f"{cell.interval} {cell.note}".strip()
    if stacked and beside:
        return (Span(cell.value), Span("\n"), Span(beside))
    return f"{cell.value} {beside}".strip()


# ------------------------------------------------------------------------------
# A finding as the page's table: rows by arm, cells as text.


@dataclass(frozen=True)
class SummaryLine:
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
    rows: tuple[SummaryLine, ...]


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
        patient_weighted: Labels of metrics in which each of the authors' patients counts once.
        title: What it shows; empty for the finding's main table.
    """

    metrics: tuple[str, ...]
    groups: tuple[RowGroup, ...]
    trained_on: str
    exceptions: bool
    intervals: str
    footnotes: tuple[tuple[str, str], ...]
    patient_weighted: tuple[str, ...]
    title: str = ""


def score_tables(finding: Finding) -> tuple[ScoreTable, ...]:
    """Return a finding as text for the page: ranking and decisions, then probabilities and operating points."""
    tables = []
    for title, wanted in (("", False), ("Probabilities and operating points", True)):
        parts = [_only(arm, probabilities=wanted) for arm in finding.rows]
        rows = tuple(part for part in parts if part.scores)
        if rows:
            tables.append(replace(_score_table(replace(finding, rows=rows)), title=title))
    return tuple(tables)


def part_finding(part: PartTable, finding: Finding) -> Finding:
    """Return a finding's rows by site, scanner, stain or unit as a finding of their own."""
    title = f"{finding.title}: the probe by {part.column}"
    return replace(finding, title=title, rows=part.rows, notes=(part.note,), parts=())


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
            arm=arm_words(name),
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
        intervals=f"{common[0] * 100:g} % intervals: {common[1]}; conditional on the trained heads" if common else "",
        footnotes=notes.items(),
        patient_weighted=tuple(metric_label(name) for name in names if name in weighted),
    )


def _origin(trained_on: str) -> str:
    """Say what trained an arm; untuned heads were trained on nothing and only say how many there are."""
    return trained_on.removeprefix("nothing: ") if trained_on.startswith("nothing: ") else f"trained on {trained_on}"


def _row(arm: ScoredArm, names: tuple[str, ...], common: tuple[float, str] | None, notes: Footnotes) -> SummaryLine:
    n_tiles, n_groups = sample_size(arm)
    scores = [metric_score(arm, name) for name in names]
    return SummaryLine(
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


# ------------------------------------------------------------------------------
# The robustness index as the page's table.


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
    """Return a table of the robustness index as text."""
    footnotes = Footnotes()
    several = len({arm.domain for arm in table.rows}) > 1
    rows = tuple(_robustness_row(arm, findings.backbone, footnotes, several=several) for arm in table.rows)
    notes = (HOW_TO_READ.format(column=table.column), *table.notes) if table.rows else table.notes
    return RobustnessSection(table.column, rows, footnotes.items(), notes)


def robustness_lines(table: RobustnessTable) -> Iterator[str]:
    """Yield the index of every row as one line for the terminal, then the notes."""
    for arm in table.rows:
        score = arm.scores[0]
        n = f"{sample_words(score.n_tiles, score.n_groups)}; chance {number(score.chance)}"
        known = "" if math.isnan(score.value) else f" ({n})"
        yield f"Class or {table.column}, robustness index on {arm.domain}: {format_score(score)}{known}"
    yield from table.notes


def _robustness_row(arm: ScoredArm, backbone: str, footnotes: Footnotes, *, several: bool) -> RobustnessRow:
    score = arm.scores[0]
    name = backbone if arm.arm == PROBE else short_words(arm.arm)
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


# ------------------------------------------------------------------------------
# A sweep's trials for people: a table for the terminal, the best so far while it runs, names of lines in plots.


TOP = 10
TRIALS_LAYOUT = Layout(title="center", is_padded=True, has_notes=True)
OPTIMISTIC = "optimistic: the lowest of several was selected"


def trials_table(trials: pl.DataFrame, n_groups: int, top: int = TOP) -> Table:
    """Return the best trials of a sweep, and the chosen one wherever it stands."""
    ranked = trials.sort("log_loss", nulls_last=True, maintain_order=True).with_row_index("rank", 1)
    shown = ranked.filter((ranked["rank"] <= top) | ranked["chosen"])
    names = [
        name for name in setting_names(trials) if name == "pooling" or len(trials) == 1 or trials[name].n_unique() > 1
    ]
    columns = tuple(
        Column(name, "left" if name in {"pooling", "class_weight", ""} else "right", "cut")
        for name in ("", *names, "log-loss", "95 % over groups", "AUROC", "")
    )
    return Table(
        f"Trials: group-balanced log-loss, out of fold, lower is better ({len(shown)} of {len(trials)})",
        columns,
        tuple(_trial_row(trial, names, n_groups) for trial in shown.iter_rows(named=True)),
        (f"A chosen trial's log-loss is {OPTIMISTIC}.",),
    )


def _trial_row(trial: dict[str, Any], names: list[str], n_groups: int) -> Row:
    loss = trial["log_loss"]
    diverged = bool(trial.get("diverged")) or loss is None or not math.isfinite(loss)
    interval = "-" if diverged else interval_words(loss, trial["log_loss_se"], n_groups)
    numbers = ("-", "-", "-") if diverged else (f"{loss:.3f}", interval, _three(trial["auroc"]))
    settings = (_setting(trial[name]) for name in names)
    cells = (str(trial["rank"]), *settings, *numbers, _remark(trial, diverged))
    return Row(cells, "strong" if trial["chosen"] else "plain")


def setting_names(trials: pl.DataFrame) -> tuple[str, ...]:
    """Return the columns that say what was tried."""
    return tuple(name for name in trials.columns if name not in (*OUTCOME, *CONTEXT))


def line_names(trials: pl.DataFrame) -> list[str]:
    """Return the line of a plot over penalties of each trial: its pooling, and its weighting if several."""
    if "class_weight" not in trials.columns or trials["class_weight"].n_unique() < 2:
        return [str(name) for name in trials["pooling"]]
    words = {"none": "classes as they are", "balanced": "classes balanced"}
    return [
        f"{row['pooling']}, {words.get(row['class_weight'], row['class_weight'])}"
        for row in trials.iter_rows(named=True)
    ]


def interval_words(value: float, standard_error: float | None, n_groups: int) -> str:
    """Return the 95 % t-interval of a mean over groups as ``[low, high]``, or "-" with fewer than five groups."""
    if standard_error is None or not math.isfinite(standard_error) or n_groups < MIN_GROUPS:
        return "-"
    low, high = t_interval(value, standard_error, n_groups)
    return f"[{max(0.0, low):.3f}, {high:.3f}]"


class BestSoFar:
    """Watches a sweep and keeps one line up to date.

    Args:
        show: Shows a line.
    """

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show = show
        self._n_tiles = 0
        self._loss, self._words = math.inf, "no usable trial yet"

    def __call__(self, tried: Tried) -> None:
        """Look at trials that have just finished; only the largest training set counts."""
        if tried.part.n_tiles < self._n_tiles:
            return
        if tried.part.n_tiles > self._n_tiles:
            self._n_tiles, self._loss, self._words = tried.part.n_tiles, math.inf, "no usable trial yet"
        scores = score_trials(tried.found, tried.y_n, tried.part)
        for t, trial in enumerate(tried.trials):
            loss = float(scores.log_loss_T[t])
            if scores.usable_T[t] and loss < self._loss:
                self._loss = loss
                settings = ", ".join(f"{name} {_setting(value)}" for name, value in trial.settings().items())
                interval = interval_words(loss, float(scores.log_loss_se_T[t]), tried.part.n_groups)
                self._words = f"{'+'.join(trial.pooling)}, {settings}: log-loss {loss:.3f} {interval}"
        self._show(f"{tried.n_done:,} of {tried.n_trials:,} trials; best so far (optimistic) {self._words}")


def _remark(trial: dict[str, object], diverged: bool) -> str:
    if diverged:
        return "diverged"
    words = (("chosen, optimistic", trial["chosen"]), ("not converged", not trial["converged"]))
    return ", ".join(word for word, is_so in words if is_so)


def _setting(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _three(value: float | None) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.3f}"


# ------------------------------------------------------------------------------
# An audit's findings for the terminal, printed by rich.


AUDIT_TONES: dict[Verdict, Tone] = {
    "ok": "ok", "not checked": "strong", "note": "note", "warning": "warning", "error": "error",
}  # fmt: skip
AUDIT_LAYOUT = Layout(lines=False, title="center", is_padded=True, gap=2)


def audit_table(audit: Audit) -> Table:
    """Return the findings as a table: verdict, title, sentence and advice."""
    title = f"{audit.title}{f' · {SYNTHETIC} data' if audit.synthetic else ''}: {audit.n_tiles:,} tiles, "
    title += f"{audit.n_groups:,} groups" + (f", split {audit.split.name}" if audit.split else "")
    columns = (Column("", fit="whole"), Column("Looked at", fit="cut", max_chars=24), Column("Found", fit="cut"))
    rows = tuple(
        Row(((Span(finding.verdict, AUDIT_TONES[finding.verdict]),), finding.title, _found(finding)))
        for finding in audit.findings
    )
    return Table(title, columns, rows, marks=(LEAKY,) if audit.split and audit.split.leaky else ())


def _found(finding: AuditFinding) -> tuple[Span, ...]:
    advice = (Span("\n"), Span(finding.advice, "faint")) if finding.advice and finding.verdict != "ok" else ()
    return (Span(finding.sentence), *advice)


# ------------------------------------------------------------------------------
# A protocol's table for the terminal, its weaknesses under it.


@dataclass(frozen=True)
class ProtocolTable:
    """What rich prints: the table, why an interval is missing, then what weakens the numbers."""

    study: ProtocolStudy

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RichTable | Text]:
        """Yield the table and everything that must stand beside it."""
        del console, options
        table = _protocol(self.study)
        yield table.as_rich(OPEN)
        yield from (_plain(note) for note in table.notes)
        yield _plain("")
        yield _plain("What weakens these numbers:", "bold")
        for weakness in self.study.weaknesses:
            yield _plain(f"- {weakness}")


def protocol_table(study: ProtocolStudy) -> Table:
    """Return a protocol's table, with all that must stand beside it."""
    table = _protocol(study)
    return replace(table, notes=(*table.notes, *study.weaknesses))


def _protocol(study: ProtocolStudy) -> Table:
    notes = Footnotes()
    columns = (
        *columns_of(("", "columns", "metric", "score", "SD over runs", "interval over groups")),
        Column("tiles", "right", "whole"),
        Column("groups", "right", "whole"),
    )
    rows = rows_of(
        (
            row.name,
            row.pooling,
            METRIC_LABELS.get(row.metric, row.metric),
            *_numbers(row, notes),
            f"{row.n_tiles:,}",
            f"{row.n_groups:,}" if row.n_groups else "?",
        )
        for row in study.rows
    )
    return Table(f"{study.title}, scored on {study.scored}", columns, rows, notes.lines(), study.marks)


def _numbers(row: ProtocolRow, notes: Footnotes) -> tuple[str, str, str]:
    """Return the score, its spread and its interval, footnotes marked."""
    score = "diverged" if math.isnan(row.mean) else f"{row.mean:.3f}"
    chosen = dict.fromkeys(text for text in row.chosen if text)
    for text in (row.note, f"chosen: {'; '.join(chosen)}" if chosen else ""):
        if text:
            score += f" {notes.mark(text)}"
    spread = (
        "one run"
        if math.isnan(row.sd)
        else f"{row.sd:.3f} ({row.n_values:,}) {notes.mark(f'runs differ in {row.spread_over}')}"
    )
    if row.interval is None:
        return score, spread, f"– {notes.mark(row.reason)}" if row.reason else "–"
    of_one = " of the run nearest to the mean" if row.n_values > 1 else ""
    method = notes.mark(f"{row.interval.method}{of_one}")
    return score, spread, f"[{row.interval.low:.3f}, {row.interval.high:.3f}] {method}"
