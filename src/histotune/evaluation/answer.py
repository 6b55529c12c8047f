"""The answer of an experiment in plain words, made from its findings alone."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from histotune.statistics.predictions import FULL_COVERAGE
from histotune.tools.marks import DIFFERENCE, LEAKY, NULL_GROUPED, NULL_RANDOM, PROBE, RANDOM_SPLIT, RANDOM_WEIGHTS

if TYPE_CHECKING:
    from histotune.evaluation.findings import Finding, ScoredArm
    from histotune.statistics.predictions import Score


def write_answer(findings: tuple[Finding, ...]) -> str:
    """Say what was found: held-out cases, other magnifications, the leak, the other data set."""
    by_id = {finding.id: finding for finding in findings}
    return " ".join(filter(None, (write(by_id[name]) for name, write in WRITERS.items() if name in by_id)))


def in_words(score: Score) -> str:
    """Return a score as text: "0.842 (95 % interval 0.751 to 0.912)", or why it is missing."""
    if math.isnan(score.value):
        return f"not estimable ({score.reason})"
    if score.interval is None:
        return f"{score.value:.3f} (no interval: {score.reason})"
    interval = score.interval
    short = interval.coverage is not None and interval.coverage < FULL_COVERAGE
    note = f"; simulated coverage {interval.coverage:.0%}" if short else ""
    return f"{score.value:.3f} ({interval.level:.0%} interval {interval.low:.3f} to {interval.high:.3f}{note})"


def _in_domain(finding: Finding) -> str:
    row = finding.row(PROBE)
    auroc = _auroc(row)
    if row is None or auroc is None:
        return ""
    floor = _auroc(finding.row(RANDOM_WEIGHTS))
    beside = f"; the same network with random weights and its own probe reaches {floor.value:.3f}" if floor else ""
    groups = f" of {auroc.n_groups} cases" if auroc.n_groups else ""
    if LEAKY in row.marks:
        return (
            f"With cases on both sides of the split ({LEAKY}), AUROC on {row.domain} ({auroc.n_tiles} tiles{groups}) "
            f"is {in_words(auroc)}{beside}: no estimate for new cases."
        )
    return f"On held-out cases of {row.domain} ({auroc.n_tiles} tiles{groups}) AUROC is {in_words(auroc)}{beside}."


def _leak(finding: Finding) -> str:
    leaky, difference = _auroc(finding.row(RANDOM_SPLIT)), finding.row(DIFFERENCE)
    gap = difference.scores[0] if difference is not None else None
    if leaky is None or gap is None:
        return ""
    sentence = f"A random image split of the same tiles would have claimed {leaky.value:.3f}: {in_words(gap)} more."
    null = [_auroc(finding.row(name)) for name in (NULL_GROUPED, NULL_RANDOM)]
    if null[0] is None or null[1] is None:
        return sentence
    return (
        f"{sentence} With labels permuted among cases the same two splits give {null[0].value:.3f} and"
        f" {null[1].value:.3f}."
    )


def _magnifications(finding: Finding) -> str:
    rows = [row for row in finding.rows if row.arm == PROBE]
    parts = [f"{row.domain.rpartition(' ')[2]} {_value(row)}" for row in rows]
    cases = f"cases on both sides ({LEAKY})" if any(LEAKY in row.marks for row in rows) else "other cases"
    return f"By magnification, same head, {cases}: {', '.join(parts)}."


def _target(finding: Finding) -> str:
    row = finding.row(PROBE)
    auroc = _auroc(row)
    if row is None or auroc is None:
        return ""
    if finding.id == "external":
        return f"Carried over to {row.domain} as it is, AUROC is {in_words(auroc)}."
    return f"Trained on {row.trained_on} directly, AUROC on {row.domain} is {in_words(auroc)}."


def _auroc(row: ScoredArm | None) -> Score | None:
    return row.score("auroc") if row is not None else None


def _value(row: ScoredArm) -> str:
    score = row.score("auroc")
    return "not estimable" if score is None or math.isnan(score.value) else f"{score.value:.3f}"


WRITERS = {
    "in-domain": _in_domain,
    "leak-price": _leak,
    "cross-magnification": _magnifications,
    "external": _target,
    "direct": _target,
}
"""What writes the sentence of each finding, in the order of the answer."""
