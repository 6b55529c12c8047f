"""Scores in words: number format, reasons, footnotes; what the page and the terminal share."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from histotune.statistics.predictions import FULL_COVERAGE
from histotune.tools.marks import DIFFERENCE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from histotune.evaluation.findings import ScoredArm, SweepChoice
    from histotune.heads.head import TrialRecord
    from histotune.statistics.predictions import Interval, Score


METRIC_LABELS = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "balanced_accuracy": "Balanced accuracy",
    "accuracy": "Accuracy",
    "macro_f1": "Macro-F1",
    "patient_recognition_rate": "Patient recognition rate",
    "mcc": "MCC",
    "sensitivity_at_95_specificity": "Sensitivity at 95\u00a0% specificity",
    "specificity_at_95_sensitivity": "Specificity at 95\u00a0% sensitivity",
    "log_loss": "Log-loss",
    "brier": "Brier score",
    "ece": "ECE",
    "ece_debiased": "ECE, debiased",
}
PROBABILITY_METRICS = (
    "log_loss", "brier", "ece", "ece_debiased", "sensitivity_at_95_specificity", "specificity_at_95_sensitivity",
)  # fmt: skip
"""What a table of its own shows: how good the probabilities are, and the ends of the ROC curve."""
DIFFERENCE_OF = " difference"
"""What the name of a metric ends in where a score is a paired difference in it."""


@dataclass
class Footnotes:
    """Reasons and methods that a table's cells refer to by letter."""

    texts: list[str] = field(default_factory=list)

    def mark(self, text: str) -> str:
        """Return the letter of a text, the same letter for the same text."""
        if text not in self.texts:
            self.texts.append(text)
        return _letter(self.texts.index(text))

    def items(self) -> tuple[tuple[str, str], ...]:
        """Return letter and text of each note."""
        return tuple((_letter(index), text) for index, text in enumerate(self.texts))

    def lines(self) -> tuple[str, ...]:
        """The footnotes as they stand below a table in a terminal."""
        return tuple(f"{letter}: {text}" for letter, text in self.items())


@dataclass(frozen=True)
class Cell:
    """One score of a table: the value, its interval under it, what else must stand beside it, a footnote letter."""

    value: str
    interval: str
    beside: tuple[str, ...] = ()
    note: str = ""


def format_score(score: Score, *, signed: bool = False) -> str:
    """Return a score as ``0.842 [0.751, 0.912]``; where something is missing, the reason in its place."""
    if math.isnan(score.value):
        return f"not estimable: {_reason(score)}"
    value = number(score.value, signed=signed)
    if score.interval is None:
        return f"{value} (interval not estimable: {_reason(score)})"
    return f"{value} {format_interval(score.interval)}"


def covered_score(score: Score, *, signed: bool = False) -> str:
    """Return a score with its interval, and its simulated coverage where that falls short."""
    text = format_score(score, signed=signed)
    short = "" if score.interval is None else coverage_text(score.interval)
    return f"{text} ({short})" if short else text


def format_interval(interval: Interval) -> str:
    """Return an interval as ``[0.751, 0.912]``."""
    return f"[{number(interval.low)}, {number(interval.high)}]"


def number(value: float, *, signed: bool = False) -> str:
    """Return three decimals with a true minus sign; a dash where undefined.

    Example:
        >>> number(-0.0312, signed=True), number(0.9)
        ('−0.031', '0.900')
    """
    if not math.isfinite(value):
        return "–"
    text = f"{value:+.3f}" if signed else f"{value:.3f}"
    return text.replace("-", "−") if float(text) != 0 else "0.000"


def count(n: int) -> str:
    """Return a count with thousands separated."""
    return f"{n:,}"


def group_count(n_groups: int) -> str:
    """Return a number of groups; 0 stands for groups that nobody knows."""
    return count(n_groups) if n_groups else "unknown"


def sample_words(n_tiles: int, n_groups: int) -> str:
    """Return what something was measured on."""
    return f"{count(n_tiles)} tiles, {group_count(n_groups)} groups"


def weighting_words(labels: Sequence[str]) -> str:
    """Return in which metrics the authors' patients count instead of tiles; empty where there are none."""
    if not labels:
        return ""
    return f"Each of the authors' patients counts once in: {', '.join(labels)}; each tile counts once elsewhere."


def metric_of(score: Score) -> str:
    """Return the metric of a score; a difference is named after it, such as "auroc difference"."""
    return score.name.removesuffix(DIFFERENCE_OF)


def metric_score(arm: ScoredArm, metric: str) -> Score | None:
    """Return an arm's score of a metric, or its difference in that metric; None where there is neither."""
    return arm.score(metric) or arm.score(metric + DIFFERENCE_OF)


def metric_label(name: str) -> str:
    """Return a metric's name for people."""
    return METRIC_LABELS.get(name, name.replace("_", " ").capitalize())


def is_difference(arm: ScoredArm) -> bool:
    """Whether a row holds paired differences instead of scores."""
    return arm.arm == DIFFERENCE


def is_trained_domain(arm: ScoredArm) -> bool:
    """Whether an arm was trained on the domain it is scored on, as its ``trained_on`` says."""
    rest = arm.trained_on.removeprefix(arm.domain)
    return rest != arm.trained_on and not rest[:1].isalnum()


def sample_size(arm: ScoredArm) -> tuple[int, int]:
    """Return n tiles and n groups of a row, those of its first score."""
    return (arm.scores[0].n_tiles, arm.scores[0].n_groups) if arm.scores else (0, 0)


def score_cell(arm: ScoredArm, score: Score, common: tuple[float, str] | None, notes: Footnotes) -> Cell:
    """Return a score as text; a reason or an unusual interval becomes a footnote."""
    signed = is_difference(arm)
    if math.isnan(score.value):
        return Cell("not estimable", "", note=notes.mark(f"not estimable: {_reason(score)}"))
    value, beside = number(score.value, signed=signed), tuple(_beside(arm, score))
    if score.interval is None:
        note = notes.mark(f"interval not estimable: {_reason(score)}")
        return Cell(value, "no interval", beside, note)
    usual = common is None or (score.interval.level, score.interval.method) == common
    note = "" if usual and not is_spread(score.interval) else notes.mark(score.interval.method)
    return Cell(value, format_interval(score.interval), beside, note)


def coverage_text(interval: Interval) -> str:
    """Return the simulated coverage where it falls short of the nominal one; empty elsewhere."""
    if interval.coverage is None or interval.coverage >= FULL_COVERAGE:
        return ""
    return f"nominal {interval.level:.0%}, simulated coverage {interval.coverage:.0%}".replace("%", "\u00a0%")


def is_spread(interval: Interval) -> bool:
    """Whether the interval is a spread of draws, which must not be read as a confidence interval."""
    return "not a confidence interval" in interval.method


def _beside(arm: ScoredArm, score: Score) -> Iterator[str]:
    if score.name == "auprc" and math.isfinite(score.chance) and not is_difference(arm):
        yield f"prevalence {number(score.chance)}"
    if score.interval is not None and (coverage := coverage_text(score.interval)):
        yield coverage
    n_tiles, n_groups = sample_size(arm)
    if score.n_tiles != n_tiles:
        yield f"{count(score.n_tiles)} tiles"
    if score.n_groups != n_groups:
        yield f"{group_count(score.n_groups)} groups"


def _reason(score: Score) -> str:
    return score.reason or "no reason was recorded"


def _letter(index: int) -> str:
    return "abcdefghijklmnopqrstuvwxyz"[index % 26] * (index // 26 + 1)


# ------------------------------------------------------------------------------
# What a sweep chose, in words: the optimistic score, the honest one, temperature, threshold, runners-up.


RULES = {
    "best": "lowest log-loss",
    "one-se": "strongest penalty within one standard error of the lowest log-loss",
    "auroc": "highest AUROC within inner folds, of equal ones the lowest log-loss",
}


def chosen_trial(choice: SweepChoice) -> str:
    """Return what was chosen, "cls, penalty 0.1"; only the settings in which trials differ."""
    selection = choice.selection
    settings = f"penalty {choice.penalty:g}" if selection is None else selection.chosen.settings
    return ", ".join(part for part in ("+".join(choice.pooling), settings) if part)


def selected_score(choice: SweepChoice) -> str:
    """Return the score that was the criterion, "0.480 ± 0.040 (optimistic)"."""
    return f"{number(choice.log_loss)} ± {number(choice.log_loss_se)} (optimistic)"


def nested_estimates(choice: SweepChoice) -> str:
    """Return the estimates of the whole procedure, or why there are none."""
    selection = choice.selection
    if selection is None or not selection.honest:
        return (selection.note if selection else "") or "none"
    scores = [
        f"{metric_label(one.name)} {number(one.value)}{_interval_beside(one.interval)}" for one in selection.honest
    ]
    return f"{', '.join(scores)} ({selection.honesty})"


def temperature(choice: SweepChoice) -> str:
    """Return the temperature with its interval; in its place, vector scaling's factors."""
    calibration = choice.calibration
    if calibration.scale_K:
        return "vector scaling, factors " + " ".join(f"{value:.2f}" for value in calibration.scale_K)
    return f"{calibration.temperature:.2f}{_interval_beside(calibration.interval)}"


def threshold(choice: SweepChoice) -> str:
    """Return the threshold with its interval and rule; a dash where classes compete by probability."""
    if not choice.is_binary:
        return "–"
    decision = choice.decision
    return f"{number(decision.threshold)}{_interval_beside(decision.interval)}, {decision.rule}"


def runners_up(choice: SweepChoice) -> str:
    """Return the chosen trial's rule and the next best trials with their paired differences from the lowest loss."""
    selection = choice.selection
    if selection is None:
        return ""
    others = "; ".join(_rival(trial) for trial in selection.runners_up) or "none"
    diverged = f" {selection.n_diverged} diverged." if selection.n_diverged else ""
    return (
        f"{selection.n_trials} trials, rule: {RULES[selection.rule]}.{diverged} Runners-up, log-loss above the lowest "
        f"(paired by group): {others}."
    )


def choice_lines(choice: SweepChoice) -> tuple[str, ...]:
    """Return everything about a choice as lines for a terminal."""
    lines = [
        f"selected log-loss: {selected_score(choice)}",
        f"honest estimate of the procedure: {nested_estimates(choice)}",
        f"temperature: {temperature(choice)}; {choice.calibration.reason}",
    ]
    if choice.is_binary:
        lines.append(f"threshold: {threshold(choice)}; {choice.decision.reason}")
    return (*lines, runners_up(choice), *(f"look again: {warning}" for warning in choice.warnings))


def _interval_beside(interval: Interval | None) -> str:
    return "" if interval is None else f" {format_interval(interval)}"


def _rival(trial: TrialRecord) -> str:
    weighting = "" if trial.class_weight == "none" else f", {trial.class_weight} classes"
    error = "" if trial.difference_se is None else f" ± {number(trial.difference_se)}"
    settings = f", {trial.settings}" if trial.settings else ""
    return f"{'+'.join(trial.pooling)}{settings}{weighting}: {number(trial.difference, signed=True)}{error}"
