"""A whole diagnosis: from a head on two data sets to the first cause in words."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from histotune.statistics.scores import score_predictions
from histotune.tools.errors import UserError
from histotune.transfer.case import Diagnosis
from histotune.transfer.classes import check_every_class
from histotune.transfer.corrections import class_shares, make_workbench
from histotune.transfer.decision import decision_parts, decision_steps, threshold_arm
from histotune.transfer.differences import Contrasts, independent_difference
from histotune.transfer.few_shot import few_shot_curve
from histotune.transfer.limits import oracle_rows
from histotune.transfer.neighbours import cross_neighbours
from histotune.transfer.remedies import METRICS, gain, ranking_arms, remedy_rows
from histotune.transfer.rule import Evidence, first_cause, join_candidates
from histotune.transfer.shift import measure_shift
from histotune.transfer.words import write_paragraph

if TYPE_CHECKING:
    from histotune.statistics.predictions import IntervalConfig, Score
    from histotune.transfer.case import TransferCase, Verdict
    from histotune.transfer.config import TransferConfig
    from histotune.transfer.corrections import Workbench


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
    """Name the first cause without the tables: what a study over many cohorts repeats.

    Args:
        case: As for :func:`diagnose`.
        config: As for :func:`diagnose`.
        interval: As for :func:`diagnose`.

    Returns:
        The verdict over all candidate scales.
    """
    check_case(case)
    bench = make_workbench(case, config.folds, config.seed)
    return join_candidates(_verdicts(Evidence(bench, Contrasts(interval), config, interval)))


def check_case(case: TransferCase) -> None:
    """Refuse what can't be diagnosed.

    Raises:
        UserError: A class is missing on a side, or one has too few groups.
    """
    for side in (case.source, case.target):
        check_every_class(side.y_N, case.head.class_names, side.domain)
        if len(set(side.groups)) < 4:
            raise UserError(f"{side.domain} holds too few groups to learn on some and score on others",
                            value=len(set(side.groups)), allowed="4 or more")  # fmt: skip


def _verdicts(evidence: Evidence) -> tuple[Verdict, ...]:
    """Return the verdict under every candidate scale, the stated one first."""
    candidates = tuple(dict.fromkeys(view.candidate for view in evidence.bench.case.views if "scale" in view.undone))
    return tuple(
        first_cause(evidence, ranking_arms(evidence.bench, candidate), candidate) for candidate in candidates or ("",)
    )


def _gaps(bench: Workbench, evidence: Evidence, interval: IntervalConfig) -> tuple[Score, ...]:
    source = bench.case.source_predictions
    target = bench.arm(bench.margins(bench.case.target.x_ND)).predictions
    out = []
    for metric in METRICS:
        a, b, folds = source, target, (evidence.source_folded, False)
        if metric == "log_loss":
            a, b, folds = target, source, (False, evidence.source_folded)
        out.append(independent_difference(a, b, metric, interval, folds=folds))
    return tuple(out)
