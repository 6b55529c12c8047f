"""The rule that names the first cause, or says that it can't be told.

Ranking comes first: no threshold mends a ranking. It is lost where held-out groups of the source rank better than the
target, or, which shows sooner because it is paired, where a remedy ranks the target better than the head does. A cause
is named only where its interval excludes 0 at a level that is corrected for the tests of the rule, where it is large
enough to matter, and where it can be told from its rivals.

Recoveries of the ranking are tested in log-loss, each side with its own best shift and scale: what is left of it then
is the ranking's, and a paired difference in a proper score shows with fewer groups than one in AUROC.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from histotune.transfer.case import ALIGNMENT, NONE, PHYSICAL, UNTOLD, Verdict
from histotune.transfer.differences import (
    changed_shape,
    independent_difference,
    losing,
    prevalence_differs,
    surely_above,
)
from histotune.transfer.remedies import decision_parts, decision_steps, gain, part_terms, refinement

if TYPE_CHECKING:
    from collections.abc import Sequence

    from histotune.statistics.predictions import Interval, IntervalConfig, Score
    from histotune.transfer.case import DecisionPart, TransferConfig
    from histotune.transfer.corrections import Workbench
    from histotune.transfer.differences import Contrasts
    from histotune.transfer.remedies import RankingArms, Steps

N_TESTS = 8
"""The ranking loss, three remedies of the ranking, three parts of the decision loss, and the shares of the classes."""


@dataclass(frozen=True)
class Evidence:
    """What the rule looks at.

    Attributes:
        bench: The case and its folds.
        contrasts: Makes paired intervals.
        config: What counts as large.
        interval: How intervals are made.
    """

    bench: Workbench
    contrasts: Contrasts
    config: TransferConfig
    interval: IntervalConfig

    @property
    def level(self) -> float:
        """Nominal coverage of the rule's intervals: the error shared by its tests (Bonferroni), all at one end."""
        return 1.0 - 2.0 * self.config.error / N_TESTS

    @property
    def source_folded(self) -> bool:
        """Whether the source's scores come from several heads."""
        return self.bench.case.source_predictions.table["fold"].n_unique() > 1


def first_cause(evidence: Evidence, arms: RankingArms, candidate: str = "") -> Verdict:
    """Name the first cause under one candidate scale."""
    strict = evidence.interval.model_copy(update={"level": evidence.level})
    folds = (evidence.source_folded, False)
    source = evidence.bench.case.source_predictions
    gap = independent_difference(source, arms.plain.predictions, "auroc", strict, folds=folds)
    if gap.interval is None:
        return Verdict(UNTOLD, "", f"the ranking loss has no interval: {gap.reason}", candidate=candidate)
    helps = _helpers(evidence, arms, gap)
    if losing(gap, evidence.config.min_auroc) or helps:
        return _ranking_cause(evidence, arms, helps, candidate)
    if gap.interval.high >= evidence.config.open_auroc:
        reason = f"a ranking loss is not shown, but one of {_at_most(gap.interval)} can't be excluded"
        return Verdict(UNTOLD, "", reason, candidate=candidate)
    return _decision_cause(evidence, arms, gap, candidate)


def join_candidates(verdicts: Sequence[Verdict]) -> Verdict:
    """Return the verdict over all candidate scales."""
    first = verdicts[0]
    if all((verdict.first, verdict.rivals) == (first.first, first.rivals) for verdict in verdicts):
        return first
    named = tuple(dict.fromkeys(name for verdict in verdicts for name in (verdict.rivals or (verdict.first,))))
    words = "; ".join(f"at {verdict.candidate} it is {verdict.first}" for verdict in verdicts)
    reason = f"scale can't be attributed, as the conclusion depends on scales that are not known well enough ({words})"
    return Verdict(UNTOLD, first.kind, reason, rivals=named)


def _ranking_cause(evidence: Evidence, arms: RankingArms, helps: list[str], candidate: str) -> Verdict:
    """Find the remedy that gives the ranking back, and whether it can be told from its rivals."""
    if not helps:
        reason = "no remedy that was tried gives the ranking back"
        return Verdict("other", "ranking", reason, candidate=candidate)
    physical = [name for name in helps if name in PHYSICAL]
    top = physical[0] if physical else helps[0]
    rivals = [name for name in PHYSICAL if name in arms.alone and name != top and _rivals(evidence, arms, name, top)]
    if ALIGNMENT in helps and top != ALIGNMENT and surely_above(_refinement(evidence, arms, ALIGNMENT, top)):
        top, rivals = ALIGNMENT, []  # more than any physical remedy explains
    if rivals:
        return Verdict(UNTOLD, "ranking", "the remedies give back alike", "", candidate, (top, *rivals))
    left = _decision_losses(evidence, decision_steps(evidence.bench, arms.margins[top], fitted=top == ALIGNMENT))
    beside = left[0].cause if left else ""
    reason = "undoing it gives back most of the ranking"
    return Verdict(top, "ranking", reason, beside, candidate)  # type: ignore[arg-type]


def _helpers(evidence: Evidence, arms: RankingArms, gap: Score) -> list[str]:
    """Return the remedies whose recovery is sure, large enough to matter and a fair share of the loss, best first."""
    config, lost = evidence.config, losing(gap, evidence.config.min_auroc)
    back = {
        name: gain(evidence.contrasts, "auroc", arms.alone[name], arms.plain, evidence.level) for name in arms.alone
    }

    def helps(name: str) -> bool:
        """Say whether a correction brings back enough, surely."""
        refined = _refinement(evidence, arms, name, "")
        matters = back[name].value >= config.min_auroc or refined.value >= config.min_log_loss
        sure = surely_above(refined) or (lost and surely_above(back[name]))
        return matters and sure and back[name].value >= config.min_share * gap.value

    return sorted(filter(helps, back), key=lambda name: -back[name].value)


def _refinement(evidence: Evidence, arms: RankingArms, name: str, over: str) -> Score:
    return refinement(evidence.contrasts, arms, name, over, evidence.level)


def _rivals(evidence: Evidence, arms: RankingArms, name: str, top: str) -> bool:
    """Whether a remedy may give back as much as the best: not surely less, nor surely less than a fair share of it."""
    own, best = _refinement(evidence, arms, name, ""), _refinement(evidence, arms, top, "")
    little = own.interval is not None and own.interval.high < evidence.config.min_share * best.value
    return not little and not surely_above(_refinement(evidence, arms, top, name))


def _decision_cause(evidence: Evidence, arms: RankingArms, gap: Score, candidate: str) -> Verdict:
    """Name the largest part of the decision loss, if it can be told from the others."""
    steps = decision_steps(evidence.bench, arms.margins[""])
    found = _decision_losses(evidence, steps)
    if not found:
        return Verdict(NONE, "", _nothing(gap), candidate=candidate)
    top = found[0].cause
    close = [
        part.cause
        for part in found[1:]
        if not _exceeds(evidence, part_terms(steps, top), part_terms(steps, part.cause))
    ]
    if close:
        reason = "several parts of the decision loss are alike in size"
        return Verdict(UNTOLD, "decision", reason, "", candidate, (top, *close))
    explained = _calibrated_by(evidence, arms) if top == "calibration" else ()
    if len(explained) > 1:
        return Verdict(UNTOLD, "decision", "several remedies calibrate alike", "", candidate, explained)
    if explained:
        reason = "aligning the moments, without labels, takes the calibration loss away, and they differ in shape"
        return Verdict(ALIGNMENT, "decision", reason, "", candidate)
    return Verdict(top, "decision", "it is the largest part of the decision loss", "", candidate)


def _decision_losses(evidence: Evidence, steps: Steps) -> list[DecisionPart]:
    """Return the parts that are sure and large enough to matter, largest first.

    Another prevalence is sure also where the shares of the classes show it themselves.
    """
    case, least = evidence.bench.case, evidence.config.min_log_loss
    parts = decision_parts(steps, evidence.contrasts, evidence.level)
    n_classes = len(case.head.class_names)
    other_shares = prevalence_differs(case.source, case.target, n_classes, evidence.level)

    def lost(part: DecisionPart) -> bool:
        """Say whether a part of the decision costs enough."""
        seen = part.cause == "prevalence" and other_shares and part.loss.value >= least
        return seen or losing(part.loss, least)

    return sorted(filter(lost, parts), key=lambda part: -part.loss.value)


def _calibrated_by(evidence: Evidence, arms: RankingArms) -> tuple[str, ...]:
    """Return the remedies without labels that take a calibration loss away, where the alignment is one of them.

    Embeddings that spread by a common factor give a calibration loss that the alignment takes away too: then nothing
    more than the calibration needs to be named.
    """
    bench, config = evidence.bench, evidence.config

    def takes_away(name: str) -> bool:
        """Say whether a correction removes the loss by calibration."""
        recovery = gain(evidence.contrasts, "log_loss", arms.alone[name], arms.plain, evidence.level)
        left = _decision_losses(evidence, decision_steps(bench, arms.margins[name], fitted=name == ALIGNMENT))
        return losing(recovery, config.min_log_loss) and all(part.cause != "calibration" for part in left)

    rng = np.random.default_rng(config.seed)
    if not takes_away(ALIGNMENT) or not changed_shape(bench.case.source, bench.case.target, config.components, rng):
        return ()
    return (ALIGNMENT, *(name for name in PHYSICAL if name in arms.alone and takes_away(name)))


def _exceeds(evidence: Evidence, one: tuple, other: tuple) -> bool:  # type: ignore[type-arg]
    terms = (*one, *((-weight, arm) for weight, arm in other))
    return surely_above(evidence.contrasts.score("log_loss", terms, evidence.level))


def _nothing(gap: Score) -> str:
    most = _at_most(gap.interval) if gap.interval else "any size"
    return f"neither ranking nor decision loses for sure; a loss up to {most} can't be excluded"


def _at_most(interval: Interval) -> str:
    """Return the largest loss that an interval holds, with its level: the rule's tests share one error."""
    return f"{max(interval.high, 0.0):.3f} AUROC (the end of a {100 * interval.level:.4g} % interval)"
