"""A whole diagnosis: from a head on two data sets to the first cause in words."""

# N tiles, S source tiles, n target tiles looked at, D columns, K classes (or nearest tiles)

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from histotune.evaluation.answer import in_words
from histotune.statistics.metrics import LOWER_IS_BETTER
from histotune.statistics.scores import score_predictions
from histotune.tools.errors import UserError
from histotune.tools.files import hash_bytes
from histotune.transfer.case import ALIGNMENT, NONE, UNTOLD, Diagnosis, Neighbour, NeighbourRow, check_every_class
from histotune.transfer.corrections import class_shares, make_workbench, side_predictions
from histotune.transfer.differences import Contrasts, independent_difference, measure_shift, surely_above
from histotune.transfer.limits import few_shot_curve, oracle_rows
from histotune.transfer.remedies import (
    METRICS,
    decision_parts,
    decision_steps,
    gain,
    ranking_arms,
    remedy_rows,
    threshold_arm,
)
from histotune.transfer.rule import Evidence, first_cause, join_candidates

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from histotune.statistics.predictions import IntervalConfig, Score
    from histotune.transfer.case import Side, TransferCase, TransferConfig, Verdict
    from histotune.transfer.corrections import Workbench

    Float = NDArray[np.float64]
    Int = NDArray[np.int64]


CAUSE_WORDS = {
    "scale": "another scale: tissue reaches the network at another um/px than in training",
    "stain": "another stain: normalised colours rank better",
    ALIGNMENT: "a shift of the embeddings' mean and covariance that undoing scale or stain does not explain",
    "other": "something that no remedy tried here undoes, such as other tissue or other labels",
    "prevalence": "other shares of the classes than in training",
    "threshold": "a moved cut: the scores rank as before, but lie elsewhere",
    "calibration": "probabilities that are too sure or not sure enough",
}
N_ERRORS, N_OTHERS, N_NEAREST = 3, 3, 3


def diagnose(case: TransferCase, config: TransferConfig, interval: IntervalConfig) -> Diagnosis:
    """Say how much an external validation loses, where, what gives it back, and what can't be told.

    Args:
        case: The head, held-out scores of its source, and the target.
        config: Folds, what counts as large, few-shot points.
        interval: How intervals are made.

    Returns:
        The diagnosis with its paragraph.

    Raises:
        UserError: A side lacks a class, or holds too few groups.
    """
    check_case(case)
    bench = make_workbench(case, config.folds, config.seed)
    contrasts = Contrasts(interval)
    evidence = Evidence(bench, contrasts, config, interval)
    by_candidate = _verdicts(evidence)
    # Tables show the stated scale; the verdict joins those under all candidate scales.
    arms = ranking_arms(bench, by_candidate[0].candidate)
    plain_NK = arms.margins[""]
    found = Diagnosis(
        source=case.source.domain,
        target=case.target.domain,
        head_id=case.head.head_id,
        class_names=case.head.class_names,
        prevalence=(
            tuple(bench.source_prevalence.tolist()),
            tuple(class_shares(case.target.y_N, case.n_classes).tolist()),
        ),
        source_scores=score_predictions(
            case.source_predictions, METRICS, interval, within_folds=evidence.source_folded
        ),
        target_scores=score_predictions(arms.plain.predictions, METRICS, interval),
        gaps=_gaps(bench, evidence, interval),
        threshold_loss=gain(contrasts, "balanced_accuracy", threshold_arm(bench, plain_NK), arms.plain),
        parts=decision_parts(decision_steps(bench, plain_NK), contrasts),
        remedies=remedy_rows(bench, arms, contrasts),
        oracles=oracle_rows(bench, interval),
        few_shot=few_shot_curve(bench, config, interval),
        shift=measure_shift(case.source, case.target, config, interval),
        neighbours=cross_neighbours(case),
        verdict=join_candidates(by_candidate),
        by_candidate=by_candidate if len(by_candidate) > 1 else (),
        notes=case.notes,
    )
    return replace(found, paragraph=write_paragraph(found))


def verdict_only(case: TransferCase, config: TransferConfig, interval: IntervalConfig) -> Verdict:
    """Name the first cause without the tables: what a study over many cohorts repeats."""
    check_case(case)
    bench = make_workbench(case, config.folds, config.seed)
    return join_candidates(_verdicts(Evidence(bench, Contrasts(interval), config, interval)))


def check_case(case: TransferCase) -> None:
    """Refuse what can't be diagnosed."""
    for side in (case.source, case.target):
        check_every_class(side.y_N, case.head.class_names, side.domain)
        if len(set(side.groups)) < 4:
            raise UserError(
                f"{side.domain} holds too few groups to learn on some and score on others",
                value=len(set(side.groups)),
                allowed="4 or more",
            )


def _verdicts(evidence: Evidence) -> tuple[Verdict, ...]:
    """Return the verdict under every candidate scale, the stated one first."""
    candidates = tuple(dict.fromkeys(view.candidate for view in evidence.bench.case.views if "scale" in view.undone))
    return tuple(
        first_cause(evidence, ranking_arms(evidence.bench, candidate), candidate) for candidate in candidates or ("",)
    )


def _gaps(bench: Workbench, evidence: Evidence, interval: IntervalConfig) -> tuple[Score, ...]:
    source = bench.case.source_predictions
    target = bench.arm(bench.margins(bench.case.target.x_ND)).predictions
    sides = [(source, evidence.source_folded), (target, False)]
    out = []
    for metric in METRICS:
        (a, folded_a), (b, folded_b) = sides[::-1] if metric in LOWER_IS_BETTER else sides
        out.append(independent_difference(a, b, metric, interval, folds=(folded_a, folded_b)))
    return tuple(out)


# ------------------------------------------------------------------------------
# A diagnosis in plain words: "consistent with", never "caused by", and "can't be told" where it can't


def write_paragraph(found: Diagnosis) -> str:
    """Say what was lost, where, what gives it back and what can't be told."""
    sentences = (
        _loss(found),
        _split(found),
        conclusion(found.verdict),
        _label_free(found),
        _limit(found),
        _shift(found),
    )
    scores = (*found.source_scores, *found.target_scores, found.threshold_loss, *(part.loss for part in found.parts))
    reasons = tuple(dict.fromkeys(score.reason for score in scores if score.reason))
    return _told_once(" ".join(sentence for sentence in sentences if sentence), reasons, found.target)


def conclusion(verdict: Verdict) -> str:
    """Return the verdict as a sentence."""
    if verdict.first == NONE:
        return f"No first cause: {verdict.reason}."
    if verdict.first == UNTOLD:
        rivals = f" The data are consistent with {_either(verdict.rivals)}." if verdict.rivals else ""
        return f"The first cause can't be told: {verdict.reason}.{rivals}"
    beside = ""
    if verdict.beside:
        beside = f" With that undone, the decision is still off, consistent with {CAUSE_WORDS[verdict.beside]}."
    return (
        f"The loss lies first in the {verdict.kind} and is consistent with {CAUSE_WORDS[verdict.first]} "
        f"({verdict.reason}).{beside}"
    )


def _loss(found: Diagnosis) -> str:
    source, target = found.source_scores[0], found.target_scores[0]
    gap = found.gaps[0]
    lost = "a ranking loss is not shown, the difference being"
    if gap.interval is not None and gap.interval.low > 0:
        lost = "a ranking loss of"
    elif gap.interval is not None and gap.interval.high < 0:
        lost = "no loss but a gain there, the difference being"
    chance = ""
    if source.interval is not None and source.interval.low <= source.chance:
        chance = " On the source itself it is not shown to rank better than chance, so that there is little to lose."
    return (
        f"Carried over as it is, the head ranks {found.target} with AUROC {in_words(target)}, against "
        f"{in_words(source)} on held-out groups of {found.source}: {lost} {in_words(gap)}.{_several(found)}{chance}"
    )


def _several(found: Diagnosis) -> str:
    """Say what AUROC means with several classes."""
    if len(found.class_names) == 2:
        return ""
    return (
        f" AUROC is the mean over pairs of the {len(found.class_names)} classes, each ranked by the log-odds of the "
        "two, so that neither the mix of classes nor a shift per class changes it."
    )


def _split(found: Diagnosis) -> str:
    parts = ", ".join(f"{part.cause} {in_words(part.loss)}" for part in found.parts)
    cut, better = "Its threshold", "the best one"
    if len(found.class_names) > 2:
        cut, better = "The most probable class", "a shift per class"
    return (
        f"{cut} gives balanced accuracy {in_words(found.target_scores[1])}; {better} learned on other "
        f"target groups would add {in_words(found.threshold_loss)}. In log-loss the decision loses by {parts}."
    )


def _label_free(found: Diagnosis) -> str:
    """Name the best remedy that needs no labels, in the metric that the verdict is about."""
    metric = "auroc" if found.verdict.kind == "ranking" else "log_loss"
    rows = [(row, row.recovery(metric)) for row in found.remedies if not row.uses_labels]
    gains = [(row, recovery.alone) for row, recovery in rows if recovery is not None and surely_above(recovery.alone)]
    what = "AUROC" if metric == "auroc" else "log-loss"
    if not gains:
        return f"No remedy without labels improves {what} for sure."
    row, score = max(gains, key=lambda pair: pair[1].value)
    return (
        f"Without labels of the target, the remedy {row.name!r} gives most {what} back, {in_words(score)}, provided "
        f"that {row.assumption}."
    )


def _limit(found: Diagnosis) -> str:
    own = next((row for row in found.oracles if row.name == "head trained on the target"), None)
    if own is None or math.isnan(own.scores[0].value):
        return ""
    reached = f"A head trained on other groups of the target with their labels reaches AUROC {in_words(own.scores[0])}"
    if own.scores[0].value <= found.target_scores[0].value:
        return f"{reached}, no more than the carried head: with so few groups it bounds no remedy."
    return f"{reached}: about the most that remedies can hope for."


def _shift(found: Diagnosis) -> str:
    shift = found.shift
    known = not (math.isnan(shift.source_mpp) or math.isnan(shift.target_mpp))
    scale = f" The network saw the source at {shift.source_mpp:.3g} and the target at {shift.target_mpp:.3g} um/px."
    words = ""
    if not math.isnan(shift.frechet):
        within = f"against {shift.frechet_within:.3g} between halves of the source"
        words = f" Their Frechet distance is {shift.frechet:.3g}, {within}."
    interval = shift.domain_auroc.interval
    if interval is None:
        told = f"A classifier of the two data sets reaches AUROC {in_words(shift.domain_auroc)}"
    elif interval.low > shift.domain_auroc.chance:
        told = f"A classifier tells the two data sets apart with AUROC {in_words(shift.domain_auroc)}"
    else:
        told = (
            "A classifier is not shown to tell the two data sets apart better than chance: its AUROC is "
            f"{in_words(shift.domain_auroc)}"
        )
    return f"{told}.{words}{scale if known else ''} A shift says that they differ, not that the difference matters."


def _told_once(text: str, reasons: tuple[str, ...], target: str) -> str:
    """Leave out a reason for a missing interval where it was given before."""
    for reason in reasons:
        told = f"no interval: {reason}"
        before, found, after = text.partition(told)
        for again in (told, f"no interval: {target}: {reason}"):
            after = after.replace(again, "no interval")
        text = before + found + after
    return text


def _either(names: tuple[str, ...]) -> str:
    words = [CAUSE_WORDS.get(name, name) for name in names]
    return words[0] if len(words) == 1 else "; as well as with ".join(words)


# ------------------------------------------------------------------------------
# Nearest source tiles of a few target tiles: what the head takes them for


def cross_neighbours(case: TransferCase) -> tuple[NeighbourRow, ...]:
    """Return the nearest source tiles of the most confident errors on the target, and of tiles picked blindly."""
    target, head = case.target, case.head
    fold_N, threshold_N = np.zeros(len(target), np.int64), np.full(len(target), head.threshold)
    predictions = side_predictions(target, head, head.margin(target.x_ND), fold_N, threshold_N)
    # Errors by sureness, the others by a hash of their id, so that the order of rows picks nothing; one tile per group.
    said_N = predictions.predicted_N
    sure_N = predictions.probability_NK[np.arange(len(target)), said_N]
    by_id = np.argsort(np.array(target.tile_ids), kind="stable")
    by_sureness = by_id[np.argsort(-sure_N[by_id], kind="stable")]
    errors = _one_per_group((row for row in by_sureness if said_N[row] != target.y_N[row]), target, N_ERRORS)
    by_hash = sorted(
        range(len(target)),
        key=lambda row: hash_bytes("neighbours", target.tile_ids[row].encode("utf-8", "surrogateescape")),
    )
    others = _one_per_group((row for row in by_hash if row not in errors), target, N_OTHERS)
    rows = [*errors, *others]
    nearest_nK, cosine_nK = _nearest(target.x_ND[rows], case.source)
    return tuple(
        NeighbourRow(
            why="surest error" if place < len(errors) else "picked blindly",
            tile=_named(target, row, head.class_names),
            predicted=head.class_names[said_N[row]],
            probability=float(sure_N[row]),
            nearest=tuple(_named(case.source, near, head.class_names) for near in nearest_nK[place]),
            cosines=tuple(float(value) for value in cosine_nK[place]),
        )
        for place, row in enumerate(rows)
    )


def _one_per_group(rows: Iterable[int], side: Side, most: int) -> list[int]:
    """Return the first rows of so many groups."""
    found: dict[str, int] = {}
    for row in rows:
        found.setdefault(side.groups[row], int(row))
        if len(found) == most:
            break
    return list(found.values())


def _nearest(x_nD: Float, source: Side) -> tuple[Int, Float]:
    """Return rows and cosines of the nearest source tiles, nearest first; equal ones by tile id."""
    by_id = np.argsort(np.array(source.tile_ids), kind="stable")
    cosine_nS = _unit(x_nD) @ _unit(source.x_ND[by_id]).T
    order_nK = np.argsort(-cosine_nS, axis=1, kind="stable")[:, :N_NEAREST]
    return by_id[order_nK], np.take_along_axis(cosine_nS, order_nK, axis=1)


def _unit(x_nD: Float) -> Float:
    length_n1 = np.linalg.norm(x_nD, axis=1, keepdims=True)
    return np.asarray(x_nD / np.where(length_n1 > 0, length_n1, 1.0))


def _named(side: Side, row: int, class_names: tuple[str, ...]) -> Neighbour:
    group = side.groups[row] if side.has_groups else "unknown"
    return Neighbour(side.tile_ids[row], group, class_names[side.y_N[row]])
