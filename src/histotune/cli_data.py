"""The commands below ``histotune data``: get a data set, look at it, check it, split it, measure its scale."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

data_app = typer.Typer(no_args_is_help=True, help="Look at a data set before anything is trained on it.")

Data = Annotated[
    Path | None, typer.Option("--data", help="Folder of the data set, or table of tiles.", show_default=False)
]
SetField = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any field of the config: --set source.labels=eva4. Repeatable.", show_default=False),
]
DatasetArgument = Annotated[str, typer.Argument(help="breakhis, pcam, tiles, or my_dataset.py.")]
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
        "--max-tiles", help="Tiles to measure, spread over groups; 0: all.  \\[default: 400]", show_default=False
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


@data_app.command("split")
def split_command(
    dataset: DatasetArgument,
    data: Data = None,
    split: Annotated[
        str,
        typer.Option(
            "--split",
            help="grouped-5-seed0, holdout-20-seed0, eva, thunder, authors-5\\[/fold1]\\[:PATH], pcam-official, "
            "random-images-5-seed0, or a split file to check.",
        ),
    ] = "grouped-5-seed0",
    out: Annotated[
        Path | None, typer.Option("--out", help="File to write, such as split.json.", show_default=False)
    ] = None,
    allow_leaky: Annotated[
        bool, typer.Option("--allow-leaky", help="Make it even if cases stand on two sides; it is marked LEAKY.")
    ] = False,
    settings: SetField = None,
) -> None:
    """Make a split by its name, or check one from a file; show how even it is, and keep it."""
    from histotune.data_commands import SplitRequest, split_and_print

    split_and_print(dataset, data, SplitRequest(split, out, allow_leaky), settings)


@data_app.command("audit")
def audit(
    dataset: DatasetArgument,
    data: Data = None,
    split: Annotated[
        str | None, typer.Option("--split", help="Name or file of the split to check.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder to write. Default: audits/DATASET.", show_default=False)
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Names only; no pixel is read.")] = False,
    embeddings: Annotated[
        bool, typer.Option("--embeddings", help="Also look for overlapping fields among cached embeddings.")
    ] = False,
    cache: Annotated[Path | None, typer.Option("--cache", help="Folder for embeddings.", show_default=False)] = None,
    settings: SetField = None,
) -> None:
    """Duplicates, leaks across the split, blank tiles, balance, stain: a verdict for each. Exit code 1 on an error.

    histotune data audit breakhis --data BreaKHis_v1 --split eva --quick
    """
    from histotune.data_commands import AuditOptions, audit_and_print
    from histotune.evaluation.audit.config import AuditConfig

    options = AuditOptions(split, out, AuditConfig(quick=quick), embeddings, cache)
    raise typer.Exit(audit_and_print(dataset, data, settings, options))


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
