"""A sweep's trials as a table for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
    for name in ("pooling", "penalty", "log-loss", "SE over groups", "AUROC", ""):
        table.add_column(name, justify="left" if name in {"pooling", ""} else "right")
    for trial in trials.sort("pooling", "penalty").iter_rows(named=True):
        remark = "chosen" if trial["chosen"] else "" if trial["converged"] else "not converged"
        numbers = (f"{trial[name]:.3f}" for name in ("log_loss", "log_loss_se", "auroc"))
        table.add_row(trial["pooling"], f"{trial['penalty']:.4g}", *numbers, remark, style="bold" * trial["chosen"])
    return table
