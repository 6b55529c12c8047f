"""The rule that names the first cause, or says that it can't be told.

Ranking comes first: no threshold mends a ranking. It is lost where held-out groups of the source rank better than the
target, or, which shows sooner because it is paired, where a remedy ranks the target better than the head does. A cause
is named only where its interval excludes 0 at a level that is corrected for the tests of the rule, where it is large
enough to matter, and where it can be told from its rivals.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from histotune.evaluation.transfer.contrast import independent_difference, losing
from histotune.evaluation.transfer.decision import decision_parts, decision_steps, part_terms
from histotune.evaluation.transfer.records import ALIGNMENT, NONE, PHYSICAL, UNTOLD, Verdict
from histotune.evaluation.transfer.remedies import gain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from histotune.evaluation.transfer.arms import Workbench
    from histotune.evaluation.transfer.config import TransferConfig
    from histotune.evaluation.transfer.contrast import Contrasts
    from histotune.evaluation.transfer.records import DecisionPart
    from histotune.evaluation.transfer.remedies import RankingArms
    from histotune.statistics.config import IntervalConfig
    from histotune.statistics.records import Score

N_TESTS = 7
"""The ranking loss, three remedies of the ranking, and three parts of the decision loss."""


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
        """Nominal coverage of the rule's intervals: the error shared by its tests (Bonferroni)."""
        return 1.0 - self.config.error / N_TESTS

    @property
    def source_folded(self) -> bool:
        """Whether the source's scores come from several heads."""
        return self.bench.case.source_predictions.table["fold"].n_unique() > 1


def first_cause(evidence: Evidence, arms: RankingArms, candidate: str = "") -> Verdict:
    """Name the first cause under one candidate scale.

    Args:
        evidence: What the rule looks at.
        arms: The head on every version of the target.
        candidate: The candidate scale.

    Returns:
        The verdict.
    """
    strict = evidence.interval.model_copy(update={"level": evidence.level})
    folds = (evidence.source_folded, False)
    source = evidence.bench.case.source_predictions
    gap = independent_difference(source, arms.plain.predictions, "auroc", strict, folds=folds)
    if gap.interval is None:
        return Verdict(UNTOLD, "", f"the ranking loss has no interval: {gap.reason}", candidate=candidate)
    back = {name: _auroc_gain(evidence, arms, name, "") for name in arms.alone}
    if losing(gap, evidence.config.min_auroc) or any(_helps(evidence, score, gap) for score in back.values()):
        return _ranking_cause(evidence, arms, (gap, back), candidate)
    if gap.interval.high >= evidence.config.open_auroc:
        reason = f"a ranking loss is not shown, but one of {gap.interval.high:.3f} AUROC can't be excluded"
        return Verdict(UNTOLD, "", reason, candidate=candidate)
    steps = decision_steps(evidence.bench, arms.margins[""])
    parts = decision_parts(steps, evidence.contrasts, evidence.level)
    found = _named(parts, evidence.config.min_log_loss)
    if not found:
        return Verdict(NONE, "", _nothing(gap), candidate=candidate)
    top = found[0]
    close = [
        part.cause
        for part in found[1:]
        if not _exceeds(evidence, part_terms(steps, top.cause), part_terms(steps, part.cause))
    ]
    if close:
        names = (top.cause, *close)
        return Verdict(UNTOLD, "decision", "several parts of the decision loss are alike in size", "", candidate, names)
    return Verdict(top.cause, "decision", "it is the largest part of the decision loss", "", candidate)


def join_candidates(verdicts: Sequence[Verdict]) -> Verdict:
    """Return the verdict over all candidate scales.

    Args:
        verdicts: One per candidate.

    Returns:
        The common verdict; "can't be told" where the conclusion flips, since then scale can't be attributed.
    """
    first = verdicts[0]
    if all((verdict.first, verdict.rivals) == (first.first, first.rivals) for verdict in verdicts):
        return first
    named = tuple(dict.fromkeys(name for verdict in verdicts for name in (verdict.rivals or (verdict.first,))))
    words = "; ".join(f"at {verdict.candidate} it is {verdict.first}" for verdict in verdicts)
    reason = f"scale can't be attributed, as the conclusion depends on scales that are not known well enough ({words})"
    return Verdict(UNTOLD, first.kind, reason, rivals=named)


def _ranking_cause(
    evidence: Evidence, arms: RankingArms, lost: tuple[Score, dict[str, Score]], candidate: str
) -> Verdict:
    """Find the remedy that gives the ranking back, and whether it can be told from its rivals."""
    gap, back = lost
    helps = sorted((name for name in back if _helps(evidence, back[name], gap)), key=lambda name: -back[name].value)
    physical = [name for name in helps if name in PHYSICAL]
    if not helps:
        reason = "no remedy that was tried gives the ranking back"
        return Verdict("other", "ranking", reason, candidate=candidate)
    top = physical[0] if physical else helps[0]
    rivals = [
        name
        for name in PHYSICAL
        if name in arms.alone and name != top and not _beats(_auroc_gain(evidence, arms, top, name))
    ]
    if ALIGNMENT in helps and top != ALIGNMENT and _beats(_auroc_gain(evidence, arms, ALIGNMENT, top)):
        top, rivals = ALIGNMENT, []  # more than any physical remedy explains
    if rivals:
        return Verdict(UNTOLD, "ranking", "the remedies give back alike", "", candidate, (top, *rivals))
    steps = decision_steps(evidence.bench, arms.margins[top], fitted=top == ALIGNMENT)
    left = _named(decision_parts(steps, evidence.contrasts, evidence.level), evidence.config.min_log_loss)
    beside = left[0].cause if left else ""
    reason = "undoing it gives back most of the ranking"
    return Verdict(top, "ranking", reason, beside, candidate)  # type: ignore[arg-type]


def _helps(evidence: Evidence, back: Score, gap: Score) -> bool:
    """Whether a remedy's recovery is sure, large enough to matter, and a fair share of the loss."""
    return losing(back, max(evidence.config.min_auroc, evidence.config.min_share * gap.value))


def _auroc_gain(evidence: Evidence, arms: RankingArms, name: str, over: str) -> Score:
    before = arms.alone[over] if over else arms.plain
    return gain(evidence.contrasts, "auroc", arms.alone[name], before, evidence.level)


def _named(parts: Sequence[DecisionPart], least: float) -> list[DecisionPart]:
    return sorted((part for part in parts if losing(part.loss, least)), key=lambda part: -part.loss.value)


def _beats(score: Score) -> bool:
    return score.interval is not None and score.interval.low > 0


def _exceeds(evidence: Evidence, one: tuple, other: tuple) -> bool:  # type: ignore[type-arg]
    terms = (*one, *((-weight, arm) for weight, arm in other))
    return _beats(evidence.contrasts.score("log_loss", terms, evidence.level))


def _nothing(gap: Score) -> str:
    high = gap.interval.high if gap.interval else float("nan")
    return f"neither ranking nor decision loses for sure; an AUROC loss up to {max(high, 0.0):.3f} can't be excluded"
