"""The answer says what its numbers bear, with their intervals, and nothing that they don't."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from histotune.evaluation.answer import beats, in_words, strongest_floor, verdict_sentence, write_answer
from histotune.evaluation.choice import describe_choice
from histotune.evaluation.findings import DatasetFacts, Finding, Findings, PairedDifference, ScoredArm, SweepChoice
from histotune.heads.calibrate import MAX_TEMPERATURE
from histotune.heads.config import SweepConfig
from histotune.heads.family import SweepTask
from histotune.heads.head import Calibration, SweepResult
from histotune.heads.sweep import sweep
from histotune.statistics.predictions import Interval, Score
from histotune.tools.marks import (
    COLOUR_HISTOGRAM,
    LEAKY,
    MAJORITY,
    PROBE,
    RANDOM_WEIGHTS,
    SYNTHETIC,
    TOO_NARROW,
    TUNED,
    UNTUNED,
)
from tests.heads.samples import make_embeddings

METHOD = "jackknife over groups"
WHERE = "breakhis 100X"
NUMBER = re.compile(r"\b[01]\.\d{3}\b")


def score(value: float, half: float | None = 0.05, *, n_groups: int = 20, name: str = "auroc") -> Score:
    interval = None if half is None else Interval(value - half, value + half, 0.95, METHOD)
    return Score(name, value, interval, 96, n_groups, reason="" if half else "2 groups; an interval needs 5")


def arm(name: str, value: float, half: float | None = 0.05, marks: tuple[str, ...] = (), **more: int) -> ScoredArm:
    return ScoredArm(name, WHERE, f"{WHERE}, cross-fitted over 5 folds", 1.0, (score(value, half, **more),), marks)


def difference(against: str, value: float, half: float | None = 0.05) -> PairedDifference:
    return PairedDifference(WHERE, against, score(value, half, name="auroc difference"), "p = 0.01")


def in_domain(*rows: ScoredArm, paired: tuple[PairedDifference, ...] = ()) -> Finding:
    return Finding("in-domain", "Held-out cases", "Cross-fitted.", rows, paired=paired)


def test_the_strongest_floor_is_named_with_what_the_probe_adds_to_it() -> None:
    rows = (arm(PROBE, 0.9), arm(RANDOM_WEIGHTS, 0.6), arm(COLOUR_HISTOGRAM, 0.8), arm(MAJORITY, 0.5, None))
    finding = in_domain(*rows, paired=(difference(COLOUR_HISTOGRAM, 0.1), difference(RANDOM_WEIGHTS, 0.3)))
    floor = strongest_floor(finding, WHERE)
    assert floor is not None and floor.arm == COLOUR_HISTOGRAM
    answer = write_answer((finding,))
    assert answer.startswith("On held-out cases of breakhis 100X (96 tiles of 20 cases) AUROC is 0.900")
    assert "Its strongest floor, colour histogram + probe, reaches 0.800 (95% interval 0.750 to 0.850)" in answer
    assert "0.100 (95% interval 0.050 to 0.150)" in answer
    assert "0.600" not in answer


@pytest.mark.parametrize("paired", [True, False])
def test_a_probe_that_beats_no_floor_says_so_first(paired: bool) -> None:
    given = (difference(COLOUR_HISTOGRAM, 0.02),) if paired else ()
    finding = in_domain(arm(PROBE, 0.82), arm(COLOUR_HISTOGRAM, 0.8), paired=given)
    assert beats(finding, finding.rows[0], finding.rows[1]) is False
    assert write_answer((finding,)).startswith("The probe is not shown to beat its strongest floor on breakhis 100X")


def test_the_paired_difference_decides_before_two_intervals_do() -> None:
    """Two arms scored on the same tiles differ less than their intervals, which both hold the cases' spread."""
    rows = (arm(PROBE, 0.85, 0.1), arm(COLOUR_HISTOGRAM, 0.8, 0.1))
    assert beats(in_domain(*rows), *rows) is False
    assert beats(in_domain(*rows, paired=(difference(COLOUR_HISTOGRAM, 0.05, 0.02),)), *rows) is True


def test_without_an_interval_nothing_is_said_about_floors_and_chance_is_called_so() -> None:
    finding = in_domain(arm(PROBE, 0.9, None), arm(COLOUR_HISTOGRAM, 0.8, None))
    assert beats(finding, *finding.rows) is None
    assert "floor" not in write_answer((finding,))
    alone = in_domain(arm(PROBE, 0.9), arm(MAJORITY, 0.5, None))
    assert "majority class, reaches 0.500, which is what chance gives" in write_answer((alone,))


def test_unknown_cases_are_not_called_cases_on_both_sides() -> None:
    known = write_answer((in_domain(arm(PROBE, 0.9, marks=(LEAKY,))),))
    assert known.startswith("With cases on both sides of the split (LEAKY)")
    unknown = write_answer((in_domain(arm(PROBE, 0.9, marks=(LEAKY,), n_groups=0)),))
    assert unknown.startswith("With unknown cases, which may stand on both sides of the split (LEAKY)")


def test_a_magnification_without_an_interval_shows_no_number() -> None:
    few = replace(arm(PROBE, 0.75, None), domain="breakhis 400X")
    finding = Finding("cross-magnification", "Every magnification", "", (arm(PROBE, 0.9), few))
    answer = write_answer((finding,))
    assert "100X 0.900 (0.850 to 0.950)" in answer
    assert "400X not told (96 tiles, no interval: 2 groups; an interval needs 5)" in answer
    assert "0.750" not in answer
    assert "the same cross-fitted heads, on cases that did not train them" in answer


@pytest.mark.parametrize(("low", "shown"), [(0.03, True), (-0.02, False)])
def test_a_leak_is_claimed_only_where_it_is_shown(low: float, shown: bool) -> None:
    gap = Score("auroc difference", 0.06, Interval(low, 0.1, 0.95, METHOD), 96, 20)
    rows = (
        arm(PROBE, 0.8),
        replace(arm(PROBE, 0.9), arm="probe, random image split"),
        ScoredArm("difference (random - grouped)", WHERE, "the same tiles", 1.0, (gap,)),
    )
    answer = write_answer((Finding("leak-price", "Leak", "", rows),))
    assert ("not shown to be more than none" in answer) is not shown


def test_every_number_of_the_answer_has_its_interval() -> None:
    rows = (arm(PROBE, 0.9), arm(COLOUR_HISTOGRAM, 0.8))
    answer = write_answer((in_domain(*rows, paired=(difference(COLOUR_HISTOGRAM, 0.1),)),))
    values = re.findall(r"([01]\.\d{3}) \(\d+% interval [01]\.\d{3} to [01]\.\d{3}\)", answer)
    assert len(NUMBER.findall(answer)) == 3 * len(values)


def test_a_spread_of_draws_is_not_called_an_interval() -> None:
    drawn = Interval(0.4, 0.6, 0.95, "range of 20 permutations, not a confidence interval")
    assert in_words(Score("auroc", 0.5, drawn, 9, 3)) == "0.500 (range of 20 permutations: 0.400 to 0.600)"


# What a sweep chose


def chosen(penalties: tuple[float, ...], noise: float) -> tuple[SweepChoice, SweepResult]:
    """Return the choice of a sweep over tiles of 12 groups whose first column tells the class, up to noise."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(12) % 2, 5)
    matrix = rng.standard_normal((60, 6))
    matrix[:, 0] += labels * (0.0 if noise else 2.0)
    groups = tuple(f"g{group}" for group in np.repeat(np.arange(12), 5))
    task = SweepTask(labels, groups, ("benign", "malignant"), np.ones((1, 60), bool))
    result = sweep(make_embeddings(matrix), task, SweepConfig(folds=3, penalties=penalties, honesty="none"))[0]
    return describe_choice(result, WHERE), result


def test_a_penalty_at_the_end_of_its_range_is_said_with_what_to_do() -> None:
    choice, _ = chosen((1e-3, 1e-2), noise=1.0)
    assert choice.penalty == 1e-2
    assert "the strongest that was tried" in choice.warnings[0] and "sweep.penalties" in choice.warnings[0]
    assert choice.warnings[0] in write_answer((), (choice,))
    inner, _ = chosen((1e-9, 1e-2, 1e9), noise=0.0)
    assert inner.penalty == 1e-2 and not inner.warnings


def test_a_temperature_at_the_end_of_its_range_is_said() -> None:
    _, result = chosen((1e-9, 1e-2, 1e9), noise=0.0)
    for temperature, told in ((MAX_TEMPERATURE, True), (1 / MAX_TEMPERATURE, True), (2.0, False)):
        head = replace(result.head, calibration=Calibration(temperature))
        warnings = describe_choice(replace(result, head=head), WHERE).warnings
        assert any("temperature" in warning for warning in warnings) is told


def test_a_head_no_better_than_the_shares_of_the_classes_is_said() -> None:
    from tests.audit.made import tile_set

    _, result = chosen((1e-3, 1e-2), noise=1.0)
    labels, groups = (np.repeat(np.arange(12) % 2, 5)).tolist(), [f"g{group}" for group in np.repeat(np.arange(12), 5)]
    tiles = tile_set(60, ["x"] * 60, label=labels, group_id=groups)
    for loss, told in ((math.log(2.0) + 0.01, True), (math.log(2.0) - 0.01, False)):
        trials = result.trials.with_columns(log_loss=pl.lit(loss))
        warnings = describe_choice(replace(result, trials=trials), WHERE, tiles).warnings
        assert any("shares of the classes alone" in warning for warning in warnings) is told


def test_arms_that_were_never_trained_are_floors_too() -> None:
    finding = in_domain(arm(PROBE, 0.9), arm(UNTUNED, 0.55), arm(RANDOM_WEIGHTS, 0.5))
    floor = strongest_floor(finding, WHERE)
    assert floor is not None and floor.arm == UNTUNED


# The verdict: one sentence


def verdict(
    *rows: ScoredArm,
    paired: tuple[PairedDifference, ...] = (),
    classes: tuple[str, ...] = ("benign", "malignant"),
    synthetic: bool = False,
) -> str:
    name = rows[0].domain.split(" ")[0]
    facts = DatasetFacts(name, 96, 20, classes, "", "", synthetic, "", "", ())
    found = in_domain(*rows, paired=paired)
    sentence = verdict_sentence(Findings("A run", "", "lite0", "", (facts,), (found,), (), "s", "c"))
    assert "\n" not in sentence and sentence.endswith(".")
    assert not re.search(r"[.;:,] ?[.;:,]|  |\bNone\b|\bnan\b", sentence), sentence
    return sentence


def test_the_verdict_of_a_probe_that_beats_its_floor() -> None:
    rows = (arm(PROBE, 0.9), arm(RANDOM_WEIGHTS, 0.6), arm(COLOUR_HISTOGRAM, 0.8))
    said = verdict(*rows, paired=(difference(COLOUR_HISTOGRAM, 0.1),))
    assert said == (
        "The probe tells malignant from benign with AUROC 0.90 (95 % interval 0.85 to 0.95) on 20 held-out cases "
        "(96 tiles) of breakhis 100X, above its strongest floor, colour histogram + probe (0.80)."
    )


def test_the_verdict_begins_with_a_floor_that_is_not_beaten() -> None:
    rows = (arm(PROBE, 0.82), arm(COLOUR_HISTOGRAM, 0.8))
    said = verdict(*rows, paired=(difference(COLOUR_HISTOGRAM, 0.02),))
    assert said.startswith("The probe is not shown to beat its strongest floor, colour histogram + probe (0.80)")
    assert "AUROC 0.82 (95 % interval 0.77 to 0.87) on 20 held-out cases" in said


def test_the_verdict_of_a_split_that_leaks_is_that_there_is_no_estimate() -> None:
    said = verdict(arm(PROBE, 0.98, marks=(LEAKY,)), arm(COLOUR_HISTOGRAM, 0.8))
    assert said.startswith("No estimate for new cases: cases stand on both sides of this split (LEAKY)")
    assert "held-out" not in said and "above" not in said
    unknown = verdict(arm(PROBE, 0.98, marks=(LEAKY,), n_groups=0))
    assert "unknown cases may stand on both sides" in unknown and "on unknown cases (96 tiles)" in unknown


def test_the_verdict_without_an_interval_says_why_before_the_number() -> None:
    said = verdict(arm(PROBE, 0.9, None), arm(COLOUR_HISTOGRAM, 0.8))
    assert said.startswith("How sure this is can't be told (2 groups; an interval needs 5): the probe tells")
    assert "AUROC 0.90 on 20 held-out cases" in said and "above" not in said
    undefined = verdict(ScoredArm(PROBE, WHERE, "", 1.0, (Score("auroc", math.nan, None, 9, 2, reason="one class"),)))
    assert undefined == "No AUROC could be computed on 2 held-out cases (9 tiles) of breakhis 100X: one class."


def test_the_verdict_without_a_floor_or_without_knowing_says_no_more() -> None:
    assert "floor" not in verdict(arm(PROBE, 0.9))
    unknown = replace(arm(COLOUR_HISTOGRAM, 0.8), scores=(Score("auroc", math.nan, None, 9, 2, reason="x"),))
    assert "floor" not in verdict(arm(PROBE, 0.9), unknown)


@pytest.mark.parametrize(
    ("value", "half", "said"),
    [
        (-0.06, 0.05, "fine-tuning helped: 0.95 (95 % interval 0.90 to 1.00)"),
        (0.06, 0.05, "fine-tuning hurt: 0.95"),
        (0.0, 0.0, "fine-tuning changed nothing, the probe was kept"),
        (-0.01, 0.05, "whether fine-tuning helped can't be told: it gives 0.95"),
        (-0.06, None, "whether fine-tuning helped can't be told (it gives 0.95"),
    ],
)
def test_the_verdict_says_what_fine_tuning_did(value: float, half: float | None, said: str) -> None:
    rows = (arm(PROBE, 0.9), arm(TUNED, 0.95), arm(COLOUR_HISTOGRAM, 0.8))
    paired = (difference(COLOUR_HISTOGRAM, 0.1), difference(TUNED, value, half))
    found = verdict(*rows, paired=paired)
    assert f"; {said}" in found
    assert "above its strongest floor, colour histogram" in found  # the tuned arm is no floor


def test_the_verdict_names_the_task_the_tissue_and_what_narrows_an_interval() -> None:
    assert "tells 4 classes apart" in verdict(arm(PROBE, 0.9), classes=("TA", "MC", "F", "DC"))
    assert "of SYNTHETIC breakhis 100X" in verdict(arm(PROBE, 0.9), synthetic=True)
    assert "of SYNTHETIC breakhis 100X" in verdict(arm(PROBE, 0.9, marks=(SYNTHETIC,)))
    assert "TOO NARROW: made as if tiles were independent" in verdict(arm(PROBE, 0.9, marks=(TOO_NARROW,)))
    short = Score("auroc", 0.9, Interval(0.8, 0.95, 0.95, METHOD, 0.87), 96, 20)
    assert "0.80 to 0.95; simulated coverage 87 %)" in verdict(replace(arm(PROBE, 0.9), scores=(short,)))


def test_the_verdict_calls_groups_what_they_are() -> None:
    for domain, words in (("patch_camelyon test", "20 held-out slides"), ("mine", "20 held-out groups")):
        assert words in verdict(replace(arm(PROBE, 0.9), domain=domain))
    assert "1 held-out case (" in verdict(arm(PROBE, 0.9, n_groups=1))


def test_the_verdict_is_of_the_first_question_that_was_asked() -> None:
    rows = [(name, replace(arm(PROBE, value), domain=domain)) for name, value, domain in (
        ("external", 0.6, "patch_camelyon valid"), ("direct", 0.7, "patch_camelyon test"), ("in-domain", 0.8, WHERE),
    )]  # fmt: skip
    for until, value in ((1, "0.60"), (2, "0.70"), (3, "0.80")):
        tables = tuple(Finding(name, "", "", (row,)) for name, row in rows[:until])  # type: ignore[arg-type]
        assert f"AUROC {value} " in verdict_sentence(Findings("t", "", "b", "", (), tables, (), "s", "c"))
    assert verdict_sentence(Findings("t", "", "b", "", (), (), (), "s", "c")) == "Nothing was scored."


@pytest.mark.parametrize(("probe", "floor"), [(0.804, 0.8), (0.9996, 0.9), (0.9996, 0.9994), (0.5, 0.5), (0.85, 0.0)])
def test_the_numbers_of_the_verdict_are_roundings_that_say_nothing_else(probe: float, floor: float) -> None:
    """0.804 above 0.800 is not written as 0.80 above 0.80, and 0.996 is not written as 1.00."""
    rows = (arm(PROBE, probe), arm(COLOUR_HISTOGRAM, floor))
    said = verdict(*rows, paired=(difference(COLOUR_HISTOGRAM, 0.1),))
    numbers = re.findall(r"\b\d\.\d{2,3}\b", said)
    values = (probe, probe - 0.05, probe + 0.05, floor)
    assert all(any(number == f"{value:.{len(number) - 2}f}" for value in values) for number in numbers)
    first, last = numbers[0], numbers[-1]
    assert (first != last) or probe == floor
