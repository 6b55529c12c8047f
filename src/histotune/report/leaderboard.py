"""Leaderboards for people and for files: tables to print, markdown, CSV."""

from __future__ import annotations

import csv
import io
from dataclasses import fields
from typing import TYPE_CHECKING

from histotune.published.published_parts import Protocol
from histotune.statistics.metrics import LOWER_IS_BETTER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from histotune.published.leaderboard import Board, BoardRow


def boards_overview(boards: Sequence[Board]) -> Table:
    """Return a table with a line per protocol: which there are, and how many scores each has.

    Args:
        boards: The boards.

    Returns:
        A table to print.
    """
    from rich.table import Table

    table = Table(title="Published protocols", title_justify="left", pad_edge=False, caption_justify="left",
                  caption="Scores of different protocols can't be compared. One of them: histotune leaderboard "
                  "--dataset BreakHis --protocol eva")  # fmt: skip
    for name in ("data set", "protocol", "pooling", "split", "metric", "scores", "best"):
        table.add_column(name, justify="right" if name in ("scores", "best") else "left", overflow="fold")
    for board in boards:
        one = board.protocol
        table.add_row(one.dataset, one.protocol, one.pooling or "-", one.split or "-", one.metric,
                      str(len(board.rows)), f"{board.rows[0].value:.3f}")  # fmt: skip
    return table


def board_table(board: Board) -> Table:
    """Return one board as a table; its notes are for :func:`board_notes`.

    Args:
        board: The scores of one protocol.

    Returns:
        A table to print.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table(title=board.protocol.title, title_justify="left", pad_edge=False)
    for name in board_columns(board):
        table.add_column(name, justify="right" if name in ("rank", board.protocol.metric) else "left", overflow="fold")
    for row in board.rows:
        cells = (Text(cell) for cell in board_cells(board, row))  # a folder's name may hold square brackets
        table.add_row(*cells, style="bold" if row.own else "")
    return table


def boards_markdown(boards: Sequence[Board]) -> str:
    """Return boards as markdown, one table per protocol.

    Args:
        boards: The boards.

    Returns:
        The text.
    """
    parts = []
    for board in boards:
        columns = board_columns(board)
        lines = [f"### {board.protocol.title}", "", _line(columns), _line(["---"] * len(columns))]
        lines += [_line([f"**{cell}**" if row.own and cell else cell for cell in board_cells(board, row)])
                  for row in board.rows]  # fmt: skip
        notes = board_notes(board)
        parts.append("\n".join([*lines, *([""] if notes else []), *[f"{note}  " for note in notes]]))
    return "\n\n".join(parts) + "\n"


def boards_csv(boards: Sequence[Board]) -> str:
    """Return boards as CSV, a line per score, with protocol, caveat and source in full.

    Args:
        boards: The boards.

    Returns:
        The text.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    names = [field.name for field in fields(Protocol)]
    writer.writerow([*names, "rank", "model", "value", "own", "spread", "caveat", "source"])
    for board in boards:
        for row in board.rows:
            writer.writerow([*(getattr(board.protocol, name) for name in names), row.rank, row.model, row.value,
                             "yes" if row.own else "no", row.spread, _full_caveat(board, row),
                             row.source])  # fmt: skip
    return stream.getvalue()


def _full_caveat(board: Board, row: BoardRow) -> str:
    """Return what weakens a row; of one's own also what weakens the protocol, which published rows are silent about."""
    shared = board.weaknesses if row.own else ()
    return "; ".join(text.rstrip(".") for text in (row.caveat, *shared) if text) if shared else row.caveat


def board_columns(board: Board) -> list[str]:
    """Return the names of a board's columns.

    Args:
        board: The scores of one protocol.
    """
    spread = ["spread"] if any(row.spread for row in board.rows) else []
    return ["rank", "model", board.protocol.metric, *spread, "notes"]


def board_cells(board: Board, row: BoardRow) -> list[str]:
    """Return a row as text, a cell per column; its caveat is a number that :func:`board_notes` explains.

    Args:
        board: The scores of one protocol.
        row: One of its rows.
    """
    number = str(board.caveats.index(row.caveat) + 1) if row.caveat else ""
    spread = [row.spread] if any(other.spread for other in board.rows) else []
    where = f": {row.source}" if row.source else ""
    model = f"{row.model} (yours{where})" if row.own else row.model
    return [str(row.rank), model, f"{row.value:.3f}", *spread, number]


def board_notes(board: Board) -> list[str]:
    """Return what to know before reading a board: its caveats, numbered as in its last column, and more.

    Args:
        board: The scores of one protocol.

    Returns:
        Lines of text.
    """
    notes = [f"{number}: {caveat.rstrip('.')}." for number, caveat in enumerate(board.caveats, 1)]
    if board.protocol.metric in LOWER_IS_BETTER:
        notes.append("Lower is better.")
    if board.weaknesses:
        notes += ["What weakens every number here:", *(f"- {text}" for text in board.weaknesses)]
    if any(not row.own for row in board.rows):
        notes.append("Published without an interval over cases; ranks within a few points mean nothing.")
    return notes


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
