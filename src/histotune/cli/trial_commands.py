"""What ``histotune trials`` does: read the table of trials, narrow it, print the best."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from histotune.tools.errors import UserError, closest_name
from histotune.tools.files import user_dir

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class TrialFilter:
    """Which trials to show.

    Attributes:
        data_set: Only this data set; None takes all.
        backbone: Only this backbone; None takes all.
        top: How many.
        everything: Also floors and the sweeps of outer folds, not only the probes that were saved.
    """

    data_set: str | None
    backbone: str | None
    top: int
    everything: bool


def trials_and_print(chosen: TrialFilter) -> None:
    """Print the best trials on record, each data set's by itself: losses on different tiles don't compare.

    Args:
        chosen: Which.

    Raises:
        UserError: Nothing on record has that name.
    """
    from histotune.studies.tracking import read_trials, trials_folder

    state = user_dir("state")
    table = read_trials(state)
    if table.is_empty():
        print(f"no sweep has been recorded in {trials_folder(state)}")
        return
    table = _narrowed(table, chosen)
    for (trained_on,), part in table.group_by("trained_on", maintain_order=True):
        _print_trials(str(trained_on), part.sort("score", nulls_last=True, maintain_order=True), chosen.top)
    print(f"{len(table):,} trials of {table['run_id'].n_unique():,} runs; all of them: polars.scan_parquet("
          f"'{trials_folder(state)}/*.parquet')")  # fmt: skip


def _narrowed(table: pl.DataFrame, chosen: TrialFilter) -> pl.DataFrame:
    """Keep what was asked for; a name that is nowhere on record is a mistake."""
    for column, name in (("data_set", chosen.data_set), ("backbone", chosen.backbone)):
        if name is None:
            continue
        known = sorted(set(table[column]))
        if name not in known:
            raise UserError(f"no trial on record has this {column.replace('_', ' ')}", value=name,
                            allowed=", ".join(known), closest=closest_name(name, known))  # fmt: skip
        table = table.filter(table[column] == name)
    if chosen.everything:
        return table
    return table.filter((table["arm"] == "probe") & (table["training_set"] == "all"))


def _print_trials(trained_on: str, trials: pl.DataFrame, top: int) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{trained_on}: group-balanced log-loss, out of fold, lower is better")
    for name in ("log-loss", "SE", "AUROC", "backbone", "family", "settings", "groups", "run", ""):
        table.add_column(name, justify="right" if name in ("log-loss", "SE", "AUROC", "groups") else "left")
    for row in trials.head(top).iter_rows(named=True):
        numbers = (_number(row[name]) for name in ("score", "score_se", "auroc"))
        table.add_row(*numbers, row["backbone"], row["family"], _settings(row["settings"]), str(row["n_groups"]),
                      row["run_id"], _remark(row))  # fmt: skip
    Console(width=None if sys.stdout.isatty() else 160).print(table, highlight=False, markup=False)


def _settings(text: str) -> str:
    found: dict[str, Any] = json.loads(text)
    return ", ".join(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
                     for name, value in found.items())  # fmt: skip


def _remark(row: dict[str, Any]) -> str:
    words = (("chosen, optimistic", row["chosen"]), ("diverged", row["diverged"]),
             ("not converged", not row["converged"] and not row["diverged"]),
             (row["arm"], row["arm"] != "probe"), (row["training_set"], row["training_set"] != "all"))  # fmt: skip
    return ", ".join(word for word, is_so in words if is_so)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
