"""The answer of an experiment in plain words, made from its findings alone.

Every number stands with its interval; one that has none is left out, with the reason. What is not shown is not said.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from histotune.statistics.predictions import FULL_COVERAGE
from histotune.tools.marks import (
    DIFFERENCE,
    FLOORS,
    LEAKY,
    MAJORITY,
    NULL_GROUPED,
    NULL_RANDOM,
    PROBE,
    RANDOM_SPLIT,
    TUNED,
    arm_words,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from histotune.evaluation.findings import Finding, PairedDifference, ScoredArm, SweepChoice
    from histotune.statistics.predictions import Interval, Score

SPREAD = ", not a confidence interval"
"""What ends the method of an interval that is a spread of draws."""


def write_answer(findings: tuple[Finding, ...], choices: Sequence[SweepChoice] = ()) -> str:
    """Say what was found: the floor, held-out cases, other magnifications, the leak, the other data set.

    Args:
        findings: The tables.
        choices: What the sweeps chose; their warnings end the answer.

    Returns:
        A few sentences.
    """
    by_id = {finding.id: finding for finding in findings}
    sentences = [write(by_id[name]) for name, write in WRITERS.items() if name in by_id]
    warnings = (f"{choice.trained_on}: {warning}" for choice in choices for warning in choice.warnings)
    return " ".join(filter(None, (*sentences, *warnings)))


def in_words(score: Score) -> str:
    """Return a score as text: "0.842 (95 % interval 0.751 to 0.912)", or why it is missing."""
    if math.isnan(score.value):
        return f"not estimable ({score.reason})"
    if score.interval is None:
        return f"{score.value:.3f} (no interval: {score.reason})"
    return f"{score.value:.3f} ({_range(score.interval)})"


def _range(interval: Interval) -> str:
    """Return the ends of an interval in words; a spread of draws is called what it is."""
    ends = f"{interval.low:.3f} to {interval.high:.3f}"
    if interval.method.endswith(SPREAD):
        return f"{interval.method.removesuffix(SPREAD)}: {ends}"
    short = interval.coverage is not None and interval.coverage < FULL_COVERAGE
    return f"{interval.level:.0%} interval {ends}{f'; simulated coverage {interval.coverage:.0%}' if short else ''}"


# ------------------------------------------------------------------------------
# The strongest floor: what the score is worth. It is chosen by the metric's own value, on the same tiles.


def strongest_floor(finding: Finding, domain: str, metric: str = "auroc") -> ScoredArm | None:
    """Return the floor that scores best in a metric where higher is better; None without a floor.

    Args:
        finding: The table.
        domain: Which tiles.
        metric: The metric on whose scale floors are compared.
    """
    scored = [(row, row.score(metric)) for row in finding.rows if row.arm in FLOORS and row.domain == domain]
    known = [(score.value, row) for row, score in scored if score is not None and not math.isnan(score.value)]
    return max(known, key=lambda pair: pair[0], default=(math.nan, None))[1]


def beats(finding: Finding, probe: ScoredArm, floor: ScoredArm, metric: str = "auroc") -> bool | None:
    """Whether the probe is shown to lie above a floor.

    The paired difference decides. Without one, as with heads that were never trained, the probe's interval must lie
    above the floor's value.

    Returns:
        None where neither can be told.
    """
    paired = _paired(finding, probe.domain, floor.arm, metric)
    if paired is not None and paired.difference.interval is not None:
        return paired.difference.interval.low > 0
    own, other = probe.score(metric), floor.score(metric)
    if own is None or own.interval is None or other is None:
        return None
    return own.interval.low > other.value


def _paired(finding: Finding, domain: str, against: str, metric: str) -> PairedDifference | None:
    name = f"{metric} difference"
    found = (one for one in finding.paired if (one.domain, one.against, one.difference.name) == (domain, against, name))
    return next(found, None)


def _floor(finding: Finding, probe: ScoredArm) -> str:
    """Say whether the probe beats its strongest floor; nothing where there is none, or nothing can be told."""
    floor = strongest_floor(finding, probe.domain)
    if floor is None:
        return ""
    shown, score = beats(finding, probe, floor), _auroc(floor)
    if shown is None or score is None:
        return ""
    reached = f"{score.value:.3f}, which is what chance gives" if floor.arm == MAJORITY else in_words(score)
    paired = _paired(finding, probe.domain, floor.arm, "auroc")
    if paired is None or paired.difference.interval is None:
        less = ""
    else:
        less = f", the probe less this floor being {in_words(paired.difference)}"
    if shown:
        return f"Its strongest floor, {arm_words(floor.arm)}, reaches {reached}{less}."
    return (
        f"The probe is not shown to beat its strongest floor on {probe.domain}, {arm_words(floor.arm)}, which reaches "
        f"AUROC {reached}{less}."
    )


# ------------------------------------------------------------------------------
# A sentence or two for each finding.


def _in_domain(finding: Finding) -> str:
    row = finding.row(PROBE)
    auroc = _auroc(row)
    if row is None or auroc is None:
        return ""
    groups = f" of {auroc.n_groups} cases" if auroc.n_groups else ""
    where = f"{row.domain} ({auroc.n_tiles} tiles{groups})"
    if LEAKY in row.marks:
        cause = "cases on both sides" if auroc.n_groups else "unknown cases, which may stand on both sides"
        found = (
            f"With {cause} of the split ({LEAKY}), AUROC on {where} is {in_words(auroc)}: no estimate for new cases."
        )
    else:
        found = f"On held-out cases of {where} AUROC is {in_words(auroc)}."
    floor = _floor(finding, row)
    # what weighs most comes first: a score that the floor explains is no result
    said = f"{floor} {found}" if floor.startswith("The probe is not shown") else f"{found} {floor}".strip()
    return f"{said} {tuned_words(finding, row)}".strip()


def tuned_words(finding: Finding, probe: ScoredArm) -> str:
    """Say whether fine-tuning helped, hurt or can't be told; nothing where nothing was fine-tuned."""
    tuned, paired = _auroc(finding.row(TUNED, probe.domain)), _paired(finding, probe.domain, TUNED, "auroc")
    if tuned is None:
        return ""
    found = f"Fine-tuned AUROC on {probe.domain} is {in_words(tuned)}"
    if paired is None or paired.difference.interval is None:
        return f"{found}; whether fine-tuning helped can't be told."
    less = in_words(paired.difference)
    if paired.difference.interval.high < 0:
        return f"Fine-tuning helped: {found[0].lower()}{found[1:]}, the probe less this being {less}."
    if paired.difference.interval.low > 0:
        return f"Fine-tuning hurt: {found[0].lower()}{found[1:]}, the probe less this being {less}."
    if paired.difference.value == 0:
        return f"Fine-tuning changed nothing: the probe was kept wherever tuning groups did not bear it out ({less})."
    return f"Whether fine-tuning helped can't be told: {found[0].lower()}{found[1:]}, the probe less this being {less}."


def _leak(finding: Finding) -> str:
    leaky, difference = _auroc(finding.row(RANDOM_SPLIT)), finding.row(DIFFERENCE)
    gap = difference.scores[0] if difference is not None else None
    if leaky is None or gap is None:
        return ""
    shown = gap.interval is not None and gap.interval.low > 0
    sentence = f"A random image split of the same tiles would have claimed {in_words(leaky)}, a difference of"
    sentence += f" {in_words(gap)}{'' if shown else ', which is not shown to be more than none'}."
    null = [_auroc(finding.row(name)) for name in (NULL_GROUPED, NULL_RANDOM)]
    if null[0] is None or null[1] is None:
        return sentence
    return (
        f"{sentence} As a control, labels were permuted among cases, so that nothing but the case can be learned and "
        f"0.5 is expected without a leak: the split by cases gives {in_words(null[0])}, the random image split "
        f"{in_words(null[1])}."
    )


def _magnifications(finding: Finding) -> str:
    rows = [row for row in finding.rows if row.arm == PROBE]
    if not rows:
        return ""
    heads = "the same cross-fitted heads" if any("cross-fitted" in row.trained_on for row in rows) else "the same head"
    whose = "on cases that did not train them"
    if any(LEAKY in row.marks for row in rows):
        known = any(score.n_groups for row in rows for score in row.scores)
        whose = f"with {'cases on both sides' if known else 'unknown cases, which may stand on both sides'} ({LEAKY})"
    parts = ", ".join(f"{row.domain.rpartition(' ')[2]} {_value(row)}" for row in rows)
    levels = dict.fromkeys(f"{one.level:.0%}" for row in rows for score in row.scores if (one := score.interval))
    intervals = f" with {' and '.join(levels)} intervals" if levels else ""
    return f"AUROC by magnification{intervals}, {heads}, {whose}: {parts}."


def _target(finding: Finding) -> str:
    row = finding.row(PROBE)
    auroc = _auroc(row)
    if row is None or auroc is None:
        return ""
    if finding.id == "external":
        found = f"Carried over to {row.domain} as it is, AUROC is {in_words(auroc)}."
    else:
        found = f"Trained on {row.trained_on} directly, AUROC on {row.domain} is {in_words(auroc)}."
    floor = _floor(finding, row)
    return f"{found} {floor}" if floor.startswith("The probe is not shown") else found


def _auroc(row: ScoredArm | None) -> Score | None:
    return row.score("auroc") if row is not None else None


def _value(row: ScoredArm) -> str:
    """Return a magnification's score with its interval; without one, what it was measured on and no number."""
    score = row.score("auroc")
    if score is None or math.isnan(score.value):
        return "not estimable"
    if score.interval is None:
        return f"not told ({score.n_tiles:,} tiles, no interval: {score.reason})"
    return f"{score.value:.3f} ({score.interval.low:.3f} to {score.interval.high:.3f})"


WRITERS = {
    "in-domain": _in_domain,
    "leak-price": _leak,
    "cross-magnification": _magnifications,
    "external": _target,
    "direct": _target,
}
"""What writes the sentence of each finding, in the order of the answer."""
