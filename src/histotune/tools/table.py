"""One table for every room: made once as text, shown as rich, HTML, LaTeX, Markdown, CSV or plain text.

Cells hold any text; each rendering escapes what would break it.
"""

from __future__ import annotations

import csv
import io
import re
import sys
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import TYPE_CHECKING, Literal

from histotune.tools.streams import one_line, shown, terminal_stream

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import rich.table
    from jinja2 import Template
    from markupsafe import Markup
    from rich.console import Console
    from rich.text import Text


Tone = Literal["plain", "strong", "faint", "mark", "ok", "note", "warning", "error"]
Align = Literal["left", "right"]
Fit = Literal["fold", "cut", "whole"]
STYLES: dict[Tone, str] = {
    "plain": "", "strong": "bold", "faint": "dim", "mark": "bold red", "ok": "green", "note": "cyan",
    "warning": "yellow", "error": "bold red",
}  # fmt: skip
"""How a terminal shows each tone."""


@dataclass(frozen=True)
class Span:
    """A piece of a cell that is set apart; where colours mean nothing only its words are shown.

    A piece that is a line feed alone begins a new line of its cell; within other pieces, which may be names, a
    terminal shows it as a space.
    """

    text: str
    tone: Tone = "plain"


Cell = str | tuple[Span, ...]


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: Heading.
        align: Numbers stand to the right.
        fit: What a narrow terminal does with a word that is too long: break it, cut it, or keep cells on one line.
        min_chars: Least width in a terminal, in characters.
        max_chars: Largest width in a terminal, in characters.
    """

    name: str
    align: Align = "left"
    fit: Fit = "fold"
    min_chars: int | None = None
    max_chars: int | None = None


@dataclass(frozen=True)
class Row:
    """A row of a table; missing cells at its end are empty."""

    cells: tuple[Cell, ...]
    tone: Tone = "plain"
    ends_section: bool = False

    @property
    def texts(self) -> tuple[str, ...]:
        """The cells as text."""
        return tuple(cell_words(cell) for cell in self.cells)


@dataclass(frozen=True)
class Layout:
    """How a terminal frames a table.

    Attributes:
        lines: Whether lines stand around and between the columns; without them the title is upright.
        title: Where the title and the notes begin.
        is_padded: Whether space stands before the first column and after the last.
        gap: Spaces after each column; None leaves one on both sides.
        has_header: Whether the names of the columns are shown.
        has_notes: Whether the notes stand below, in small print.
    """

    lines: bool = True
    title: Literal["left", "center"] = "left"
    is_padded: bool = False
    gap: int | None = None
    has_header: bool = True
    has_notes: bool = False


LINED = Layout()
PADDED = Layout(is_padded=True)
CENTRED = Layout(title="center", is_padded=True)
OPEN = Layout(lines=False, title="center", gap=1)


@dataclass(frozen=True)
class Table:
    """A table of texts.

    Attributes:
        title: What it shows; empty where that is plain.
        columns: Their names and alignments.
        rows: The cells.
        notes: What must be known to read it, one sentence each.
        marks: Warnings that hold for all of it, such as LEAKY; they stand beside the title.

    Example:
        >>> tiles = Table("Tiles", columns_of(("class", "n"), right=("n",)), rows_of([("benign", "10")]))
        >>> print(tiles.as_text())
        Tiles
          class    n
          benign  10
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns."""
        return tuple(column.name for column in self.columns)

    def cells_of(self, row: Row) -> tuple[Cell, ...]:
        """Return a cell per column."""
        return (*row.cells, *("" for _ in self.columns[len(row.cells) :]))

    def texts_of(self, row: Row) -> tuple[str, ...]:
        """Return a row's text per column."""
        return tuple(cell_words(cell) for cell in self.cells_of(row))

    def as_text(self) -> str:
        """Return it for a terminal, without lines and without notes."""
        cells = [[one_line(text) for text in texts] for texts in (self.names, *map(self.texts_of, self.rows))]
        return align_columns(one_line(self.title), cells, [column.align == "right" for column in self.columns])

    def as_rich(self, layout: Layout = LINED) -> rich.table.Table:
        """Return it for a terminal; nothing in it is read as rich's markup."""
        from rich import box
        from rich.table import Table as RichTable

        drawn = RichTable(
            title=_rich_title(self, layout) if self.title else None,
            title_justify=layout.title,
            box=box.HEAVY_HEAD if layout.lines else None,
            padding=(0, 1) if layout.gap is None else (0, layout.gap, 0, 0),
            pad_edge=layout.is_padded,
            show_header=layout.has_header,
        )
        for column in self.columns:
            drawn.add_column(
                _rich_lines(column.name),
                justify=column.align,
                overflow="fold" if column.fit == "fold" else "ellipsis",
                no_wrap=column.fit == "whole",
                min_width=column.min_chars,
                max_width=column.max_chars,
            )
        for row in self.rows:
            cells = (_rich_text(cell) for cell in self.cells_of(row))
            drawn.add_row(*cells, style=STYLES[row.tone], end_section=row.ends_section)
        if layout.has_notes and self.notes:
            drawn.caption = _rich_lines("\n".join(map(one_line, self.notes)), "table.caption")
            drawn.caption_justify = layout.title
        return drawn

    def as_html(self) -> Markup:
        """Return it as an element that scrolls by itself."""
        from markupsafe import Markup

        return Markup(_html_template().render(table=self))  # noqa: S704  (the template escapes every text)

    def as_latex(self, *, breaks_lines: bool = False) -> str:
        """Return it as a floating table of booktabs; ``breaks_lines`` gives each column the same share of the page."""
        width = 0.9 / max(len(self.columns), 1)
        share = rf">{{\raggedright\arraybackslash}}p{{{width:.2f}\textwidth}}"
        spec = [share if breaks_lines else "r" if column.align == "right" else "l" for column in self.columns]
        body = [[latex_text(name) for name in self.names], *(_latex_cells(self, row) for row in self.rows)]
        marks = "".join(rf"\textsc{{{latex_text(mark.lower())}}} " for mark in self.marks)
        notes = [latex_text(note) for note in self.notes]
        found = latex_float(marks + latex_text(self.title), "".join(spec), body, notes)
        return "% \\usepackage{array} for this table\n" + found if breaks_lines else found

    def as_markdown(self) -> str:
        """Return it with its title as a heading and its notes below."""
        title = " ".join([*self.marks, self.title]).strip()
        lines = [f"### {_one_line(title)}", ""] if title else []
        lines += [_markdown_row(self.names), _markdown_row(["---"] * len(self.columns))]
        for row in self.rows:
            texts = self.texts_of(row)
            lines.append(_markdown_row([f"**{text}**" if row.tone == "strong" and text else text for text in texts]))
        return "\n".join([*lines, *([""] if self.notes else []), *(f"{_one_line(note)}  " for note in self.notes)])

    def as_csv(self) -> str:
        """Return names and cells; title, notes and marks are left out."""
        return "".join(_csv_line(texts) for texts in (self.names, *(self.texts_of(row) for row in self.rows)))


def columns_of(names: Iterable[str], right: Iterable[str] = (), fit: Fit = "fold") -> tuple[Column, ...]:
    """Return columns by their names, those of numbers to the right.

    Example:
        >>> [column.align for column in columns_of(("class", "n"), right=("n",))]
        ['left', 'right']
    """
    numbers = frozenset(right)
    return tuple(Column(name, "right" if name in numbers else "left", fit) for name in names)


def rows_of(rows: Iterable[Sequence[str]]) -> tuple[Row, ...]:
    """Return rows of plain text."""
    return tuple(Row(tuple(row)) for row in rows)


def table_of(
    title: str, rows: Iterable[Mapping[str, str]], right: Iterable[str] = (), notes: tuple[str, ...] = ()
) -> Table:
    """Return a table of rows that are each a text by the name of its column, those of numbers to the right.

    Example:
        >>> table_of("Tiles", [{"class": "benign", "n": "10"}], right=("n",)).names
        ('class', 'n')
    """
    held = list(rows)
    return Table(title, columns_of(held[0] if held else (), right), rows_of([*row.values()] for row in held), notes)


def cell_words(cell: Cell) -> str:
    """Return a cell as text.

    Example:
        >>> cell_words((Span("0.9"), Span(" LEAKY", "mark")))
        '0.9 LEAKY'
    """
    return cell if isinstance(cell, str) else "".join(span.text for span in cell)


# ------------------------------------------------------------------------------
# Plain text and rich.


def align_columns(title: str, cells: Sequence[Sequence[str]], numeric: Sequence[bool]) -> str:
    """Write a table with columns as wide as their content, numbers to the right.

    Example:
        >>> print(align_columns("Tiles", [["class", "n"], ["benign", "10"]], [False, True]))
        Tiles
          class    n
          benign  10
    """
    widths = [max(len(row[column]) for row in cells) for column in range(len(numeric))]
    lines = [
        "  ".join(
            text.rjust(width) if number else text.ljust(width)
            for text, width, number in zip(row, widths, numeric, strict=True)
        ).rstrip()
        for row in cells
    ]
    return "\n".join([title, *(f"  {line}" for line in lines)])


def _rich_text(cell: Cell, style: str = "") -> Text:
    from rich.text import Text

    if isinstance(cell, str):
        return Text(one_line(cell), style)
    if len(cell) == 1:
        return Text(one_line(cell[0].text), STYLES[cell[0].tone])
    by_tone = groupby(cell, key=lambda span: span.tone)
    return Text.assemble(*(("".join(map(_span_text, spans)), STYLES[tone]) for tone, spans in by_tone))


def _span_text(span: Span) -> str:
    return span.text if span.text == "\n" else one_line(span.text)


def _rich_lines(text: str, style: str = "") -> Text:
    """Return text of our own, which may have lines."""
    from rich.text import Text

    return Text(shown(text), style)


def _rich_title(table: Table, layout: Layout) -> Text:
    if layout.lines:
        marks = f" [{', '.join(table.marks)}]" if table.marks else ""
        return _rich_text(table.title + marks, "table.title")
    return _rich_text((Span(table.title), *(Span(f" {mark}", "mark") for mark in table.marks)))


@cache
def _html_template() -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("histotune", "tools")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("table.html.j2")


# ------------------------------------------------------------------------------
# LaTeX: booktabs, nothing left out.


SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "\u00a0": "~", "\u202f": r"\,", "−": "$-$", "–": "--", "µ": r"\textmu{}", "μ": r"\textmu{}",
    "→": r"$\rightarrow$", "±": r"$\pm$", "×": r"$\times$", "≤": r"$\leq$", "≥": r"$\geq$",
    "…": r"\dots{}", "°": r"\textdegree{}",
}  # fmt: skip
PATTERN = re.compile("|".join(re.escape(mark) for mark in SPECIAL))
CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def latex_text(text: str) -> str:
    r"""Return a text that LaTeX sets as it stands, on one line.

    Example:
        >>> print(latex_text("95 % of a_b"))
        95 \% of a\_b
    """
    return PATTERN.sub(lambda found: SPECIAL[found.group()], CONTROLS.sub(" ", text))


def latex_float(caption: str, spec: str, body: Sequence[Sequence[str]], notes: Sequence[str]) -> str:
    """Return a floating table of LaTeX; the first row of the body is its header, notes stand below."""
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


def _latex_cells(table: Table, row: Row) -> list[str]:
    cells = [latex_text(text) for text in table.texts_of(row)]
    return [rf"\textbf{{{cell}}}" if row.tone == "strong" and cell else cell for cell in cells]


# ------------------------------------------------------------------------------
# Markdown and CSV.


def _one_line(text: str) -> str:
    return CONTROLS.sub(" ", text)


def _markdown_row(cells: Sequence[str]) -> str:
    """Return a row; a bar is escaped, and so are backslashes before it, which would undo that."""
    escaped = (re.sub(r"(\\*)\|", r"\1\1\\|", _one_line(cell)) for cell in cells)
    return "| " + " | ".join(escaped) + " |"


def _csv_line(texts: Sequence[str]) -> str:
    """Return a line that ends in a line feed; a carriage return in a cell is quoted like every line end."""
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\r\n").writerow(texts)
    return stream.getvalue().removesuffix("\r\n") + "\n"


class ShownAsTables:
    """A result that a notebook shows as its tables."""

    def tables(self) -> tuple[Table, ...]:
        """Return the result as tables, the most important first."""
        raise NotImplementedError

    def _repr_html_(self) -> str:
        return "\n".join(str(table.as_html()) for table in self.tables())


def console(columns: int = 120) -> Console:
    """Return where tables are printed: as wide as the terminal, and so many columns wide in a file."""
    from rich.console import Console

    return Console(file=terminal_stream(sys.stdout), width=None if sys.stdout.isatty() else columns)
