"""Nothing in a cell breaks a table, however it is shown; what is shown is what the cells say."""

from __future__ import annotations

import csv
import io
import re
from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.console import Console

from histotune.tools.table import (
    CONTROLS,
    Column,
    Layout,
    Row,
    Span,
    Table,
    align_columns,
    cell_words,
    columns_of,
    latex_text,
    rows_of,
)

NASTY = st.sampled_from(list("|&\\\"'<>[]{}$#%_^~`*,;:\n\r\t\x00\x85\u2028= −µ"))
TEXTS = st.text(st.one_of(NASTY, st.characters(codec="utf-8")), max_size=12)
TONES = st.sampled_from(["plain", "strong", "faint", "mark", "ok", "note", "warning", "error"])
CELLS = st.one_of(TEXTS, st.lists(st.builds(Span, TEXTS, TONES), max_size=3).map(tuple))


@st.composite
def tables(draw: st.DrawFn) -> Table:
    n_columns = draw(st.integers(1, 4))
    columns = tuple(Column(draw(TEXTS), draw(st.sampled_from(["left", "right"]))) for _ in range(n_columns))
    rows = draw(st.lists(st.builds(Row, st.lists(CELLS, max_size=n_columns).map(tuple), TONES), max_size=4))
    several = st.lists(TEXTS, max_size=2).map(tuple)
    return Table(draw(TEXTS), columns, tuple(rows), draw(several), draw(several))


class Cells(HTMLParser):
    """Reads a table back: every tag in order, and the text of every heading and cell."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.caption = ""
        self.inside = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag in ("th", "td", "caption"):
            self.inside = tag
            if tag != "caption":
                self.texts.append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = "" if tag == self.inside else self.inside

    def handle_data(self, data: str) -> None:
        if self.inside == "caption":
            self.caption += data
        elif self.inside:
            self.texts[-1] += data


def words_of(table: Table) -> list[tuple[str, ...]]:
    return [table.names, *(table.texts_of(row) for row in table.rows)]


@given(tables())
def test_csv_is_read_back_as_it_was(table: Table) -> None:
    assert [tuple(row) for row in csv.reader(io.StringIO(table.as_csv(), newline=""))] == words_of(table)


@given(tables())
def test_html_holds_the_cells_and_no_other_element(table: Table) -> None:
    found = Cells(str(table.as_html()))
    assert found.texts == [text for row in words_of(table) for text in row]
    assert found.caption == "".join(f"{mark} " for mark in table.marks) + table.title
    assert found.tags.count("tr") == len(table.rows) + 1
    assert set(found.tags) <= {
        "div", "table", "caption", "thead", "tbody", "tr", "th", "td", "span", "strong", "p",
    }  # fmt: skip
    assert found.tags.count("p") == len(table.notes)


@given(tables(), st.booleans())
def test_latex_has_a_line_per_row_and_a_cell_per_column(table: Table, breaks_lines: bool) -> None:
    text = table.as_latex(breaks_lines=breaks_lines)
    bare = re.sub(r"\\[\\{}&%$#_]", lambda found: r"\\" if found[0] == r"\\" else "", text)
    assert bare.count("{") == bare.count("}")
    body = text.split("\\toprule\n")[1].split("\\bottomrule")[0].replace("\\midrule\n", "")
    rows = body.removesuffix("\n").split("\n")
    assert len(rows) == len(table.rows) + 1
    assert all(re.fullmatch(r".* \\\\(\[2pt\])?", row) for row in rows)
    assert all(len(re.findall(r"(?<!\\)&", row)) == len(table.columns) - 1 for row in rows)
    assert text.count(r"\par" + "\n") == len(table.notes)


@given(tables())
def test_markdown_has_a_cell_per_column_for_every_reader(table: Table) -> None:
    text = Table("", table.columns, table.rows, (), ()).as_markdown()
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    kinds = [token.type for token in tokens]
    assert kinds.count("tr_open") == len(table.rows) + 1
    assert kinds.count("th_open") == len(table.columns)
    assert kinds.count("td_open") == len(table.columns) * len(table.rows)
    assert kinds[0] == "table_open" and kinds[-1] == "table_close"


@given(st.lists(st.text(alphabet="ab|\\ ", max_size=6), min_size=2, max_size=4))
def test_bars_and_backslashes_in_markdown_are_read_back(cells: list[str]) -> None:
    table = Table("", columns_of(["a"] * len(cells)), rows_of([cells]))
    line = table.as_markdown().splitlines()[2]
    parts = re.split(r"(?<!\\)((?:\\\\)*)\|", line)  # a bar is a border where an even number of backslashes precedes it
    found = ["".join(pair) for pair in zip(parts[::2], [*parts[1::2], ""], strict=True)][1:-1]
    unescaped = [re.sub(r"(\\+)\|", lambda one: one[1][: len(one[1]) // 2] + "|", text) for text in found]
    assert [text[1:-1] for text in unescaped] == cells


PIECES = ["a", "[", "]", "/", "\\", ":x:", "[/a]", "[red]"]
MARKUP = st.lists(st.sampled_from(PIECES), min_size=1, max_size=8).map("".join)


@given(MARKUP, MARKUP, MARKUP)
def test_a_terminal_shows_words_as_words(heading: str, first: str, second: str) -> None:
    rows = (Row((first,)), Row(((Span(second, "strong"),),), "faint"))
    table = Table(heading, columns_of(["a column that gives the title all the room it needs in one line"]), rows,
                  (heading,))  # fmt: skip
    for layout in (Layout(), Layout(lines=False, gap=1), Layout(is_padded=True, has_notes=True)):
        stream = io.StringIO()
        Console(file=stream, width=200).print(table.as_rich(layout))
        lines = [line.strip("│ ") for line in stream.getvalue().splitlines()]

        assert lines[0] == heading and first in lines[1:] and second in lines[2:]
        assert lines[-1] == heading or not layout.has_notes


def test_nothing_is_read_as_markup_of_the_terminal() -> None:
    stream = io.StringIO()
    words = ":smile: [red]a[/red] [/b] runs/[x]"
    Console(file=stream, width=120).print(
        Table(words, columns_of([words]), rows_of([[words]]), marks=("A", "B")).as_rich()
    )
    assert stream.getvalue().count(words) == 3
    assert "[A, B]" in stream.getvalue().splitlines()[1]


def test_tones_are_styles_in_a_terminal_and_bold_in_files() -> None:
    table = Table(
        "Floors",
        columns_of(("arm", "AUROC"), right=("AUROC",)),
        (
            Row(("probe", "0.9"), "strong"),
            Row(((Span("untuned head"), Span(" LEAKY", "mark"), Span("!", "faint")), ""), "faint", ends_section=True),
        ),
        ("Made up.",),
        ("SYNTHETIC",),
    )
    stream = io.StringIO()
    Console(file=stream, width=60, force_terminal=True, color_system="standard").print(
        table.as_rich(Layout(lines=False, gap=2))
    )
    assert "\x1b[1;31m SYNTHETIC\x1b[0m" in stream.getvalue()
    assert "\x1b[1;2;31m LEAKY\x1b[0m" in stream.getvalue()
    assert table.as_markdown() == (
        "### SYNTHETIC Floors\n\n| arm | AUROC |\n| --- | --- |\n"
        "| **probe** | **0.9** |\n| untuned head LEAKY! |  |\n\n"
        "Made up.  "
    )
    latex = table.as_latex()
    assert r"\caption{\textsc{synthetic} Floors}" in latex and r"\begin{tabular}{lr}" in latex
    assert r"\textbf{probe} & \textbf{0.9} \\[2pt]" in latex and r"Made up.\par" in latex
    html = table.as_html()
    assert '<td><strong>probe</strong></td><td class="num"><strong>0.9</strong></td>' in html
    assert '<span class="badge leaky"> LEAKY</span><span class="faint">!</span>' in html
    assert '<caption><span class="badge synthetic">SYNTHETIC</span> Floors</caption>' in html


def test_plain_text_stands_in_columns() -> None:
    table = Table("Tiles", columns_of(("class", "n"), right=("n",)), rows_of([("benign", "10"), ("b",)]))
    assert table.as_text() == "Tiles\n  class    n\n  benign  10\n  b"
    assert table.as_text() == align_columns("Tiles", [["class", "n"], ["benign", "10"], ["b", ""]], [False, True])


@given(TEXTS)
def test_latex_text_is_one_line_without_commands(text: str) -> None:
    found = latex_text(text)
    assert not CONTROLS.search(found)
    plain = re.sub(r"\\(?:[a-z]+\{\}|[&%$#_{},])|\$\\?[a-z]*-?\$|~", "", found)
    assert not set(plain) & set("\\&%$#_{}^")


@given(CELLS)
def test_a_cell_is_the_words_of_its_pieces(cell: str | tuple[Span, ...]) -> None:
    assert cell_words(cell) == (cell if isinstance(cell, str) else "".join(span.text for span in cell))
