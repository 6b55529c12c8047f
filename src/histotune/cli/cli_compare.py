"""``histotune compare``: runs beside one another on the same groups."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  (typer reads the annotations)
from typing import Annotated

import typer


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of finished runs, two or more arms.")],
    metrics: Annotated[
        list[str] | None, typer.Option("--metric", help="Default: auroc and balanced_accuracy. Repeatable.")
    ] = None,
    pairs: Annotated[
        list[str] | None, typer.Option("--pair", help="A,B: the declared family instead of all pairs. Repeatable.")
    ] = None,
    first: Annotated[bool, typer.Option("--first", help="Compare all with the first run only.")] = False,
    permutations: Annotated[int, typer.Option("--permutations", min=99, help="Most permutations of a p value.")] = 9999,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the permutations.")] = 0,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for comparison.json and comparison.html.")] = None,
) -> None:
    """Compare runs on the same tiles: paired intervals and p values; mean ranks over five or more data sets.

    histotune compare runs/midnight runs/lite0 --out runs/comparison
    """
    from histotune.cli.compare_commands import CompareRequest, compare_and_print

    compare_and_print(
        CompareRequest(tuple(runs), tuple(metrics or ()), tuple(pairs or ()), first, permutations, seed, out)
    )
