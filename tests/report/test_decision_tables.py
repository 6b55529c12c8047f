"""Decisions as tables: every count, both rates with their intervals, the threshold, and the reasons for what lacks."""

from __future__ import annotations

import pytest

from histotune.evaluation.decisions import find_decisions
from histotune.evaluation.findings import Finding, ScoredArm
from histotune.report.decision_tables import decision_tables, threshold_words
from histotune.report.result_tables import tables_of
from histotune.report.words import format_interval, number
from histotune.statistics.predictions import IntervalConfig
from histotune.tools.marks import LEAKY
from tests.statistics.samples import random_predictions


def finding(n_classes: int, kind: str = "in-domain", n_groups: int = 30, mixed: float = 0.1) -> Finding:
    made = find_decisions(random_predictions(300, n_groups, n_classes, 2, mixed), IntervalConfig())
    rows = (ScoredArm("probe", "d", "t", 1.0, (), (LEAKY,), made), ScoredArm("majority class", "d", "t", 1.0, ()))
    return Finding(kind, "Held out", "How.", rows)  # type: ignore[arg-type]


@pytest.mark.parametrize("n_classes", [2, 3])
def test_every_count_and_rate_is_in_its_place(n_classes: int) -> None:
    one = finding(n_classes)
    (table,) = decision_tables(one)
    made = one.rows[0].decisions
    assert made is not None
    assert table.names[:2] == ("true class", "tiles")
    assert table.names[2 : 2 + n_classes] == tuple(f"said class{label}" for label in range(n_classes))
    for row, rates, counts in zip(table.rows, made.rates, made.counts, strict=True):
        assert row.texts[0] == rates.name
        assert [int(text) for text in row.texts[1 : 2 + n_classes]] == [sum(counts), *counts]
        for text, score in zip(row.texts[-2:], (rates.sensitivity, rates.specificity), strict=True):
            assert score.interval is not None
            assert text.startswith(f"{number(score.value)} {format_interval(score.interval)}")
    assert LEAKY in table.title and threshold_words(made) in table.title


def test_many_classes_show_their_rates_alone_and_say_where_the_matrix_is() -> None:
    (table,) = decision_tables(finding(12, n_groups=72))
    assert table.names == ("true class", "tiles", "Sensitivity", "Specificity")
    assert len(table.rows) == 12
    assert any("scores.json" in note for note in table.notes)


def test_a_missing_interval_has_its_reason_below() -> None:
    (table,) = decision_tables(finding(3, n_groups=12, mixed=0.0))
    assert any("no interval" in cell for row in table.rows for cell in row.texts)
    assert any("an interval needs 5" in note for note in table.notes)


def test_the_threshold_is_said_for_one_head_for_several_and_for_several_classes() -> None:
    made = finding(2).rows[0].decisions
    assert made is not None
    assert threshold_words(made) == "class1 is said from a probability of 0.500 on"
    several = type(made)(made.class_names, made.counts, (0.25, 0.5), made.rates)
    assert (
        threshold_words(several) == "class1 is said from a probability of 0.250 to 0.500 on, by the head of each fold"
    )
    many = finding(3).rows[0].decisions
    assert many is not None and threshold_words(many) == "the most probable class is said"


def test_a_notebook_shows_them() -> None:
    one = finding(2)
    assert decision_tables(one)[0] in tables_of(one)
