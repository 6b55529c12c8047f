"""What a sweep chose, in words: the optimistic score, the honest one, temperature, threshold, runners-up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from histotune.report.words import format_interval, metric_label, number

if TYPE_CHECKING:
    from histotune.evaluation.findings import SweepChoice
    from histotune.heads.head import HonestScore, TrialRecord
    from histotune.statistics.predictions import Interval

RULES = {"best": "lowest log-loss", "one-se": "strongest penalty within one standard error of the lowest log-loss"}


def chosen_trial(choice: SweepChoice) -> str:
    """Return what was chosen, "cls, penalty 0.1"; only the settings in which trials differ."""
    selection = choice.selection
    settings = f"penalty {choice.penalty:g}" if selection is None else selection.chosen.settings
    return ", ".join(part for part in ("+".join(choice.pooling), settings) if part)


def selected_score(choice: SweepChoice) -> str:
    """Return the score that was the criterion, "0.480 ± 0.040 (optimistic)"."""
    return f"{number(choice.log_loss)} ± {number(choice.log_loss_se)} (optimistic)"


def honest_scores(choice: SweepChoice) -> str:
    """Return the estimates of the whole procedure, or why there are none."""
    selection = choice.selection
    if selection is None or not selection.honest:
        return (selection.note if selection else "") or "none"
    return ", ".join(_honest(score) for score in selection.honest) + f" ({selection.honesty})"


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
    """Return everything about a choice as lines for a terminal.

    Args:
        choice: What was chosen.

    Returns:
        The selected score, the honest ones, temperature, threshold and runners-up.
    """
    lines = [
        f"selected log-loss: {selected_score(choice)}",
        f"honest estimate of the procedure: {honest_scores(choice)}",
        f"temperature: {temperature(choice)}; {choice.calibration.reason}",
    ]
    if choice.is_binary:
        lines.append(f"threshold: {threshold(choice)}; {choice.decision.reason}")
    return (*lines, runners_up(choice))


def _honest(score: HonestScore) -> str:
    return f"{metric_label(score.name)} {number(score.value)}{_interval_beside(score.interval)}"


def _interval_beside(interval: Interval | None) -> str:
    return "" if interval is None else f" {format_interval(interval)}"


def _rival(trial: TrialRecord) -> str:
    weighting = "" if trial.class_weight == "none" else f", {trial.class_weight} classes"
    error = "" if trial.difference_se is None else f" ± {number(trial.difference_se)}"
    settings = f", {trial.settings}" if trial.settings else ""
    return f"{'+'.join(trial.pooling)}{settings}{weighting}: {number(trial.difference, signed=True)}{error}"
