from __future__ import annotations

import math

import pytest

from histotune.evaluation.findings import ScoredArm
from histotune.report.words import Footnotes, format_score, is_trained_domain, number, score_cell
from histotune.statistics.predictions import Interval, Score
from tests.report.made_up import METHOD, REASON, SPREAD, made_arm


def test_a_score_is_written_with_its_interval() -> None:
    score = Score("auroc", 0.842, Interval(0.751, 0.912, 0.95, METHOD), 10, 5)
    assert format_score(score) == "0.842 [0.751, 0.912]"


def test_a_short_coverage_stands_beside_the_interval() -> None:
    short = Score("auroc", 0.98, Interval(0.9, 0.99, 0.95, METHOD, 0.912), 10, 5)
    arm = ScoredArm("probe", "d 40X", "d 40X", 0.5, (short,), ())
    assert score_cell(arm, short, (0.95, METHOD), Footnotes()).beside == (
        "nominal 95\u00a0%, simulated coverage 91\u00a0%",
    )
    full = Score("auroc", 0.98, Interval(0.9, 0.99, 0.95, METHOD, 0.95), 10, 5)
    assert score_cell(arm, full, (0.95, METHOD), Footnotes()).beside == ()


def test_a_refused_interval_says_why() -> None:
    text = format_score(Score("auroc", 0.842, None, 10, 2, reason=REASON))
    assert text == f"0.842 (interval not estimable: {REASON})"


def test_an_undefined_value_says_why_and_shows_no_number() -> None:
    assert (
        format_score(Score("auroc", math.nan, None, 10, 5, reason="one class only")) == "not estimable: one class only"
    )


@pytest.mark.parametrize(
    ("value", "signed", "text"),
    [
        (0.9, False, "0.900"),
        (-0.0312, True, "−0.031"),
        (0.109, True, "+0.109"),
        (-0.0001, True, "0.000"),
        (math.nan, False, "–"),
    ],
)
def test_numbers_have_three_decimals_and_a_true_minus(value: float, signed: bool, text: str) -> None:
    assert number(value, signed=signed) == text


def test_the_same_reason_has_the_same_letter() -> None:
    notes = Footnotes()
    assert [notes.mark(text) for text in ("x", "y", "x")] == ["a", "b", "a"]
    assert notes.items() == (("a", "x"), ("b", "y"))


def test_letters_go_on_after_z() -> None:
    notes = Footnotes()
    letters = [notes.mark(str(index)) for index in range(53)]
    assert len(set(letters)) == 53
    assert letters[26] == "aa"


def test_a_spread_of_random_heads_is_never_shown_as_a_confidence_interval() -> None:
    notes = Footnotes()
    arm = made_arm("untuned head", "breakhis 100X", 0.5)
    for common in (None, (0.95, SPREAD)):
        assert score_cell(arm, arm.scores[0], common, notes).note == "a"
    assert notes.texts == [SPREAD]


def test_prevalence_stands_beside_auprc_and_a_different_n_beside_its_score() -> None:
    other = Score("patient_recognition_rate", 0.8, None, 96, 30, reason=REASON)
    arm = ScoredArm("probe", "d", "t", 1.0, (*made_arm("probe", "d", 0.8).scores[:2], other))
    assert score_cell(arm, arm.scores[1], None, Footnotes()).beside == ("prevalence 0.687",)
    assert score_cell(arm, other, None, Footnotes()).beside == ("30 groups",)


@pytest.mark.parametrize(
    ("domain", "trained_on", "trained"),
    [
        ("breakhis 100X", "breakhis 100X, cross-fitted over 5 folds", True),
        ("breakhis 100X", "breakhis 100X", True),
        ("breakhis 40X", "breakhis 400X, cross-fitted over 5 folds", False),
        ("breakhis 4", "breakhis 40X", False),
    ],
)
def test_the_trained_domain_is_recognised(domain: str, trained_on: str, trained: bool) -> None:
    assert is_trained_domain(ScoredArm("probe", domain, trained_on, 1.0, ())) is trained
