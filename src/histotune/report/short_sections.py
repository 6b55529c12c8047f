"""The short sections of a report: each a question, its answer in a sentence, a figure, a small table, what follows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from histotune.evaluation.answer import strongest_floor
from histotune.report.charts import Figure
from histotune.report.figures import external_figure, leak_figure, magnification_figure, ranking_figure
from histotune.report.story import (
    briefly,
    main_finding,
    paired_with,
    probe_of,
    sample_of,
    told,
    two,
    unit_of,
)
from histotune.report.words import count, format_interval, is_difference, is_trained_domain, metric_score, number
from histotune.statistics.predictions import IntervalConfig, Predictions
from histotune.tools.marks import (
    FLOORS,
    LEAKY,
    MAJORITY,
    NULL_GROUPED,
    NULL_RANDOM,
    PROBE,
    RANDOM_SPLIT,
    SYNTHETIC,
    TUNED,
    VARIED,
    short_words,
)
from histotune.tools.table import Table, columns_of, rows_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from histotune.evaluation.findings import Findings, PairedDifference, ScoredArm
    from histotune.report.run_folder import ReportInputs
    from histotune.statistics.predictions import Score

MOST_CASES = 12
"""Rows of the table of cases with most errors."""


@dataclass(frozen=True)
class Section:
    """One short section.

    Attributes:
        id: Its anchor.
        question: What a reader asks.
        answer: The sentence that answers it; it stands in the title.
        why: What stands below the title: a reason or a caution; may be empty.
        figure: One figure, or None.
        table: At most five columns, or None.
        so_what: What follows from it.
    """

    id: str
    question: str
    answer: str
    why: str
    figure: Figure | None
    table: Table | None
    so_what: str


def short_sections(inputs: ReportInputs) -> tuple[Section, ...]:
    """Return the sections that a run has something to say in."""
    findings = inputs.findings
    made = (
        trust_section(findings),
        new_cases_section(inputs),
        magnification_section(findings),
        other_data_section(inputs),
        tuning_section(inputs),
        errors_section(inputs),
    )
    return tuple(section for section in made if section is not None)


def arm_table(title: str, rows: Iterable[tuple[str, ScoredArm]]) -> Table:
    """Return arms with AUROC, balanced accuracy and what they were measured on."""
    cells = []
    for label, row in rows:
        scores = [metric_score(row, name) for name in ("auroc", "balanced_accuracy")]
        first = next((one for one in scores if one is not None), None)
        marks = [mark for mark in row.marks if mark != SYNTHETIC]
        named = f"{label} ({', '.join(marks)})" if marks else label
        n = "" if first is None else sample_of(row.domain, first)
        cells.append((named, *(cell_text(one, signed=is_difference(row)) for one in scores), n))
    return Table(title, columns_of(("", "AUROC", "Balanced accuracy", "Measured on")), rows_of(cells))


def cell_text(score: Score | None, *, signed: bool = False) -> str:
    """Return a score in a small table, "0.848 [0.619, 0.944]"."""
    if score is None or math.isnan(score.value):
        return "not estimable"
    value = number(score.value, signed=signed)
    return value if score.interval is None else f"{value} {format_interval(score.interval)}"


# ------------------------------------------------------------------------------
# Can I trust the split? How good on new cases?


def trust_section(findings: Findings) -> Section | None:
    """Say whether whole cases were held out, and what a random image split would have claimed."""
    main = main_finding(findings)
    probe = probe_of(main)
    if main is None or probe is None:
        return None
    row, score = probe
    units = unit_of(findings, row.domain)
    if LEAKY in row.marks:
        known = (
            f"{units} stand on both sides of it"
            if score.n_groups
            else f"it is unknown which tiles are of one {units[:-1]}"
        )
        answer = f"No: {known}. The score says nothing about new {units}."
    else:
        answer = f"Yes: every tile was scored by a head that never saw its {units[:-1]}."
    leak = findings.finding("leak-price")
    figure = None if leak is None else leak_figure(leak, findings)
    if figure is not None:
        figure = Figure(figure.name, figure.charts[:1], figure.caption)
    rows = [] if leak is None else [(_leak_label(one), one) for one in leak.rows]
    table = arm_table("The same tiles under both splits", rows) if rows else None
    answer = f"{answer} {_claim(findings)}"
    so_what = _leak_so_what(findings, units)
    return Section("trust", "Can I trust the split?", answer, _control(findings), figure, table, so_what)


def _leak_label(row: ScoredArm) -> str:
    if is_difference(row):
        return "difference, random less grouped"
    return {PROBE: "whole cases held out", RANDOM_SPLIT: "random images held out"}.get(row.arm, row.arm)


def _gap(findings: Findings) -> Score | None:
    leak = findings.finding("leak-price")
    row = None if leak is None else next((one for one in leak.rows if is_difference(one)), None)
    return None if row is None else metric_score(row, "auroc")


def _claim(findings: Findings) -> str:
    leak = findings.finding("leak-price")
    row = None if leak is None else leak.row(RANDOM_SPLIT)
    gap = _gap(findings)
    if row is None or gap is None:
        return "What a random image split would have claimed was not measured."
    claimed = f"A random image split would have claimed {two_of(row.score('auroc'))}"
    if gap.interval is not None and gap.interval.low > 0:
        return f"{claimed}, too high by {briefly(gap)}."
    return f"{claimed}, the difference being {briefly(gap)}, which is not shown to be more than none."


def two_of(score: Score | None) -> str:
    """Return a score's value alone, where its interval stands beside it in the figure."""
    return "nothing" if score is None or math.isnan(score.value) else two(score.value)


def _control(findings: Findings) -> str:
    leak = findings.finding("leak-price")
    nulls = [None if leak is None else leak.row(name) for name in (NULL_GROUPED, NULL_RANDOM)]
    scores = [None if row is None else row.score("auroc") for row in nulls]
    if scores[0] is None or scores[1] is None:
        return ""
    return (
        "As a control, labels were shuffled among cases, so that 0.5 is expected and anything above it is leakage: "
        f"with whole cases held out AUROC is {two_of(scores[0])}, with random images {two_of(scores[1])}."
    )


def _leak_so_what(findings: Findings, units: str) -> str:
    gap = _gap(findings)
    if gap is None or gap.interval is None:
        return f"Quote only scores of held-out {units}."
    if gap.interval.low > 0:
        return f"Scores from random image splits of such data can't be compared with this one: they know the {units}."
    return f"Quote the score of held-out {units}: here a random split is not shown to claim more, elsewhere it may."


def new_cases_section(inputs: ReportInputs) -> Section | None:
    """Say how good the probe is on new cases, and what it recognises of each class."""
    findings = inputs.findings
    main = main_finding(findings)
    probe = probe_of(main)
    if main is None or probe is None:
        return None
    row, score = probe
    units = unit_of(findings, row.domain)
    rates = [] if row.decisions is None else list(row.decisions.rates)
    recognised = ", ".join(f"{briefly(one.sensitivity)} of {one.name}" for one in rates)
    said = f"; of all tiles it recognises {recognised}" if rates else ""
    arms = [one for one in main.rows if one.domain == row.domain and one.arm in (PROBE, TUNED, VARIED, *FLOORS)]
    ordered = sorted(arms, key=lambda one: one.arm in FLOORS)
    table = arm_table("The probe and its floors on the same tiles", [(short_words(one.arm), one) for one in ordered])
    floor = strongest_floor(main, row.domain)
    pair = None if floor is None else paired_with(main, row.domain, floor.arm)
    so_what = "What a floor reaches owes nothing to the backbone."
    if floor is not None and pair is not None and pair.difference.interval is not None:
        gain = briefly(pair.difference)
        so_what = f"The backbone's own share is what lies above {short_words(floor.arm)}: AUROC {gain}, by {units}."
    figure = ranking_figure(main, findings, inputs.artifacts, _interval_settings(inputs))
    answer = f"AUROC {told(score)}{said}."
    return Section("new-cases", f"How good is it on new {units}?", answer, "", figure, table, so_what)


def _interval_settings(inputs: ReportInputs) -> IntervalConfig:
    """Return how the run's intervals were made."""
    saved = inputs.config.get("interval")
    return IntervalConfig.model_validate(saved if isinstance(saved, dict) else {})


# ------------------------------------------------------------------------------
# Does it carry: to other magnifications, to the other data set?


def magnification_section(findings: Findings) -> Section | None:
    """Say at which other magnifications the probe still ranks."""
    finding = findings.finding("cross-magnification")
    rows = [] if finding is None else [row for row in finding.rows if row.arm == PROBE]
    others = [row for row in rows if not is_trained_domain(row)]
    if finding is None or not others:
        return None
    answer = "; ".join(f"{_last(row)}: {_carries(row.score('auroc'))}" for row in others)
    scales = ", ".join(f"{_last(row)} {row.input_mpp:.2f}" for row in rows if math.isfinite(row.input_mpp))
    why = (
        f"The network sees tissue at (um/px): {scales}. What it learned at one scale it need not know at another."
        if scales
        else ""
    )
    figure = magnification_figure(finding, findings)
    if figure is not None:
        figure = Figure(figure.name, figure.charts[:1], figure.caption)
    labelled = [(f"{_last(row)}{', trained here' if is_trained_domain(row) else ''}", row) for row in rows]
    failing = [_last(row) for row in others if not _is_shown(row.score("auroc"))]
    so_what = (
        f"At {' and '.join(failing)} it is not shown to rank better than chance: train there, or leave it out."
        if failing
        else "It ranks at every magnification; its threshold was chosen at one of them, so check decisions before use."
    )
    table = arm_table("The same heads at every magnification", labelled)
    return Section(
        "magnifications", "Does it carry to other magnifications?", f"{answer}.", why, figure, table, so_what
    )


def _last(row: ScoredArm) -> str:
    return row.domain.rpartition(" ")[2]


def _is_shown(score: Score | None) -> bool:
    return score is not None and score.interval is not None and score.interval.low > 0.5


def _carries(score: Score | None) -> str:
    found = briefly(score)
    if score is None or score.interval is None:
        return found
    return found if score.interval.low > 0.5 else f"not shown to beat chance, {found}"


def other_data_section(inputs: ReportInputs) -> Section | None:
    """Say how the probe does on another data set, and why it falls short, as far as that is known."""
    findings = inputs.findings
    external, direct = findings.finding("external"), findings.finding("direct")
    carried, trained = probe_of(external), probe_of(direct)
    if external is None or carried is None:
        return None
    row, score = carried
    name = row.domain.rpartition(" ")[0] or row.domain
    answer = f"Carried over as it is: AUROC {told(score)}."
    if trained is not None:
        answer += f" A head trained there reaches {told(trained[1])}."
    figure = external_figure(external, findings)
    if figure is not None:
        figure = Figure(figure.name, figure.charts[:1], figure.caption)
    here = [one for one in external.rows if one.domain == row.domain and one.arm != MAJORITY]
    rows = [("carried over" if one.arm == PROBE else short_words(one.arm), one) for one in here]
    if direct is not None and trained is not None:
        rows.append(("trained there", trained[0]))
    table = arm_table(f"Arms on {row.domain}", rows)
    so_what = "A threshold chosen on one data set rarely holds on another: choose it anew on labelled tiles there."
    question = f"Does it carry to {name}, and why not?"
    return Section("other-data", question, answer, _why_not(inputs, row), figure, table, so_what)


def _why_not(inputs: ReportInputs, row: ScoredArm) -> str:
    """Quote the first sentences of a diagnosis that was added; without one, what is known and how to find out."""
    for added in inputs.added.transfers:
        if added.found.target in (row.domain, row.domain.rpartition(" ")[0]):
            return f"Diagnosis: {added.found.paragraph.partition('. ')[0].rstrip('.')}. All of it stands below."
    source = probe_of(inputs.findings.finding("in-domain"))
    known = []
    if source is not None and math.isfinite(source[0].input_mpp) and math.isfinite(row.input_mpp):
        known.append(f"the network sees {source[0].input_mpp:.2f} um/px there in training and {row.input_mpp:.2f} here")
    external = inputs.findings.finding("external")
    labels = next((note for note in (external.notes if external else ()) if note.startswith("The labels differ")), "")
    said = f"Known differences: {'; '.join(known)}. " if known else ""
    return (
        f"{said}{labels} Which of them costs how much is told by: histotune transfer RUN DATASET --data DIR, then "
        "histotune report RUN --add FOLDER."
    ).strip()


# ------------------------------------------------------------------------------
# Did fine-tuning help? What does it get wrong?


def tuning_section(inputs: ReportInputs) -> Section | None:
    """Say whether fine-tuning helped, hurt or can't be told, everywhere it was scored, and what it cost."""
    findings = inputs.findings
    main = main_finding(findings)
    probe = probe_of(main)
    tuned = None if main is None or probe is None else main.row(TUNED, probe[0].domain)
    if main is None or probe is None or tuned is None:
        return None
    pair = paired_with(main, probe[0].domain, TUNED)
    rows = [
        (f"{short_words(row.arm)}, {row.domain}", row)
        for finding in findings.findings
        if finding.id != "leak-price"
        for row in finding.rows
        if row.arm in (PROBE, TUNED, VARIED) and finding.row(TUNED, row.domain) is not None
    ]
    unique = list({(label, row.trained_on): (label, row) for label, row in rows}.values())
    choice = findings.tuned
    cost = inputs.provenance.get("fine-tuning")
    seconds = cost.get("seconds") if isinstance(cost, dict) else None
    said = [f"Method: {choice.method}; {choice.reason}."] if choice is not None else []
    said += [f"It took {seconds} s."] if seconds is not None else []
    table = arm_table("Probe and fine-tuned model, side by side", unique)
    answer, so_what = _helped(tuned, pair), _tuning_so_what(pair)
    return Section("fine-tuning", "Did fine-tuning help?", answer, " ".join(said), None, table, so_what)


def _helped(tuned: ScoredArm, pair: PairedDifference | None) -> str:
    found = f"AUROC of what it returns is {told(tuned.score('auroc'))}"
    if pair is None or pair.difference.interval is None:
        return f"It can't be told: {found}, and no paired interval could be made."
    less, interval = briefly(pair.difference), pair.difference.interval
    verdict = "It helped" if interval.high < 0 else "It hurt" if interval.low > 0 else "It can't be told"
    return f"{verdict}: {found}, the probe less this being {less}."


def _tuning_so_what(pair: PairedDifference | None) -> str:
    if pair is not None and pair.difference.interval is not None and pair.difference.interval.high < 0:
        return "Hand over the fine-tuned model, with its backbone."
    return "Hand over the probe: it is smaller, and nothing shows that tuning adds to it."


def errors_section(inputs: ReportInputs) -> Section | None:
    """Say how many tiles are wrong, and in which cases."""
    findings = inputs.findings
    main = main_finding(findings)
    probe = probe_of(main)
    decisions = None if probe is None else probe[0].decisions
    if main is None or probe is None or decisions is None:
        return None
    row = probe[0]
    units = unit_of(findings, row.domain)
    parts = [
        f"{count(sum(counts) - counts[k])} of {count(sum(counts))} {name} tiles are called something else"
        for k, (name, counts) in enumerate(zip(decisions.class_names, decisions.counts, strict=True))
    ]
    table = cases_table(inputs, row, units)
    question = f"What does it get wrong, {units[:-1]} by {units[:-1]}?"
    so_what = f"Errors that sit in few {units} are about these {units}; look at their tiles below."
    return Section("errors", question, f"{'; '.join(parts)}.", "", None, table, so_what)


def cases_table(inputs: ReportInputs, row: ScoredArm, units: str) -> Table | None:
    """Return the cases with most errors: their class, their tiles, how many are wrong."""
    table = inputs.artifacts.predictions
    own = table.filter(
        (pl.col("arm") == PROBE) & (pl.col("domain") == row.domain) & pl.col("group_id").is_not_null()
        & pl.col("finding").is_in(("in-domain", "direct"))
    )  # fmt: skip
    decisions = row.decisions
    if own.is_empty() or decisions is None:
        return None
    names = decisions.class_names
    said = Predictions(own, names).predicted_N
    counted = (
        own.with_columns(wrong=pl.Series(said) != pl.col("y_true"))
        .group_by("group_id")
        .agg(pl.len(), pl.col("wrong").sum(), pl.col("y_true").unique().sort())
        .filter(pl.col("wrong") > 0)
        .sort(["wrong", "group_id"], descending=[True, False])
        .head(MOST_CASES)
    )
    rows = [
        (case["group_id"], ", ".join(names[k] for k in case["y_true"]), count(case["len"]), count(case["wrong"]))
        for case in counted.iter_rows(named=True)
    ]
    columns = columns_of((units[:-1], "true class", "tiles", "wrong"), right=("tiles", "wrong"))
    return Table(f"The {units} with most errors", columns, rows_of(rows)) if rows else None
