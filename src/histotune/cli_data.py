"""The commands below ``histotune data``: get a data set, look at it, check it, split it, measure its scale."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

data_app = typer.Typer(no_args_is_help=True, help="Look at a data set before anything is trained on it.")

Data = Annotated[Path | None, typer.Option("--data", help="Folder of the data set.", show_default=False)]
SetField = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any field of the config: --set source.labels=eva4. Repeatable.", show_default=False),
]
DatasetArgument = Annotated[str, typer.Argument(help="breakhis or pcam.")]


@data_app.command("describe")
def describe(dataset: DatasetArgument, data: Data = None, settings: SetField = None) -> None:
    """Tiles, cases, classes, magnifications, scale: what a data set holds, and what is odd about it."""
    from histotune.data_commands import describe_and_print

    describe_and_print(dataset, data, settings)


@data_app.command("fetch")
def fetch(
    dataset: DatasetArgument,
    to: Annotated[Path | None, typer.Option("--to", help="Folder. Default: data/DATASET.", show_default=False)] = None,
    source: Annotated[
        str | None, typer.Option("--source", help="home (default), kaggle, or for pcam hub.", show_default=False)
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List files, checks and space; write nothing.")] = False,
) -> None:
    """Get a data set from its own home: resumed where it stopped, verified, unpacked."""
    from histotune.data_commands import fetch_and_print

    fetch_and_print(dataset, to, source, dry_run=dry_run)


@data_app.command("croissant")
def croissant(
    dataset: DatasetArgument,
    out: Annotated[Path, typer.Option("--out", help="JSON-LD to write; its table lies beside it.")],
    data: Data = None,
    settings: SetField = None,
) -> None:
    """Write Croissant 1.0 metadata of a data set: JSON-LD and a table with a row per tile."""
    from histotune.data_commands import croissant_and_print

    croissant_and_print(dataset, data, out, settings)


@data_app.command("diff")
def diff(
    dataset: DatasetArgument,
    before: Annotated[Path, typer.Argument(help="Folder of the older version.")],
    after: Annotated[Path, typer.Argument(help="Folder of the newer version.")],
    settings: SetField = None,
) -> None:
    """What changed between two versions: tiles, their content, labels, groups, splits, names."""
    from histotune.data_commands import diff_and_print

    diff_and_print(dataset, before, after, settings)
