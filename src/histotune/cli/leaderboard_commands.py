"""What ``histotune leaderboard`` does: scores of one protocol in one table, printed or saved."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from histotune.published.leaderboard import Board, Refusal
    from histotune.published.published_parts import Query

Format = Literal["table", "markdown", "csv", "latex"]
FORMATS: tuple[Format, ...] = ("table", "markdown", "csv", "latex")
ENDINGS = {".csv": "csv", ".tex": "latex"}


def show_leaderboard(query: Query, style: str, out: Path | None, runs: Sequence[Path] = ()) -> None:
    """Print or save the boards that a query asks for; an overview where nothing is asked.

    Args:
        query: Which scores.
        style: ``table``, ``markdown``, ``csv`` or ``latex``.
        out: File to write; None prints. Its ending decides where the style is ``table``.
        runs: Folders of the user's own protocol runs. Only tables that hold one of their numbers are shown; what may
            stand in none is named with the reason, beside the tables and never among them.

    Raises:
        UserError: Unknown names or style, a folder that is no protocol run, or runs of which nothing is comparable.
    """
    style = _style(style, out)
    boards, refused = _boards(query, runs)
    if out is not None:
        _save(boards, style, out)
    elif style == "table":
        _print_leaderboard(boards, overview=not runs and not any(vars(query).values()))
    else:
        sys.stdout.write(_text(boards, style))
    for one in refused:  # a table that is read by a program stays a table
        print(f"\n{one}", file=sys.stdout if style == "table" or out is not None else sys.stderr)


def _boards(query: Query, runs: Sequence[Path]) -> tuple[tuple[Board, ...], tuple[Refusal, ...]]:
    from histotune.published.leaderboard import make_boards
    from histotune.published.published_parts import published_scores, select

    published = select(published_scores(), query)
    if not runs:
        return make_boards(published), ()
    from histotune.published.leaderboard import read_own_scores

    own = read_own_scores(runs, [one.protocol for one in published])
    protocols = {one.protocol for one in own.scores}
    return make_boards([one for one in published if one.protocol in protocols], own.scores), own.refused


def _style(style: str, out: Path | None) -> str:
    from histotune.tools.errors import UserError, closest_name

    if style not in FORMATS:
        raise UserError("unknown format", value=style, allowed=", ".join(FORMATS), closest=closest_name(style, FORMATS))
    if out is not None and style == "table":
        return ENDINGS.get(out.suffix, "markdown")
    return style


def _text(boards: tuple[Board, ...], style: str) -> str:
    from histotune.report.study_tables import boards_csv, boards_latex, boards_markdown

    return {"csv": boards_csv, "latex": boards_latex}.get(style, boards_markdown)(boards)


def _save(boards: tuple[Board, ...], style: str, out: Path) -> None:
    from histotune.tools.files import write_text

    write_text(out, _text(boards, style))
    print(f"{sum(len(board.rows) for board in boards)} scores of {len(boards)} protocols: {out}")


def _print_leaderboard(boards: tuple[Board, ...], *, overview: bool) -> None:
    from rich.console import Console

    from histotune.report.study_tables import board_notes, board_table, boards_overview

    console = Console(width=None if sys.stdout.isatty() else 140)
    if overview:
        console.print(boards_overview(boards))
        return
    for board in boards:
        console.print(board_table(board))
        console.print("\n".join(board_notes(board)), markup=False, highlight=False)
