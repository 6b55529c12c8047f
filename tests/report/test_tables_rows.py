from __future__ import annotations

from dataclasses import replace

from histotune.report.tables import score_tables
from histotune.statistics.predictions import Score
from tests.report.made_up import METHOD, REASON, SPREAD, cross_magnification, leak_price, made_findings


def test_every_row_has_n_tiles_and_n_groups() -> None:
    for finding in made_findings().findings:
        rows = [row for group in score_tables(finding)[0].groups for row in group.rows]
        assert len(rows) == len(finding.rows)
        for row, arm in zip(rows, finding.rows, strict=True):
            assert (row.n_tiles, row.n_groups) == (str(arm.scores[0].n_tiles), str(arm.scores[0].n_groups))


def test_missing_intervals_print_their_reason() -> None:
    table = score_tables(cross_magnification())[0]
    refused = next(row for group in table.groups for row in group.rows if row.n_groups == "4")
    texts = dict(table.footnotes)
    assert {cell.interval for cell in refused.cells if cell} == {"no interval"}
    assert {texts[cell.note] for cell in refused.cells if cell} == {f"interval not estimable: {REASON}"}


def test_the_usual_method_stands_once_and_others_are_footnotes() -> None:
    table = score_tables(cross_magnification())[0]
    assert table.intervals == f"95 % intervals: {METHOD}; conditional on the trained heads"
    assert SPREAD in dict(table.footnotes).values()


def test_rows_of_one_arm_stand_together_with_what_trained_them() -> None:
    table = score_tables(cross_magnification())[0]
    assert [len(group.rows) for group in table.groups] == [3] * 5
    untuned = next(group for group in table.groups if group.arm == "untuned head")
    assert (untuned.trained_on, untuned.floor, table.exceptions) == ("100 random heads", True, True)


def test_differences_fall_into_the_column_of_their_metric() -> None:
    table = score_tables(leak_price())[0]
    cells = table.groups[-1].rows[0].cells
    shown = {metric: cell.value for metric, cell in zip(table.metrics, cells, strict=True) if cell}
    assert shown == {"AUROC": "+0.109", "Balanced accuracy": "+0.142"}


def test_marks_stand_in_their_row() -> None:
    table = score_tables(leak_price())[0]
    assert [group.rows[0].marks for group in table.groups] == [(), ("LEAKY",), ("LEAKY",)]


def test_probabilities_have_a_table_of_their_own() -> None:
    finding = leak_price()
    more = Score("brier", 0.2, None, 10, 5, "tile", "too few groups")
    rows = (replace(finding.rows[0], scores=(*finding.rows[0].scores, more)), *finding.rows[1:])
    first, second = score_tables(replace(finding, rows=rows))
    assert "Brier score" not in first.metrics and first.title == ""
    assert second.metrics[-1] == "Brier score" and second.title == "Probabilities and operating points"
    assert [cell.value for cell in second.groups[0].rows[0].cells if cell][-1] == "0.200"
