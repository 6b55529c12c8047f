"""Published scores are filtered by name, and only scores of one protocol share a table."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from histotune.published.leaderboard import OwnScore, make_boards
from histotune.published.published_numbers import Protocol, PublishedScore, Query, published_scores, select
from histotune.report.study_tables import board_table, boards_csv, boards_markdown
from histotune.tools.errors import UserError

Histotune = Callable[..., "object"]
EVA = Protocol("BreakHis", "eva", "CLS", "val", "balanced_accuracy")


def published(protocol: Protocol, **values: float) -> list[PublishedScore]:
    return [PublishedScore(model, value, protocol, "", "somewhere") for model, value in values.items()]


def test_every_published_score_is_whole() -> None:
    scores = published_scores()
    assert len(scores) == 413
    for one in scores:
        assert 0 <= one.value <= 1 and one.model and one.source and one.protocol.dataset and one.protocol.metric
        assert one.protocol.protocol.startswith(("eva", "thunder", "other"))
    assert len({(one.model, one.protocol, one.source) for one in scores}) > 390


NAMES_ITS_PLACE = re.compile(
    r"https://|arXiv \d{4}\.\d{5}|10\.\d{4,}/\S|\b[\w-]+/[\w-]+|THUNDER official|et al\. \d{4}|Front\w* .*20\d\d"
)


def test_every_published_score_names_a_source_that_can_be_found() -> None:
    for one in published_scores():
        assert NAMES_ITS_PLACE.search(one.source), one
        for opening, closing in ("()", "[]"):
            assert one.source.count(opening) == one.source.count(closing), one


def test_a_query_is_met_in_every_part() -> None:
    found = select(
        published_scores(), Query(dataset="breakhis", protocol="EVA", pooling="cls", split="val", model="virchow2")
    )
    assert {(one.model, one.value, one.protocol.protocol) for one in found} >= {("Virchow2", 0.821, "eva")}
    assert all(one.protocol.dataset == "BreakHis" and "Virchow2" in one.model for one in found)


def test_unknown_names_are_told_together_with_the_closest() -> None:
    with pytest.raises(UserError) as caught:
        select(published_scores(), Query(dataset="BreakHiss", protocol="thundre-knn"))
    assert "BreakHis" in str(caught.value) and "thunder-knn" in str(caught.value)
    with pytest.raises(UserError, match="no published score meets all"):
        select(published_scores(), Query(dataset="BACH", protocol="thunder"))


def test_scores_of_two_protocols_never_share_a_table() -> None:
    boards = make_boards(published_scores())
    assert sum(len(board.rows) for board in boards) == 413
    assert len({board.protocol for board in boards}) == len(boards)


def test_own_scores_stand_among_the_same_protocol_only() -> None:
    other = Protocol("BreakHis", "eva", "CLS+mean patch", "val", "balanced_accuracy")
    own = [OwnScore("lite0", 0.7, EVA, 0.01, 0.55, 0.82, "runs/a"), OwnScore("lite0", 0.9, other)]
    first, second = make_boards(published(EVA, a=0.8, b=0.7, c=0.6), own)
    assert [(row.rank, row.model, row.own) for row in first.rows] == [
        (1, "a", False), (2, "b", False), (2, "lite0", True), (3, "c", False)]  # fmt: skip
    assert first.rows[2].spread == "[0.550, 0.820], SD over runs 0.010"
    assert [(row.model, row.own, row.rank) for row in second.rows] == [("lite0", True, 1)]


def test_the_lower_calibration_error_is_the_better() -> None:
    (board,) = make_boards(published(Protocol("PCam", "thunder-linear", "", "test", "ece"), a=0.2, b=0.01))
    assert [(row.rank, row.model) for row in board.rows] == [(1, "b"), (2, "a")]
    assert "Lower is better." in boards_markdown([board])


def test_exports_hold_every_score_and_its_caveat() -> None:
    boards = make_boards(select(published_scores(), Query(dataset="BreakHis")), [OwnScore("mine | x", 0.5, EVA)])
    rows = list(csv.DictReader(io.StringIO(boards_csv(boards))))
    assert len(rows) == 121 and sum(row["own"] == "yes" for row in rows) == 1
    assert any("4 accession numbers" in row["caveat"] for row in rows)
    text = boards_markdown(boards)
    assert "mine \\| x (yours)" in text and text.count("### ") == len(boards)


def test_square_brackets_of_a_folder_are_no_markup() -> None:
    (board,) = make_boards(published(EVA, a=0.8), [OwnScore("lite0", 0.7, EVA, source="runs/[bold]x")])
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(board_table(board).as_rich())
    assert "lite0 (yours: runs/[bold]x)" in console.export_text()


def test_the_command_prints_and_saves(histotune: Histotune, tmp_path: Path) -> None:
    overview = histotune("leaderboard")
    assert overview.code == 0 and "thunder-simpleshot16" in overview.out
    one = histotune("leaderboard", "--dataset", "BreakHis", "--protocol", "eva", "--pooling", "CLS", "--split", "val")
    assert "Virchow2" in one.out and "4 accession numbers" in one.out and "0.821" in one.out
    assert histotune("leaderboard", "--dataset", "PCam", "--out", str(tmp_path / "pcam.csv")).code == 0
    assert (tmp_path / "pcam.csv").read_text(encoding="utf-8").startswith("dataset,protocol,")
    wrong = histotune("leaderboard", "--format", "cvs")
    assert wrong.code == 2 and "csv" in wrong.err
