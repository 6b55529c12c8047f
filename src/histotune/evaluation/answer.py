"""The answer of an experiment in plain words, made from its findings alone.

Every number stands with its interval; one that has none is left out, with the reason. What is not shown is not said.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from histotune.datasets.dataset_spec import group_word, group_words
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
    SYNTHETIC,
    TOO_NARROW,
    TUNED,
    arm_words,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from histotune.evaluation.findings import Finding, FindingId, Findings, PairedDifference, ScoredArm, SweepChoice
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


def verdict_sentence(findings: Findings, *, brief: bool = False) -> str:
    """Say in one sentence what was found: whether the probe beats its strongest floor on groups that trained nothing.

    What weakens the number comes before it: a split that leaks, a floor that is not beaten, an interval that is
    refused. Numbers have two decimals, or three where two would say something else.

    Args:
        findings: What a run found.
        brief: Leave out the floor where it is beaten, and what fine-tuning did.

    Returns:
        Plain text on one line, without markup.

    Example:
        >>> from histotune.evaluation.findings import Findings
        >>> verdict_sentence(Findings("A run", "", "lite0", "", (), (), (), "", ""))
        'Nothing was scored.'
    """
    headline = next((found for name in HEADLINES if (found := _headline_of(findings, name)) is not None), None)
    return "Nothing was scored." if headline is None else " ".join(_sentence(headline, brief=brief).split())


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


# ------------------------------------------------------------------------------
# The verdict: one sentence.


HEADLINES: tuple[FindingId, ...] = ("in-domain", "direct", "external")
"""The findings whose probe may be the verdict's, the first that there is."""


@dataclass(frozen=True)
class Headline:
    """What the verdict speaks about.

    Attributes:
        finding: The table.
        probe: Its first row of the probe.
        auroc: The probe's score.
        floor: The strongest floor on the same tiles; None without one.
        classes: The classes, by label index.
        synthetic: Whether the tissue is rendered.
    """

    finding: Finding
    probe: ScoredArm
    auroc: Score
    floor: ScoredArm | None
    classes: tuple[str, ...]
    synthetic: bool


def _headline_of(findings: Findings, name: FindingId) -> Headline | None:
    """Return what the verdict would be made of; None where this finding has no probe."""
    finding = findings.finding(name)
    probe = None if finding is None else finding.row(PROBE)
    auroc = _auroc(probe)
    if finding is None or probe is None or auroc is None:
        return None
    facts = findings.dataset_of(probe.domain)
    classes = () if facts is None else facts.class_names
    synthetic = SYNTHETIC in probe.marks or (facts is not None and facts.synthetic)
    return Headline(finding, probe, auroc, strongest_floor(finding, probe.domain), classes, synthetic)


def _sentence(headline: Headline, *, brief: bool) -> str:
    """Put the parts in order: what weakens the number first, then the number, then what fine-tuning did."""
    score, where = headline.auroc, _where(headline)
    if math.isnan(score.value):
        return f"No AUROC could be computed on {where}: {score.reason or 'no reason was recorded'}."
    tuned = "" if brief else _tuning_clause(headline)
    if LEAKY in headline.probe.marks:
        word = group_word(headline.probe.domain)
        cause = f"{word}s stand" if score.n_groups else f"unknown {word}s may stand"
        number = f"AUROC {_value_words(headline)} on {where}"
        return f"No estimate for new {word}s: {cause} on both sides of this split (LEAKY), which gave {number}{tuned}."
    if score.interval is None:
        return (
            f"How sure this is can't be told ({score.reason or 'no reason was recorded'}): the probe {_task(headline)} "
            f"with AUROC {_value_words(headline)} on {where}{tuned}."
        )
    floor = _floor_words(headline)
    shown = None if headline.floor is None else beats(headline.finding, headline.probe, headline.floor)
    found = f"AUROC {_value_words(headline)} on {where}"
    if shown:
        above = "" if brief else f", above its strongest floor, {floor}"
        return f"The probe {_task(headline)} with {found}{above}{tuned}."
    if shown is None:
        beside = "" if headline.floor is None else ", and whether it beats a floor can't be told"
        return f"The probe {_task(headline)} with {found}{beside}{tuned}."
    return f"The probe is not shown to beat its strongest floor, {floor}: it reaches {found}{tuned}."


def _where(headline: Headline) -> str:
    """Return what was scored, "24 held-out cases (480 tiles) of breakhis 100X"."""
    score, domain = headline.auroc, headline.probe.domain
    n = group_words(domain, score.n_groups)
    held = n if LEAKY in headline.probe.marks or not score.n_groups else n.replace(" ", " held-out ", 1)
    tissue = f"{SYNTHETIC} " if headline.synthetic else ""
    return f"{held} ({score.n_tiles:,} tile{'' if score.n_tiles == 1 else 's'}) of {tissue}{domain}"


def _task(headline: Headline) -> str:
    """Say what the probe does with the classes."""
    names = headline.classes
    if len(names) == 2:
        return f"tells {names[1]} from {names[0]}"
    return f"tells {len(names)} classes apart" if names else "tells the classes apart"


def _value_words(headline: Headline) -> str:
    """Return the score with its interval and what must be known to read it."""
    score = headline.auroc
    floor = None if headline.floor is None else _auroc(headline.floor)
    n_decimals = _decimals(score.value, *(() if floor is None else (floor.value,)))
    return _with_interval(score, n_decimals, too_narrow=TOO_NARROW in headline.probe.marks)


def _with_interval(score: Score, n_decimals: int, *, too_narrow: bool = False) -> str:
    value, interval = f"{score.value:.{n_decimals}f}", score.interval
    if interval is None:
        return value
    level = f"{interval.level * 100:g} % interval"
    notes = [f"{level} {_end(interval.low, n_decimals)} to {_end(interval.high, n_decimals)}"]
    if interval.coverage is not None and interval.coverage < FULL_COVERAGE:
        notes.append(f"simulated coverage {interval.coverage * 100:.0f} %")
    if too_narrow:
        notes.append(f"{TOO_NARROW}: made as if tiles were independent")
    return f"{value} ({'; '.join(notes)})"


def _end(value: float, n_decimals: int) -> str:
    text = f"{value:.{n_decimals}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def _decimals(*values: float) -> int:
    """Return how many decimals keep values apart from each other and from 1, which two decimals may not."""
    known = [value for value in values if not math.isnan(value)]
    two = [f"{value:.2f}" for value in known]
    perfect = any(text == "1.00" and value < 1 for text, value in zip(two, known, strict=True))
    return 3 if perfect or len(set(two)) < len(set(known)) else 2


def _floor_words(headline: Headline) -> str:
    """Return the strongest floor with its score, "colour histogram + probe (0.60)"."""
    score = None if headline.floor is None else _auroc(headline.floor)
    if headline.floor is None or score is None:
        return "none"
    n_decimals = _decimals(headline.auroc.value, score.value)
    return f"{arm_words(headline.floor.arm)} ({score.value:.{n_decimals}f})"


def _tuning_clause(headline: Headline) -> str:
    """Say whether fine-tuning helped; nothing where nothing was fine-tuned."""
    tuned = _auroc(headline.finding.row(TUNED, headline.probe.domain))
    if tuned is None:
        return ""
    paired = _paired(headline.finding, headline.probe.domain, TUNED, "auroc")
    number = _with_interval(tuned, _decimals(headline.auroc.value, tuned.value))
    if paired is None or paired.difference.interval is None:
        return f"; whether fine-tuning helped can't be told (it gives {number})"
    if paired.difference.interval.high < 0:
        return f"; fine-tuning helped: {number}"
    if paired.difference.interval.low > 0:
        return f"; fine-tuning hurt: {number}"
    if paired.difference.value == 0:
        return "; fine-tuning changed nothing, the probe was kept"
    return f"; whether fine-tuning helped can't be told: it gives {number}"
