"""The commands below ``histotune data``: get a data set, look at it, check it, split it, measure its scale."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from histotune.cli.ending import print_page
from histotune.cli.options import Data, DatasetArgument, SetField
from histotune.tools.atomic import claimed
from histotune.tools.errors import UserError, raise_together
from histotune.tools.table import console

if TYPE_CHECKING:
    from histotune.images.config import ScaleConfig


data_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help=(
        "Get a data set, and look at it before anything is trained on it.\n\n"
        "Example: histotune data describe breakhis --data data/breakhis"
    ),
)


@data_app.command("fetch")
def fetch(
    dataset: DatasetArgument,
    to: Annotated[Path | None, typer.Option("--to", help="Folder. Default: data/DATASET.", show_default=False)] = None,
    source: Annotated[
        str | None, typer.Option("--source", help="home (default), kaggle, or for pcam hub.", show_default=False)
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List files, checks and space; write nothing.")] = False,
) -> None:
    """Get a data set from its own home: resumed where it stopped, verified, unpacked.

    Example: histotune data fetch breakhis --dry-run
    """
    from histotune.datasets.fetch.fetch import render_outcome, render_plan
    from histotune.datasets.fetch.source import FetchPlan
    from histotune.studies import data_verbs

    found = data_verbs.fetch(dataset, to, source, dry_run=dry_run)
    print(render_plan(found) if isinstance(found, FetchPlan) else render_outcome(found))


@data_app.command("describe")
def describe(
    dataset: DatasetArgument,
    data: Data = None,
    backbone: Annotated[
        str | None, typer.Option("--backbone", help="Whose view the field of view is stated for.", show_default=False)
    ] = None,
    settings: SetField = None,
) -> None:
    """Tiles, cases, classes, magnifications, scale: what a data set holds, and what is odd about it.

    Example: histotune data describe breakhis --data data/breakhis
    """
    from histotune.studies.arguments import build_config

    config = build_config(dataset, data=data, backbone=backbone, settings=settings)
    from histotune.datasets.describe import describe, render_text
    from histotune.datasets.read import spec_of
    from histotune.images.view_checks import render_fields
    from histotune.studies.data_verbs import read
    from histotune.studies.setup import set_up, single_dataset

    tiles = read(dataset, data, set=settings)
    view = set_up(config, tiles).view
    print(render_text(describe(tiles, spec_of(single_dataset(config)))))
    print()
    print(render_fields(tiles, view, config.backbone.name))


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

    Example: histotune data audit breakhis --data data/breakhis --split eva --quick
    """
    from histotune.report.tables import AUDIT_LAYOUT, audit_table
    from histotune.studies import data_verbs

    out = out or Path("audits") / Path(dataset).stem  # of a data set read by a Python file, the file's name
    result = data_verbs.audit(
        dataset, data, split=split, out=out, quick=quick, embeddings=embeddings, cache=cache, set=settings
    ).audit
    console(120).print(audit_table(result).as_rich(AUDIT_LAYOUT))
    print(f"\nverdict: {result.verdict}")
    print_page(out / "audit.html")
    print(f"data: {out / 'audit.json'}")
    for finding in result.findings:
        if finding.file:
            print(f"all {finding.n_tiles:,} tiles of {finding.title.lower()}: {out / finding.file}")
    raise typer.Exit(1 if result.verdict == "error" else 0)


@data_app.command("estimate-mpp")
def estimate_mpp(
    dataset: DatasetArgument,
    data: Data = None,
    tissue: Annotated[
        str | None,
        typer.Option("--tissue", help="breast or lymph-node: whose nuclei are the ruler.", show_default=False),
    ] = None,
    nucleus_um: Annotated[
        float | None, typer.Option("--nucleus-um", help="Your own typical nuclear diameter, um.", show_default=False)
    ] = None,
    max_tiles: Annotated[
        int | None,
        typer.Option(
            "--max-tiles", help="Tiles to measure, spread over groups; 0: all.  \\[default: 400]", show_default=False
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="JSON file with everything measured.", show_default=False)
    ] = None,
    settings: SetField = None,
) -> None:
    """Measure micrometres per pixel by the size of nuclei, and print how to adopt it.

    Example: histotune data estimate-mpp breakhis --data data/breakhis --max-tiles 400
    """
    from histotune.images.scale import estimate_scale
    from histotune.images.scale_words import render_scale
    from histotune.studies.arguments import build_config
    from histotune.studies.data_verbs import read
    from histotune.tools.files import write_json

    config = build_config(dataset, data=data, settings=settings)
    scale = _scale_config(tissue=tissue, nucleus_um=nucleus_um, max_tiles=max_tiles)
    part = "source" if config.source is not None else "target"
    with claimed(out, folder=False):
        estimate = estimate_scale(read(dataset, data, set=settings), scale, config.loader)
        print(render_scale(estimate, part))
        if out is not None:
            write_json(out, {**estimate.as_dict(), "settings": list(estimate.settings(part))})
            print(f"\nwritten: {out}")


def _scale_config(**typed: object) -> ScaleConfig:
    """Turn the options into a config; report every mistake together."""
    from pydantic import ValidationError

    from histotune.images.config import ScaleConfig

    try:
        return ScaleConfig.model_validate({name: value for name, value in typed.items() if value is not None})
    except ValidationError as error:
        raise_together(
            [
                UserError(
                    f"--{str(detail['loc'][0]).replace('_', '-')}: {detail['msg'][:1].lower()}{detail['msg'][1:]}",
                    value=detail["input"],
                    fix="histotune data estimate-mpp --help",
                )
                for detail in error.errors()
            ]
        )
        raise


@data_app.command("split")
def split_command(
    dataset: DatasetArgument,
    data: Data = None,
    split: Annotated[
        str,
        typer.Option(
            "--split",
            help=(
                r"grouped-5-seed0, holdout-20-seed0, eva, thunder, authors-5\[/fold1]\[:PATH], pcam-"
                "official, random-images-5-seed0, or a split file to check."
            ),
        ),
    ] = "grouped-5-seed0",
    out: Annotated[
        Path | None, typer.Option("--out", help="File to write, such as split.json.", show_default=False)
    ] = None,
    allow_leaky: Annotated[
        bool, typer.Option("--allow-leaky", help="Make it even if groups stand on two sides; it is marked LEAKY.")
    ] = False,
    settings: SetField = None,
) -> None:
    """Make a split by its name, or check one from a file; show how even it is, and keep it.

    Example: histotune data split breakhis --data data/breakhis --split grouped-5-seed0 --out split.json
    """
    from histotune.datasets.splits.balance import render_split
    from histotune.datasets.splits.named import save_split
    from histotune.studies import data_verbs

    with claimed(out, folder=False):
        tiles = data_verbs.read(dataset, data, set=settings)
        found = data_verbs.split(tiles, split=split, allow_leaky=allow_leaky)
        print(render_split(found, tiles))  # before it is written: a disk that fills up costs no look at the split
        if out is not None:
            save_split(found, out)
            print(f"split: {out}")


@data_app.command("croissant")
def croissant(
    dataset: DatasetArgument,
    out: Annotated[Path, typer.Option("--out", help="JSON-LD to write; its table lies beside it.")],
    data: Data = None,
    settings: SetField = None,
) -> None:
    """Write Croissant 1.0 metadata of a data set: JSON-LD and a table with a row per tile.

    Example: histotune data croissant breakhis --data data/breakhis --out croissant.json
    """
    from histotune.datasets.croissant import write_croissant
    from histotune.studies.arguments import build_config
    from histotune.studies.setup import read_single, single_dataset

    config = build_config(dataset, data=data, settings=settings)
    with claimed(out, folder=False):
        files = write_croissant(read_single(config), single_dataset(config).path, out)
    print(f"{files.n_tiles:,} tiles: {files.metadata} and {files.table}")


@data_app.command("diff")
def diff(
    dataset: DatasetArgument,
    before: Annotated[Path, typer.Argument(help="Folder of the older version.")],
    after: Annotated[Path, typer.Argument(help="Folder of the newer version.")],
    settings: SetField = None,
) -> None:
    """What changed between two versions: tiles, their content, labels, groups, splits, names.

    Example: histotune data diff breakhis data/breakhis-old data/breakhis
    """
    from histotune.images.diff import diff_datasets, render_diff
    from histotune.images.hashes import HashIndex
    from histotune.studies.data_verbs import read
    from histotune.tools.files import user_dir

    index = HashIndex(user_dir("cache") / "hashes.sqlite")
    older, newer = read(dataset, before, set=settings), read(dataset, after, set=settings)
    print(render_diff(diff_datasets(older, newer, index)))
