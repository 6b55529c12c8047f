"""The first screen and the short sections of a report: ten questions, each answered in a sentence from the findings.

Nothing is computed here. A sentence quotes scores that the findings hold, rounded to two decimals; what is not shown is
not said. ``docs/report-questions.md`` lists the questions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from histotune.datasets.dataset_spec import group_word, group_words
from histotune.evaluation.answer import beats, strongest_floor, verdict_sentence
from histotune.report.charts import (
    BLUE,
    GREEN,
    GREY,
    PURPLE,
    VERMILLION,
    DrawnEstimate,
    Figure,
    Forest,
    ForestRow,
    Look,
)
from histotune.report.words import count, is_trained_domain
from histotune.statistics.predictions import FULL_COVERAGE
from histotune.tools.marks import LEAKY, PROBE, RANDOM_SPLIT, TUNED, short_words

if TYPE_CHECKING:
    from collections.abc import Iterator

    from histotune.evaluation.findings import Finding, Findings, PairedDifference, ScoredArm
    from histotune.statistics.predictions import Score

FEW = 50
"""Below so many cases a reader is told that they are few."""


@dataclass(frozen=True)
class FirstScreen:
    """What is understood in ten seconds.

    Attributes:
        data: Which data, how many tiles of how many cases.
        verdict: How good, with its interval.
        sureness: How sure, and what it is worth.
        headline: Everything that was scored, in one figure; None where nothing was.
        next_step: What to do next.
        limits: What must be known before the numbers are used, one sentence each.
    """

    data: str
    verdict: str
    sureness: str
    headline: Figure | None
    next_step: str
    limits: tuple[str, ...]


def first_screen(findings: Findings, overlap: str = "") -> FirstScreen:
    """Return the first screen of a run.

    Args:
        findings: What the run found.
        overlap: Known overlap of the backbone's pretraining data with these data.

    Returns:
        Its sentences and its figure.
    """
    main = main_finding(findings)
    return FirstScreen(
        data=_data(findings),
        verdict=verdict_sentence(findings, brief=True),
        sureness=_sureness(main, findings),
        headline=headline_figure(findings),
        next_step=_next_step(main, findings),
        limits=tuple(_limits(main, findings, overlap)),
    )


def main_finding(findings: Findings) -> Finding | None:
    """Return the finding that the verdict is about: held-out cases, else direct training."""
    return next((one for name in ("in-domain", "direct") if (one := findings.finding(name)) is not None), None)


def probe_of(finding: Finding | None) -> tuple[ScoredArm, Score] | None:
    """Return a finding's first probe with its AUROC; None where there is none."""
    row = None if finding is None else finding.row(PROBE)
    score = None if row is None else row.score("auroc")
    return None if row is None or score is None else (row, score)


def unit_of(findings: Findings, domain: str) -> str:
    """Return what may not stand on both sides of a split of these tiles: "cases", "slides", "groups"."""
    dataset = findings.dataset_of(domain)
    return f"{group_word(dataset.name if dataset is not None else domain)}s"


def sample_of(domain: str, score: Score) -> str:
    """Return on what a score was measured, "180 tiles of 30 cases"."""
    return f"{count(score.n_tiles)} tile{'' if score.n_tiles == 1 else 's'} of {group_words(domain, score.n_groups)}"


def two(value: float) -> str:
    """Return two decimals with a true minus sign.

    Example:
        >>> two(0.848), two(-0.004), two(-0.5)
        ('0.85', '0.00', '−0.50')
    """
    text = f"{value:.2f}".replace("-", "−")
    return "0.00" if float(f"{value:.2f}") == 0 else text


def told(score: Score | None) -> str:
    """Return a score in a sentence, "0.85 (95 % interval 0.62 to 0.94)", or why it is missing."""
    if score is None:
        return "not computed"
    if math.isnan(score.value):
        return f"not estimable ({score.reason})"
    if score.interval is None:
        return f"{two(score.value)} (no interval: {score.reason})"
    level = f"{score.interval.level * 100:g}\u00a0% interval"
    return f"{two(score.value)} ({level} {two(score.interval.low)} to {two(score.interval.high)})"


def briefly(score: Score | None) -> str:
    """Return a score among its likes, "0.85 (0.62 to 0.94)"."""
    if score is None or math.isnan(score.value):
        return "not estimable"
    if score.interval is None:
        return "no interval"
    return f"{two(score.value)} ({two(score.interval.low)} to {two(score.interval.high)})"


def paired_with(finding: Finding, domain: str, against: str, metric: str = "auroc") -> PairedDifference | None:
    """Return the probe less another arm on some tiles, or None."""
    wanted = (domain, against, f"{metric} difference")
    return next((one for one in finding.paired if (one.domain, one.against, one.difference.name) == wanted), None)


# ------------------------------------------------------------------------------
# The sentences.


def _data(findings: Findings) -> str:
    parts = []
    for finding in findings.findings:
        probe = probe_of(finding) if finding.id in ("in-domain", "external", "direct") else None
        if probe is not None:
            row, score = probe
            parts.append(f"{row.domain}: {sample_of(row.domain, score)}")
    return "; ".join(dict.fromkeys(parts)) or "nothing was scored"


def _floor_words(floor: ScoredArm) -> str:
    score = floor.score("auroc")
    reached = "" if score is None else f" (AUROC {two(score.value)})"
    return f"its strongest floor, {short_words(floor.arm)}{reached}"


def _sureness(main: Finding | None, findings: Findings) -> str:
    """Say on how much it rests, whether it beats its strongest floor, and where the interval itself falls short."""
    probe = probe_of(main)
    if main is None or probe is None:
        return ""
    row, score = probe
    units = unit_of(findings, row.domain)
    few = 0 < score.n_groups < FEW
    sentences = [f"{count(score.n_groups)} {units} are few, which is why the interval is wide." if few else ""]
    floor = strongest_floor(main, row.domain)
    pair = None if floor is None else paired_with(main, row.domain, floor.arm)
    if floor is not None and beats(main, row, floor):
        gain = f", by {briefly(pair.difference)}" if pair and pair.difference.interval else ""
        sentences.append(f"It is shown to beat {_floor_words(floor)}{gain}.")
    interval = score.interval
    if interval is not None and interval.coverage is not None and interval.coverage < FULL_COVERAGE:
        share = f"{interval.coverage * 100:.0f}\u00a0%"
        sentences.append(f"With so many {units}, such intervals held the truth in {share} of simulated cohorts.")
    return " ".join(filter(None, sentences))


def _next_step(main: Finding | None, findings: Findings) -> str:
    """Return the one thing that would change most, from what was found."""
    probe = probe_of(main)
    if main is None or probe is None:
        return "Next: give a data set with labels and groups; histotune run --help shows how."
    row, score = probe
    units, floor = unit_of(findings, row.domain), strongest_floor(main, row.domain)
    carried, direct = (probe_of(findings.finding(name)) for name in ("external", "direct"))
    if LEAKY in row.marks:
        step = f"name the column that says which tiles belong together, so that whole {units} are held out"
    elif floor is not None and beats(main, row, floor) is False:
        step = f"add {units}, or try another backbone; tuning further on these {units} would fit noise"
    elif carried is not None and direct is not None and _is_below(carried[1], direct[1]):
        step = f"find out why it loses on {carried[0].domain}: histotune transfer names what would mend it"
    elif 0 < score.n_groups < FEW:
        step = f"add {units}; with {count(score.n_groups)} of them the interval can't become much narrower"
    elif main.row(TUNED) is None:
        step = "see whether fine-tuning adds to the probe: histotune finetune"
    else:
        step = "score the final head once on the test split: --final"
    return f"Next: {step}."


def _is_below(one: Score, other: Score) -> bool:
    """Whether an interval lies below another as a whole."""
    return one.interval is not None and other.interval is not None and one.interval.high < other.interval.low


def _limits(main: Finding | None, findings: Findings, overlap: str) -> Iterator[str]:
    probe = probe_of(main)
    if probe is not None:
        row, score = probe
        units = unit_of(findings, row.domain)
        if not score.n_groups:
            yield f"It is unknown which tiles belong to one {units[:-1]}: intervals take every tile for independent."
        elif score.n_groups < FEW:
            yield f"Only {count(score.n_groups)} {units} were scored; rare kinds of tissue may not be among them."
        prevalence = row.score("auprc")
        if prevalence is not None and math.isfinite(prevalence.chance):
            yield (
                f"The share of the second class among the scored tiles is {two(prevalence.chance)}; where it is "
                "another, predictive values differ."
            )
        if math.isnan(row.input_mpp):
            yield "The scale of the tiles is unknown, so nothing can be said about tiles of another scale."
    if overlap:
        yield f"The backbone may have seen these data: {overlap.rstrip('.')}."
    for dataset in findings.datasets:
        if dataset.n_skipped:
            yield f"{dataset.name}: {count(dataset.n_skipped)} unreadable tiles were left out."
    yield "Held-out cases of the same collection are easier than cases of another laboratory, scanner or stain."


# ------------------------------------------------------------------------------
# The headline: everything that was scored, in one forest.


PROBE_LOOK, FLOOR_LOOK = Look(BLUE, "disc"), Look(GREY, "circle")
TUNED_LOOK, RANDOM_LOOK, DIRECT_LOOK = Look(PURPLE, "disc"), Look(VERMILLION, "square"), Look(GREEN, "diamond")


def headline_figure(findings: Findings) -> Figure | None:
    """Draw AUROC of the probe, its strongest floor, a random split's claim, every magnification and data set."""
    rows = tuple(_headline_rows(findings))
    known = [value for row in rows for value in row.estimate.known]
    if not known:
        return None
    lines = "; ".join(
        f"{row.section + ': ' if row.section else ''}{row.label} {row.estimate} ({row.n})" for row in rows
    )
    axis = (math.floor(min([0.4, *known]) * 10) / 10 - 0.02, 1.02)
    chart = Forest(
        "AUROC", f"AUROC of everything that was scored: {lines}.", findings.synthetic, rows, axis, 0.5, "chance"
    )
    caption = (
        "AUROC with its interval: how often a tile of one class is ranked above a tile of the other. Dashed: chance. "
        f"{LEAKY}: tiles of one case stood on both sides, so it says nothing about new cases."
    )
    return Figure("headline", (chart,), caption)


def _headline_rows(findings: Findings) -> Iterator[ForestRow]:
    main = findings.finding("in-domain")
    probe = probe_of(main)
    if main is not None and probe is not None:
        row = probe[0]
        units = unit_of(findings, row.domain)
        yield _row(findings, row, f"probe, {row.domain}", PROBE_LOOK, f"On held-out {units}", strong=True)
        tuned, floor = main.row(TUNED, row.domain), strongest_floor(main, row.domain)
        if tuned is not None:
            yield _row(findings, tuned, short_words(TUNED), TUNED_LOOK, strong=True)
        if floor is not None:
            yield _row(findings, floor, f"floor: {short_words(floor.arm)}", FLOOR_LOOK)
    leak = findings.finding("leak-price")
    random_split = None if leak is None else leak.row(RANDOM_SPLIT)
    if random_split is not None:
        said = "What a random image split would have claimed"
        yield _row(findings, random_split, f"random split, {LEAKY}", RANDOM_LOOK, said)
    others = findings.finding("cross-magnification")
    section = "At other magnifications"
    for row in () if others is None else others.rows:
        if row.arm == PROBE and not is_trained_domain(row):
            yield _row(findings, row, row.domain.rpartition(" ")[2], PROBE_LOOK, section)
            section = ""
    yield from _target_rows(findings)


def _target_rows(findings: Findings) -> Iterator[ForestRow]:
    for name, label, look in (("external", "carried over", PROBE_LOOK), ("direct", "trained there", DIRECT_LOOK)):
        finding = findings.finding(name)  # type: ignore[arg-type]
        probe = probe_of(finding)
        if finding is None or probe is None:
            continue
        row = probe[0]
        section = f"On {row.domain}" if name == "external" or findings.finding("external") is None else ""
        yield _row(findings, row, label, look, section, strong=True)
        floor = strongest_floor(finding, row.domain)
        if floor is not None and name == "external":
            yield _row(findings, floor, f"floor: {short_words(floor.arm)}", FLOOR_LOOK)


def _row(
    findings: Findings, row: ScoredArm, label: str, look: Look, section: str = "", *, strong: bool = False
) -> ForestRow:
    score = row.score("auroc")
    if score is None:
        return ForestRow(label, "", DrawnEstimate(math.nan), look, strong, section)
    return ForestRow(label, sample_of(row.domain, score), DrawnEstimate.of(score), look, strong, section)
