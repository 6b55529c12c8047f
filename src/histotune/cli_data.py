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
BackboneName = Annotated[
    str | None,
    typer.Option("--backbone", help="Whose view the field of view is stated for.", show_default=False),
]
Tissue = Annotated[
    str | None,
    typer.Option("--tissue", help="breast or lymph-node: whose nuclei are the ruler.", show_default=False),
]
NucleusUm = Annotated[
    float | None,
    typer.Option("--nucleus-um", help="Your own typical nuclear diameter, um.", show_default=False),
]
MaxTiles = Annotated[
    int | None,
    typer.Option(
        "--max-tiles", help="Tiles to measure, spread over groups; 0: all.  [default: 400]", show_default=False
    ),
]
OutFile = Annotated[Path | None, typer.Option("--out", help="JSON file with everything measured.", show_default=False)]


@data_app.command("describe")
def describe(
    dataset: DatasetArgument, data: Data = None, backbone: BackboneName = None, settings: SetField = None
) -> None:
    """Tiles, cases, classes, magnifications, scale: what a data set holds, and what is odd about it."""
    from histotune.data_commands import describe_and_print

    describe_and_print(dataset, data, backbone, settings)


@data_app.command("estimate-mpp")
def estimate_mpp(
    dataset: DatasetArgument,
    data: Data = None,
    tissue: Tissue = None,
    nucleus_um: NucleusUm = None,
    max_tiles: MaxTiles = None,
    out: OutFile = None,
    settings: SetField = None,
) -> None:
    """Measure micrometres per pixel by the size of nuclei, and print how to adopt it.

    histotune data estimate-mpp breakhis --data BreaKHis_v1 --max-tiles 400
    """
    from histotune.data_commands import ScaleOptions, estimate_mpp_and_print

    estimate_mpp_and_print(dataset, data, settings, ScaleOptions(tissue, nucleus_um, max_tiles, out))
