"""A sweep's trials for people: a table for the terminal, the best so far while it runs, names of lines in plots."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from histotune.heads.calibrate import MIN_GROUPS, t_interval
from histotune.heads.select import score_trials
from histotune.heads.sweep import CONTEXT, OUTCOME

if TYPE_CHECKING:
    from collections.abc import Callable

    import polars as pl
    from rich.table import Table

    from histotune.heads.family import Tried

TOP = 10
OPTIMISTIC = "optimistic: the lowest of several was selected"


def trials_table(trials: pl.DataFrame, n_groups: int, top: int = TOP) -> Table:
    """Return the best trials of a sweep, and the chosen one wherever it stands.

    Args:
        trials: From ``SweepResult.trials``.
        n_groups: Training groups, for the intervals.
        top: How many to show.

    Returns:
        A table for rich's console.
    """
    from rich.table import Table

    ranked = trials.sort("log_loss", nulls_last=True, maintain_order=True).with_row_index("rank", 1)
    shown = ranked.filter((ranked["rank"] <= top) | ranked["chosen"])
    names = [name for name in setting_names(trials)
             if name == "pooling" or len(trials) == 1 or trials[name].n_unique() > 1]  # fmt: skip
    table = Table(
        title=f"Trials: group-balanced log-loss, out of fold, lower is better ({len(shown)} of {len(trials)})"
    )
    for name in ("", *names, "log-loss", "95 % over groups", "AUROC", ""):
        table.add_column(name, justify="left" if name in {"pooling", "class_weight", ""} else "right")
    for trial in shown.iter_rows(named=True):
        settings = (_setting(trial[name]) for name in names)
        loss, auroc = trial["log_loss"], trial["auroc"]
        diverged = bool(trial.get("diverged")) or loss is None or not math.isfinite(loss)
        numbers = ("-", "-", "-") if diverged else (
            f"{loss:.3f}", interval_words(loss, trial["log_loss_se"], n_groups), _three(auroc)
        )  # fmt: skip
        table.add_row(str(trial["rank"]), *settings, *numbers, _remark(trial, diverged), style="bold" * trial["chosen"])
    table.caption = f"A chosen trial's log-loss is {OPTIMISTIC}."
    return table


def setting_names(trials: pl.DataFrame) -> tuple[str, ...]:
    """Return the columns that say what was tried."""
    return tuple(name for name in trials.columns if name not in (*OUTCOME, *CONTEXT))


def line_names(trials: pl.DataFrame) -> list[str]:
    """Return the line of a plot over penalties that each trial belongs to: its pooling, and its weighting if several.

    Args:
        trials: From ``SweepResult.trials``.

    Returns:
        A name per row.
    """
    if "class_weight" not in trials.columns or trials["class_weight"].n_unique() < 2:
        return [str(name) for name in trials["pooling"]]
    words = {"none": "classes as they are", "balanced": "classes balanced"}
    return [f"{row['pooling']}, {words.get(row['class_weight'], row['class_weight'])}"
            for row in trials.iter_rows(named=True)]  # fmt: skip


def interval_words(value: float, standard_error: float | None, n_groups: int) -> str:
    """Return the 95 % t-interval of a mean over groups as ``[low, high]``, or "-" with fewer than five groups.

    Args:
        value: The mean.
        standard_error: Its standard error over groups.
        n_groups: How many groups.
    """
    if standard_error is None or not math.isfinite(standard_error) or n_groups < MIN_GROUPS:
        return "-"
    low, high = t_interval(value, standard_error, n_groups)
    return f"[{max(0.0, low):.3f}, {high:.3f}]"


class BestSoFar:
    """Watches a sweep and keeps one line up to date.

    Args:
        show: Shows a line.
    """

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show = show
        self._n_tiles = 0
        self._loss, self._words = math.inf, "no usable trial yet"

    def __call__(self, tried: Tried) -> None:
        """Look at trials that have just finished; only the largest training set counts."""
        if tried.part.n_tiles < self._n_tiles:
            return
        if tried.part.n_tiles > self._n_tiles:
            self._n_tiles, self._loss, self._words = tried.part.n_tiles, math.inf, "no usable trial yet"
        scores = score_trials(tried.found, tried.y_n, tried.part)
        for t, trial in enumerate(tried.trials):
            loss = float(scores.log_loss_T[t])
            if scores.usable_T[t] and loss < self._loss:
                self._loss = loss
                settings = ", ".join(f"{name} {_setting(value)}" for name, value in trial.settings().items())
                interval = interval_words(loss, float(scores.log_loss_se_T[t]), tried.part.n_groups)
                self._words = f"{'+'.join(trial.pooling)}, {settings}: log-loss {loss:.3f} {interval}"
        self._show(f"{tried.n_done:,} of {tried.n_trials:,} trials; best so far (optimistic) {self._words}")


def _remark(trial: dict[str, object], diverged: bool) -> str:
    if diverged:
        return "diverged"
    words = (("chosen, optimistic", trial["chosen"]), ("not converged", not trial["converged"]))
    return ", ".join(word for word, is_so in words if is_so)


def _setting(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _three(value: float | None) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.3f}"
