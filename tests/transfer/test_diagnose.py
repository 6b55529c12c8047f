"""Each cause is named, none is invented, and what can't be told is not told."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from histotune.statistics.predictions import Interval, IntervalConfig
from histotune.tools.errors import UserError
from histotune.transfer.case import RemedyView, TransferCase, TransferConfig, Verdict
from histotune.transfer.diagnose import diagnose, verdict_only, write_paragraph
from histotune.transfer.rule import join_candidates
from tests.transfer.conftest import SIGNAL

Transfers = Callable[..., TransferCase]
CONFIG, INTERVAL = TransferConfig(draws=3), IntervalConfig()
FEW_POSITIVE = [1] * 10 + [0] * 60


def blurred(x_ND: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return x_ND + 2.5 * rng.normal(size=(len(x_ND), 1)) * SIGNAL / np.linalg.norm(SIGNAL)


def stretched(x_ND: np.ndarray, _rng: np.random.Generator) -> np.ndarray:
    return x_ND * np.array([4.0, 0.25, 4.0, 0.25, 4.0, 0.25])


def moved(x_ND: np.ndarray, _rng: np.random.Generator) -> np.ndarray:
    return x_ND + 1.2 * SIGNAL / np.linalg.norm(SIGNAL)


@pytest.mark.parametrize(
    ("changes", "first"),
    [
        ({}, "none"),
        ({"change": blurred, "undone": ("scale",)}, "scale"),
        ({"change": blurred, "undone": ("stain",)}, "stain"),
        ({"change": blurred, "undone": ("scale", "stain")}, "can't be told"),
        ({"change": blurred}, "other"),
        ({"change": moved}, "threshold"),
        ({"target_labels": FEW_POSITIVE}, "prevalence"),
        ({"change": lambda x_ND, _: 4.0 * x_ND}, "calibration"),
        ({"change": stretched}, "mean and covariance"),
        ({"change": moved, "target_labels": [0, 0, 0, 1, 1, 1]}, "can't be told"),
    ],
)
def test_first_cause(transfer: Transfers, changes: dict[str, Any], first: str) -> None:
    assert verdict_only(transfer(**changes), CONFIG, INTERVAL).first == first


def test_the_paragraph_never_says_caused_and_the_record_is_json(transfer: Transfers) -> None:
    found = diagnose(transfer(change=blurred, undone=("stain",)), CONFIG, INTERVAL)
    assert "consistent with another stain" in found.paragraph
    assert "caused" not in found.paragraph
    assert json.loads(json.dumps(found.as_dict()))["verdict"]["first"] == "stain"
    for mpp, is_said in ((1.0, True), (math.nan, False)):
        scaled = replace(found, shift=replace(found.shift, source_mpp=0.5, target_mpp=mpp))
        assert (
            ("0.5 and the target at 1 um/px" in write_paragraph(scaled))
            == is_said
            == ("um/px" in write_paragraph(scaled))
        )
    stain = next(row for row in found.remedies if row.name == "stain")
    assert stain.recovery("auroc").alone.value > 0.1
    assert stain.recovery("auroc").left_out.value > 0.0
    assert not stain.uses_labels


def test_a_calibration_loss_that_two_remedies_take_away_is_not_told(transfer: Transfers) -> None:
    alone = verdict_only(transfer(change=stretched), CONFIG, INTERVAL)
    assert (alone.first, alone.kind) == ("mean and covariance", "decision")
    found = verdict_only(transfer(change=stretched, undone=("stain",)), CONFIG, INTERVAL)
    assert found.first == "can't be told"
    assert found.rivals == ("mean and covariance", "stain")


def test_the_refinement_is_the_log_loss_between_recalibrated_heads(transfer: Transfers) -> None:
    """Against a recalibration by scikit-learn on the other folds, fold by fold."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss

    from histotune.transfer.corrections import make_workbench

    case = transfer(change=blurred, undone=("stain",))
    bench, y_N = make_workbench(case, CONFIG.folds, CONFIG.seed), case.target.y_N

    def refined(margin_N: np.ndarray) -> float:
        p_N = np.empty(len(y_N))
        for fold in np.unique(bench.fold_N):
            tune_N = bench.fold_N != fold
            fit = LogisticRegression(C=1e9, tol=1e-10, max_iter=1000).fit(margin_N[tune_N, None], y_N[tune_N])
            p_N[~tune_N] = fit.predict_proba(margin_N[~tune_N, None])[:, 1]
        return float(log_loss(y_N, p_N))

    plain, undone = (refined(bench.margins(x_ND)[:, 1]) for x_ND in (case.target.x_ND, case.views[0].x_ND))
    row = next(row for row in diagnose(case, CONFIG, INTERVAL).remedies if row.name == "stain")
    assert row.refinement is not None
    assert row.refinement.value == pytest.approx(
        plain - undone, abs=2e-3
    )  # ours pulls a tile's weight towards no change
    assert row.refinement.interval.low > 0.0


def test_parts_of_the_decision_loss_add_up_to_the_recalibrations_recovery(transfer: Transfers) -> None:
    found = diagnose(transfer(change=moved, target_labels=FEW_POSITIVE), CONFIG, INTERVAL)
    whole = next(row for row in found.remedies if row.name == "recalibration").recovery("log_loss").alone.value
    assert sum(part.loss.value for part in found.parts) == pytest.approx(whole)


def test_a_conclusion_that_flips_with_the_scale_is_not_told(transfer: Transfers) -> None:
    case = transfer(change=blurred, undone=("scale",))
    right = replace(case.views[0], candidate="0.5 um/px")
    wrong = RemedyView(right.undone, case.target.x_ND, "1 um/px")
    found = verdict_only(replace(case, views=(right, wrong)), CONFIG, INTERVAL)
    assert found.first == "can't be told"
    assert "scale can't be attributed" in found.reason
    same = Verdict("stain", "ranking", "")
    assert join_candidates([same, replace(same, candidate="1 um/px")]).first == "stain"


def test_the_order_of_tiles_changes_nothing(transfer: Transfers) -> None:
    case = transfer(change=blurred, undone=("stain",))
    order = np.random.default_rng(0).permutation(len(case.target))
    target = replace(
        case.target,
        x_ND=case.target.x_ND[order],
        y_N=case.target.y_N[order],
        groups=tuple(case.target.groups[row] for row in order),
        tile_ids=tuple(case.target.tile_ids[row] for row in order),
    )
    views = tuple(replace(view, x_ND=view.x_ND[order]) for view in case.views)
    one, other = (diagnose(each, CONFIG, INTERVAL) for each in (case, replace(case, target=target, views=views)))
    assert one.verdict == other.verdict
    for a, b in zip(one.remedies, other.remedies, strict=True):
        for first, second in zip(a.recoveries, b.recoveries, strict=True):
            assert first.alone.value == pytest.approx(second.alone.value, abs=1e-9)


def test_label_free_remedies_ignore_the_targets_labels(transfer: Transfers) -> None:
    """Flipped labels of the target turn the scores around, never the margins that a label-free remedy makes."""
    from histotune.transfer.corrections import make_workbench

    case = transfer(change=moved)
    bench = make_workbench(case, 4, 0)
    flipped = replace(bench, case=replace(case, target=replace(case.target, y_N=1 - case.target.y_N)))
    plain = bench.margins(case.target.x_ND)
    for one in (lambda b: b.covariance_aligned(case.target.x_ND), lambda b: b.mean_aligned(case.target.x_ND),
                lambda b: b.prior_corrected(plain, labels=False)):  # fmt: skip
        np.testing.assert_array_equal(one(bench), one(flipped))


def test_a_remedy_never_learns_from_the_group_it_scores(transfer: Transfers) -> None:
    from histotune.transfer.corrections import make_workbench

    case = transfer(change=moved)
    bench = make_workbench(case, 4, 0)
    inside = bench.fold_N == 0
    spoiled = case.target.x_ND.copy()
    spoiled[inside] += 100.0
    clean, changed = bench.mean_aligned(case.target.x_ND), bench.mean_aligned(spoiled)
    np.testing.assert_allclose((changed - clean)[inside, 1], 100.0 * SIGNAL.sum() / 1.04)
    for group in set(case.target.groups):
        rows = [row for row, name in enumerate(case.target.groups) if name == group]
        assert len(set(bench.fold_N[rows])) == 1


def test_targets_of_one_class_are_refused(transfer: Transfers) -> None:
    case = transfer()
    one_class = replace(case.target, y_N=np.zeros_like(case.target.y_N))
    with pytest.raises(UserError, match="no tile of one class"):
        diagnose(replace(case, target=one_class), CONFIG, INTERVAL)


def test_unknown_groups_refuse_intervals_and_name_no_cause(transfer: Transfers) -> None:
    case = transfer(change=blurred, undone=("stain",))
    found = verdict_only(replace(case, target=replace(case.target, has_groups=False)), CONFIG, INTERVAL)
    assert found.first == "can't be told"
    assert "group ids are missing" in found.reason


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.05, 0.2, "a ranking loss of"),
        (-0.1, 0.2, "a ranking loss is not shown, the difference being"),
        (-0.2, -0.05, "no loss but a gain there, the difference being"),
    ],
)
def test_a_loss_is_said_only_where_its_interval_shows_one(
    transfer: Transfers, low: float, high: float, words: str
) -> None:
    found = diagnose(transfer(), CONFIG, INTERVAL)
    gap = replace(found.gaps[0], value=(low + high) / 2, interval=Interval(low, high, 0.95, "made up"))
    assert words in write_paragraph(replace(found, gaps=(gap, *found.gaps[1:])))


@pytest.mark.parametrize(("value", "told"), [(0.8, True), (0.447, False), (0.52, False)])
def test_a_classifier_tells_data_sets_apart_only_above_chance(transfer: Transfers, value: float, told: bool) -> None:
    found = diagnose(transfer(), CONFIG, INTERVAL)
    auroc = replace(found.shift.domain_auroc, value=value, interval=Interval(value - 0.05, value + 0.05, 0.95, "x"))
    text = write_paragraph(replace(found, shift=replace(found.shift, domain_auroc=auroc)))
    assert ("A classifier tells the two data sets apart" in text) is told
    assert ("is not shown to tell the two data sets apart" in text) is not told


def test_what_cant_be_excluded_is_said_with_its_level(transfer: Transfers) -> None:
    found = diagnose(transfer(), CONFIG, INTERVAL)
    assert found.verdict.first == "none"
    assert "% interval) can't be excluded" in found.paragraph
