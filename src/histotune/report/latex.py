"""Tables of a run and of the leaderboard as LaTeX: booktabs, values with intervals, footnotes, nothing left out."""

from __future__ import annotations

import re
from dataclasses import replace
from textwrap import wrap
from typing import TYPE_CHECKING

from histotune.report.rows import score_tables
from histotune.report.study_tables import plain_tables
from histotune.report.words import SYNTHETIC
from histotune.tools.files import write_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from histotune.evaluation.findings import Finding
    from histotune.published.leaderboard import Board
    from histotune.report.rows import Row, RowGroup, ScoreTable
    from histotune.report.run_folder import ReportInputs
    from histotune.report.study_tables import PlainTable
    from histotune.report.words import Cell

PREAMBLE = (
    "% \\usepackage{booktabs} and \\usepackage{textcomp} in the preamble; compile as UTF-8.\n"
    "% Tables with many metrics need a landscape page.\n"
)
SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "\u00a0": "~", "\u202f": r"\,", "−": "$-$", "–": "--", "µ": r"\textmu{}", "μ": r"\textmu{}",
    "→": r"$\rightarrow$", "±": r"$\pm$", "×": r"$\times$", "≤": r"$\leq$", "≥": r"$\geq$",
    "…": r"\dots{}", "°": r"\textdegree{}",
}  # fmt: skip
HEADER_WIDTH, BESIDE_WIDTH = 18, 24
"""Letters after which a column's name, and words beside a value, go on in another line."""
PATTERN = re.compile("|".join(re.escape(mark) for mark in SPECIAL))


def latex_text(text: str) -> str:
    r"""Return a text that LaTeX sets as it stands.

    Args:
        text: Any text.

    Returns:
        The text with every special character escaped; lines become spaces.

    Example:
        >>> print(latex_text("95 % of a_b"))
        95 \% of a\_b
    """
    return PATTERN.sub(lambda found: SPECIAL[found.group()], " ".join(text.split("\n")))


def write_latex(inputs: ReportInputs, path: Path) -> None:
    """Write all tables of a run.

    Args:
        inputs: The run, with the studies that were added to it.
        path: The file.
    """
    write_text(path, run_latex(inputs))


def run_latex(inputs: ReportInputs) -> str:
    """Return all tables of a run.

    Args:
        inputs: The run, with the studies that were added to it.

    Returns:
        One ``table*`` per table of scores, by site, scanner, stain and unit too, and per table of an added diagnosis.
    """
    findings = inputs.findings
    mark = rf"\textsc{{{SYNTHETIC.lower()}}} " if findings.synthetic else ""
    tables = [text for finding in findings.findings for text in _finding(finding, mark)]
    for added in inputs.added.transfers:
        tables += [plain_latex(table, f"Transfer to {added.found.target}") for table in plain_tables(added.found)]
    head = f"% {' '.join(findings.title.split())}: {findings.backbone}, choice {findings.choice_hash[:12]}\n"
    return PREAMBLE + head + "\n" + "\n".join(tables)


def boards_latex(boards: Sequence[Board]) -> str:
    """Return leaderboards, one table per protocol, with their caveats below.

    Args:
        boards: The boards.

    Returns:
        LaTeX.
    """
    from histotune.report.leaderboard import board_cells, board_columns, board_notes

    tables = []
    for board in boards:
        columns = board_columns(board)
        rows = []
        for row in board.rows:
            cells = [latex_text(cell) for cell in board_cells(board, row)]
            rows.append([rf"\textbf{{{cell}}}" if row.own and cell else cell for cell in cells])
        spec = "".join("r" if name in ("rank", board.protocol.metric) else "l" for name in columns)
        body = [[latex_text(name) for name in columns], *rows]
        tables.append(_table(latex_text(board.protocol.title), spec, body, [latex_text(n) for n in board_notes(board)]))
    return PREAMBLE + "\n" + "\n".join(tables)


def plain_latex(table: PlainTable, about: str) -> str:
    """Return a table of texts; columns after the first may break their lines.

    Args:
        table: The table.
        about: What it is about, before its title.

    Returns:
        LaTeX.
    """
    width = 0.9 / max(len(table.columns), 1)
    spec = "".join(rf">{{\raggedright\arraybackslash}}p{{{width:.2f}\textwidth}}" for _ in table.columns)
    body = [[latex_text(cell) for cell in row] for row in (table.columns, *table.rows)]
    return "% \\usepackage{array} for this table\n" + _table(latex_text(f"{about}: {table.title}"), spec, body, [])


def _finding(finding: Finding, mark: str) -> Iterator[str]:
    yield from (_score_table(finding.title, table, mark) for table in score_tables(finding))
    for part in finding.parts:
        if part.rows:
            shown = replace(finding, rows=part.rows, parts=())
            title = f"{finding.title}: the probe by {part.column}"
            yield from (_score_table(title, table, mark, part.note) for table in score_tables(shown))


def _score_table(title: str, table: ScoreTable, mark: str, note: str = "") -> str:
    """Return a table of scores; SYNTHETIC opens its caption, other marks stand beside their row as on the page."""
    header = ["Scored", "$n$ tiles", "$n$ groups", *(_stacked(wrap(name, HEADER_WIDTH)) for name in table.metrics)]
    body = [header]
    for group in table.groups:
        body += [_row(group, row) for row in group.rows]
    title = f"{title}: {table.title.lower()}" if table.title else title
    trained = f"Trained on {table.trained_on}" + (", unless stated." if table.exceptions else ".")
    notes = [f"{table.intervals}."] if table.intervals else []
    if table.group_weighted:
        notes.append(f"Each group counts once in: {', '.join(table.group_weighted)}; each tile counts once elsewhere.")
    lines = [latex_text(text) for text in (*notes, *([note] if note else []))]
    lines += [rf"\textsuperscript{{{letter}}} {latex_text(text)}" for letter, text in table.footnotes]
    return _table(mark + latex_text(f"{title}. {trained}"), "lrr" + "r" * len(table.metrics), body, lines)


def _row(group: RowGroup, row: Row) -> list[str]:
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


def _table(caption: str, spec: str, body: Sequence[Sequence[str]], notes: Sequence[str]) -> str:
    """Return a floating table; the first row of the body is its header, notes stand below."""
    lines = [
        r"\begin{table*}",
        r"\centering\small\setlength{\tabcolsep}{4pt}",
        rf"\caption{{{caption}}}",
        rf"\begin{{tabular}}{{{spec}}}",
        r"\toprule",
        " & ".join(body[0]) + r" \\",
        r"\midrule",
        *(" & ".join(row) + r" \\[2pt]" for row in body[1:]),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    if notes:
        lines += [r"\par\smallskip", r"\begin{minipage}{\textwidth}\footnotesize"]
        lines += [*(note + r"\par" for note in notes), r"\end{minipage}"]
    return "\n".join([*lines, r"\end{table*}", ""])
