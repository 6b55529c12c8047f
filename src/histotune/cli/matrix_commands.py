"""What ``histotune matrix`` does: run the study, print its matrices and where they are."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from histotune.studies.config import ExperimentConfig


def matrix_and_print(config: ExperimentConfig, out: Path | None, *, matched: bool) -> None:
    """Fill the cross-magnification matrices and print them.

    Args:
        config: The data set, backbone, sweep.
        out: Folder to write; None takes ``runs/RECIPE-matrix``.
        matched: Also equal input_mpp and equal field of view.
    """
    from rich.console import Console

    from histotune.report.study_pages import matrix_table, reasons_of
    from histotune.studies.magnifications import run_matrix

    config = config.model_copy(update={"out": out or Path("runs") / f"{config.recipe}-matrix"})
    study, ledger = run_matrix(config, " ".join(["histotune", *sys.argv[1:]]), matched=matched)
    console = Console(width=None if sys.stdout.isatty() else 160)
    for matrix in study.matrices:
        console.print(matrix_table(matrix, study.marks), highlight=False, markup=False)
        for reason in reasons_of(matrix):
            print(f"  n. e. or no interval, {reason}")
        if matrix.training_size == "equal":
            for scale in matrix.scales:
                print(f"  {scale.magnification}: {scale.input_mpp:.3g} um/px{_price(scale.lost)}")
    print(f"\n{study.answer}\n\n{ledger}\nsaved: {config.out}")


def _price(lost: str) -> str:
    return f"; {lost}" if lost else ""
