"""A sweep's trials as a table for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars as pl
    from rich.table import Table


def trials_table(trials: pl.DataFrame) -> Table:
    """Return every trial of a sweep, the chosen one marked.

    Args:
        trials: From ``SweepResult.trials``.

    Returns:
        A table for rich's console.
    """
    from rich.table import Table

    table = Table(title="Trials: group-balanced log-loss, out of fold (lower is better)")
    weighted = "class_weight" in trials.columns and trials["class_weight"].n_unique() > 1
    names = ("pooling", *(["classes"] if weighted else []), "penalty", "log-loss", "SE over groups", "AUROC", "")
    for name in names:
        table.add_column(name, justify="left" if name in {"pooling", "classes", ""} else "right")
    for trial in trials.sort("pooling", *(["class_weight"] if weighted else []), "penalty").iter_rows(named=True):
        remark = "chosen, optimistic" if trial["chosen"] else _trouble(trial)
        numbers = (f"{trial[name]:.3f}" for name in ("log_loss", "log_loss_se", "auroc"))
        classes = [trial["class_weight"]] if weighted else []
        cells = (trial["pooling"], *classes, f"{trial['penalty']:.4g}", *numbers, remark)
        table.add_row(*cells, style="bold" * trial["chosen"])
    return table


def _trouble(trial: dict[str, Any]) -> str:
    """Return what went wrong in a trial; empty where nothing did."""
    if trial.get("diverged"):
        return "diverged"
    return "" if trial["converged"] else "not converged"
