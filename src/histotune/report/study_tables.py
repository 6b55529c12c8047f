"""A transfer diagnosis, leaderboards and the scores of a run as tables, for terminals, pages and files."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from textwrap import wrap
from typing import TYPE_CHECKING

from histotune.published.published_numbers import Protocol
from histotune.report.decision_tables import decision_tables
from histotune.report.tables import part_finding, score_tables
from histotune.report.words import (
    count,
    nested_estimates,
    number,
    sample_words,
    selected_score,
    temperature,
    threshold,
    weighting_words,
)
from histotune.statistics.metrics import LOWER_IS_BETTER
from histotune.tools.files import write_text
from histotune.tools.marks import SYNTHETIC
from histotune.tools.table import Row, Table, columns_of, latex_float, latex_text, rows_of, table_of
from histotune.transfer.diagnose import conclusion
from histotune.transfer.differences import UNCHANGED

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from histotune.evaluation.findings import Finding, Findings
    from histotune.evaluation.magnifications import MagnificationMatrix
    from histotune.published.leaderboard import Board, BoardRow
    from histotune.report.run_folder import ReportInputs
    from histotune.report.tables import RowGroup, ScoreTable, SummaryLine
    from histotune.report.words import Cell
    from histotune.statistics.predictions import Score
    from histotune.transfer.case import Diagnosis, Recovery


METRIC_WORDS = {"auroc": "AUROC", "balanced_accuracy": "balanced accuracy", "log_loss": "log-loss"}


def transfer_tables(found: Diagnosis) -> tuple[Table, ...]:
    """Return all tables of a diagnosis, oracles in a table of their own."""
    oracles = [
        {"oracle": oracle.name} | {METRIC_WORDS[score.name]: score_text(score) for score in oracle.scores}
        for oracle in found.oracles
    ]
    few_shot = [
        {
            "labelled groups per class": str(point.groups_per_class),
            "AUROC": score_text(point.auroc),
            "SD over draws": f"{point.sd:.3f}",
            "draws": str(point.n_draws),
        }
        for point in found.few_shot
    ]
    candidates = [{"scale": one.candidate, "first cause": one.first, "why": one.reason} for one in found.by_candidate]
    tables = (
        _lost(found),
        _decision(found),
        _remedies(found),
        table_of("Oracles: what labels of the target would give; no remedies", oracles),
        table_of("Few-shot curve: heads trained on few target groups", few_shot),
        _shift(found),
        table_of("Under every candidate scale", candidates),
    )
    return tuple(replace(table, marks=found.marks) for table in tables if table.rows)


def plain_table(title: str, names: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Return a table of texts, all to the left."""
    return Table(title, columns_of(names), rows_of(rows))


def score_text(score: Score, *, signed: bool = False) -> str:
    """Return a score as "0.842 [0.751, 0.912]", with words where there is no interval or no change."""
    if math.isnan(score.value):
        return "not estimable"
    value = number(score.value, signed=signed)
    if score.interval is None:
        return "unchanged" if score.reason == UNCHANGED else f"{value} (no interval)"
    low, high = (number(end, signed=signed) for end in (score.interval.low, score.interval.high))
    return f"{value} [{low}, {high}]"


def _lost(found: Diagnosis) -> Table:
    rows = tuple(
        (METRIC_WORDS[source.name], score_text(source), score_text(target), score_text(gap, signed=True))
        for source, target, gap in zip(found.source_scores, found.target_scores, found.gaps, strict=True)
    )
    n = found.target_scores[0]
    groups = f"{n.n_groups} groups" if n.n_groups else "groups unknown"
    title = f"As it is: {found.source} -> {found.target} ({n.n_tiles:,} tiles, {groups})"
    return plain_table(title, ("metric", "source, held out", "target", "lost"), rows)


def _decision(found: Diagnosis) -> Table:
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
    )
    return plain_table("The decision loss (learned on other target groups)", ("part", "lost"), rows)


def _remedies(found: Diagnosis) -> Table:
    rows = [
        {
            "remedy": remedy.name,
            "labels": "yes" if remedy.uses_labels else "no",
            **{
                f"{METRIC_WORDS[metric]} back": score_text(recovery.alone, signed=True)
                for metric, recovery in zip(METRIC_WORDS, remedy.recoveries, strict=True)
            },
            "log-loss back, both recalibrated": score_text(remedy.refinement, signed=True) if remedy.refinement else "",
            "AUROC, left out of all": _left_out(remedy.recovery("auroc")),
            "assumes": remedy.assumption,
        }
        for remedy in found.remedies
    ]
    return table_of("Remedies, each alone", rows)


def _left_out(recovery: Recovery | None) -> str:
    return "" if recovery is None or recovery.left_out is None else score_text(recovery.left_out, signed=True)


def _shift(found: Diagnosis) -> Table:
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
            rows.append(
                (f"mean optical density of the {name}: red, green, blue", ", ".join(f"{value:.3f}" for value in values))
            )
    return plain_table("The shift", ("measure", "value"), rows)


def _number(value: float) -> str:
    return "unknown" if math.isnan(value) else f"{value:.4g}"


@dataclass(frozen=True)
class Told:
    """A diagnosis in words: its conclusion, then what it rests on."""

    first: str
    rest: tuple[str, ...]


def conclusion_first(found: Diagnosis) -> Told:
    """Return a diagnosis with its conclusion before the numbers it rests on."""
    first = conclusion(found.verdict)
    before, _, after = found.paragraph.partition(first)
    rest = tuple(part.strip() for part in (before, after) if part.strip())
    return Told(first, rest)


# ------------------------------------------------------------------------------
# A run's choices, its embeddings, and a matrix, as small tables.


def choice_tables(findings: Findings) -> tuple[Table, ...]:
    """Return what each sweep chose, a table each, a line per fact."""
    tables = []
    for choice in findings.choices:
        facts = (
            ("tiles and groups", sample_words(choice.n_tiles, choice.n_groups)),
            ("pooling", " + ".join(choice.pooling)),
            ("L2 penalty", f"{choice.penalty:.3g}"),
            ("log-loss ± SE", selected_score(choice)),
            ("honest estimate", nested_estimates(choice)),
            ("temperature", temperature(choice)),
            ("threshold", threshold(choice)),
            ("fits", count(choice.n_fits)),
            ("head", choice.head_id),
        )
        title = f"Trained on {choice.trained_on}: chosen by grouped cross-validation within its training groups"
        tables.append(plain_table(title, ("what", "chosen"), facts))
    return tuple(tables)


def embedding_tables(provenance: dict[str, object]) -> tuple[Table, ...]:
    """Return how every embedding was made, a table each; older runs tell nothing."""
    entries = provenance.get("embeddings")
    tables = []
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict):
            facts = tuple(
                (str(name), str(value)) for name, value in entry.items() if name not in ("data set", "backbone")
            )
            title = f"{entry.get('backbone', '')} on {entry.get('data set', '')}"
            tables.append(plain_table(title, ("what", "value"), facts))
    return tuple(tables)


def cell_tables(matrix: MagnificationMatrix, marks: tuple[str, ...]) -> tuple[Table, ...]:
    """Return a matrix as tables of few columns: AUROC and its differences, the other metrics, what the network saw."""
    scores, others = [], []
    for cell in matrix.cells:
        where = f"{cell.trained_on} → {cell.magnification}"
        trained, scored = ((cell.n_train_tiles, cell.n_train_groups), (cell.scores[0].n_tiles, cell.scores[0].n_groups))
        gap = (
            score_text(cell.differences[0], signed=True)
            if cell.differences
            else "the diagonal"
            if cell.on_diagonal
            else "–"
        )
        scores.append((where, score_text(cell.scores[0]), gap, sample_words(*trained), sample_words(*scored)))
        others.append((where, *(score_text(score) for score in cell.scores[1:3])))
    seen = [(one.magnification, number(one.input_mpp), one.lost or "nothing") for one in matrix.scales]
    columns = ("cell", "AUROC", "difference", "trained on", "scored on")
    tables = (
        plain_table("Every cell; differences are to heads trained there", columns, scores),
        plain_table("Every cell: decisions and probabilities", ("cell", "balanced accuracy", "log-loss"), others),
        plain_table("What the network saw", ("magnification", "input_mpp, um/px", "lost by the view"), seen),
    )
    return tuple(replace(table, marks=marks) for table in tables)


# ------------------------------------------------------------------------------
# Leaderboards for people and for files: tables to print, markdown, CSV.


def boards_overview(boards: Sequence[Board]) -> Table:
    """Return a table with a line per protocol: which there are, and how many scores each has."""
    rows = [
        {
            "data set": one.dataset,
            "protocol": one.protocol,
            "pooling": one.pooling or "-",
            "split": one.split or "-",
            "metric": one.metric,
            "scores": str(len(board.rows)),
            "best": f"{board.rows[0].value:.3f}",
        }
        for board in boards
        for one in (board.protocol,)
    ]
    note = (
        "Scores of different protocols can't be compared. One of them: histotune leaderboard "
        "--dataset BreakHis --protocol eva"
    )
    return table_of("Published protocols", rows, ("scores", "best"), (note,))


def board_table(board: Board) -> Table:
    """Return one board, its own scores set apart; its notes are those of :func:`board_notes`."""
    metric, has_spread = board.protocol.metric, any(row.spread for row in board.rows)
    columns = ("rank", "model", metric, *(("spread",) if has_spread else ()), "notes")
    rows = []
    for row in board.rows:
        where = f": {row.source}" if row.source else ""
        model = f"{row.model} (yours{where})" if row.own else row.model
        number = str(board.caveats.index(row.caveat) + 1) if row.caveat else ""
        cells = (str(row.rank), model, f"{row.value:.3f}", *((row.spread,) if has_spread else ()), number)
        rows.append(Row(cells, "strong" if row.own else "plain"))
    notes = tuple(board_notes(board))
    return Table(board.protocol.title, columns_of(columns, right=("rank", metric)), tuple(rows), notes)


def boards_markdown(boards: Sequence[Board]) -> str:
    """Return boards as markdown, one table per protocol."""
    return "\n\n".join(board_table(board).as_markdown() for board in boards) + "\n"


def boards_csv(boards: Sequence[Board]) -> str:
    """Return boards as CSV, a line per score, with protocol, caveat and source in full."""
    names = [field.name for field in fields(Protocol)]
    rows = [
        (
            *(getattr(board.protocol, name) for name in names),
            row.rank,
            row.model,
            row.value,
            "yes" if row.own else "no",
            row.spread,
            _full_caveat(board, row),
            row.source,
        )
        for board in boards
        for row in board.rows
    ]
    columns = columns_of([*names, "rank", "model", "value", "own", "spread", "caveat", "source"])
    return Table("", columns, rows_of([str(value) for value in row] for row in rows)).as_csv()


def _full_caveat(board: Board, row: BoardRow) -> str:
    """Return what weakens a row; of one's own also what weakens the protocol, which published rows are silent about."""
    shared = board.weaknesses if row.own else ()
    return "; ".join(text.rstrip(".") for text in (row.caveat, *shared) if text) if shared else row.caveat


def board_notes(board: Board) -> list[str]:
    """Return what to know before reading a board: its caveats, numbered as in its last column, and more."""
    notes = [f"{number}: {caveat.rstrip('.')}." for number, caveat in enumerate(board.caveats, 1)]
    if board.protocol.metric in LOWER_IS_BETTER:
        notes.append("Lower is better.")
    if board.weaknesses:
        notes += ["What weakens every number here:", *(f"- {text}" for text in board.weaknesses)]
    if any(not row.own for row in board.rows):
        notes.append("Published without an interval over cases; ranks within a few points mean nothing.")
    return notes


# ------------------------------------------------------------------------------
# Tables of a run and of the leaderboard as LaTeX: booktabs, values with intervals, footnotes, nothing left out.


PREAMBLE = (
    "% \\usepackage{booktabs} and \\usepackage{textcomp} in the preamble; compile as UTF-8.\n"
    "% Tables with many metrics need a landscape page.\n"
)
HEADER_WIDTH, BESIDE_WIDTH = 18, 24
"""Letters after which a column's name, and words beside a value, go on in another line."""


def write_latex(inputs: ReportInputs, path: Path) -> None:
    """Write all tables of a run."""
    write_text(path, run_latex(inputs))


def run_latex(inputs: ReportInputs) -> str:
    """Return all tables of a run."""
    findings = inputs.findings
    mark = rf"\textsc{{{SYNTHETIC.lower()}}} " if findings.synthetic else ""
    tables = [text for finding in findings.findings for text in _finding(finding, mark)]
    for added in inputs.added.transfers:
        for table in transfer_tables(added.found):
            shown = replace(table, title=f"Transfer to {added.found.target}: {table.title}", marks=())
            tables.append(shown.as_latex(breaks_lines=True))
    head = f"% {' '.join(findings.title.split())}: {findings.backbone}, choice {findings.choice_hash[:12]}\n"
    return PREAMBLE + head + "\n" + "\n".join(tables)


def boards_latex(boards: Sequence[Board]) -> str:
    """Return leaderboards, one table per protocol, with their caveats below."""
    return PREAMBLE + "\n" + "\n".join(board_table(board).as_latex() for board in boards)


def _finding(finding: Finding, mark: str) -> Iterator[str]:
    yield from (_score_table(finding.title, table, mark) for table in score_tables(finding))
    yield from (table.as_latex() for table in decision_tables(finding))
    for part in finding.parts:
        shown = part_finding(part, finding)
        yield from (_score_table(shown.title, table, mark, part.note) for table in score_tables(shown))


def _score_table(title: str, table: ScoreTable, mark: str, note: str = "") -> str:
    """Return a table of scores; SYNTHETIC opens its caption, other marks stand beside their row as on the page."""
    header = ["Scored", "$n$ tiles", "$n$ groups", *(_stacked(wrap(name, HEADER_WIDTH)) for name in table.metrics)]
    body = [header]
    for group in table.groups:
        body += [_row(group, row) for row in group.rows]
    title = f"{title}: {table.title.lower()}" if table.title else title
    trained = f"Trained on {table.trained_on}" + (", unless stated." if table.exceptions else ".")
    notes = [f"{table.intervals}."] if table.intervals else []
    if table.patient_weighted:
        notes.append(weighting_words(table.patient_weighted))
    lines = [latex_text(text) for text in (*notes, *([note] if note else []))]
    lines += [rf"\textsuperscript{{{letter}}} {latex_text(text)}" for letter, text in table.footnotes]
    return latex_float(mark + latex_text(f"{title}. {trained}"), "lrr" + "r" * len(table.metrics), body, lines)


def _row(group: RowGroup, row: SummaryLine) -> list[str]:
    marks = "".join(rf" \textsc{{{latex_text(mark.lower())}}}" for mark in row.marks)
    below = ", ".join(filter(None, (row.domain, row.scale, group.trained_on)))
    name = rf"{latex_text(group.arm)}{marks}\\ {{\scriptsize {latex_text(below)}}}"
    return [rf"\shortstack[l]{{{name}}}", row.n_tiles, row.n_groups, *(_cell(cell) for cell in row.cells)]


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return "--"
    note = rf"\textsuperscript{{{cell.note}}}" if cell.note else ""
    lines = [latex_text(cell.value) + ("" if cell.interval else note)]
    if cell.interval:
        lines.append(rf"{{\scriptsize {latex_text(cell.interval)}}}{note}")
    lines += [rf"{{\scriptsize {latex_text(line)}}}" for text in cell.beside for line in wrap(text, BESIDE_WIDTH)]
    return lines[0] if len(lines) == 1 else r"\shortstack[r]{" + r"\\ ".join(lines) + "}"


def _stacked(lines: Sequence[str]) -> str:
    return r"\shortstack[r]{" + r"\\ ".join(latex_text(line) for line in lines) + "}"
