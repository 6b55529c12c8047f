"""The commands below ``histotune backbones``: which there are, all about one, whether it works here, merged ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from histotune.cli.options import Adapter, BackboneName, Out
from histotune.tools.atomic import claimed
from histotune.tools.errors import UserError
from histotune.tools.table import console

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


backbones_app = typer.Typer(
    rich_markup_mode="rich",
    help=(
        "Which backbones have a name, what is known about them, and whether they load here.\n\n"
        "Example: histotune backbones"
    ),
)


@backbones_app.callback(invoke_without_command=True)
def backbones(ctx: typer.Context) -> None:
    """List the backbones that have a name: size, scale, licence, overlap with benchmarks.

    Example: histotune backbones
    """
    if ctx.invoked_subcommand is None:
        list_backbones()


@backbones_app.command("show")
def show(name: Annotated[str, typer.Argument(help="Such as midnight, or its hub id.")]) -> None:
    """Print everything known about a backbone, each figure with its source.

    Example: histotune backbones show midnight
    """
    show_backbone(name)


@backbones_app.command("check")
def check(names: Annotated[list[str], typer.Argument(help="Names or hub ids.")]) -> None:
    """Ask whether backbones can be used here: hub, licence, token, disk, cache, and what to do otherwise.

    Example: histotune backbones check midnight uni2-h
    """
    check_backbones(names)


@backbones_app.command("merge")
def merge(
    backbone: BackboneName = None,
    adapter: Adapter = None,
    out: Out = None,
    for_own_use: Annotated[
        bool, typer.Option("--for-own-use", help="Write it although the licence does not let you pass it on.")
    ] = False,
) -> None:
    """Write a backbone with its adapter merged as a folder of its own, where its licence allows it.

    Example: histotune backbones merge --backbone midnight --adapter my_adapter --out merged
    """
    merge_backbone(backbone, adapter, out, for_own_use=for_own_use)


# ------------------------------------------------------------------------------
# What the commands below ``histotune backbones`` do: look into the catalog or ask the hub, and print the answer.


def list_backbones() -> None:
    """Print the catalog as a table."""
    from histotune.backbones.access import catalog_table
    from histotune.backbones.entries import catalog_entries
    from histotune.tools.table import Layout

    console(140).print(catalog_table(catalog_entries()).as_rich(Layout(has_notes=True)))


def show_backbone(name: str) -> None:
    """Print everything known about a backbone."""
    from histotune.backbones.access import entry_text
    from histotune.backbones.catalog import find_entry, unknown_backbone
    from histotune.backbones.entries import hub_name

    entry = find_entry(hub_name(name).name)
    if entry is None:
        raise unknown_backbone(name)
    print(entry_text(entry))


def check_backbones(names: Sequence[str]) -> None:
    """Print what stands between the user and some backbones; exit code 1 where something does."""
    from histotune.backbones.access import access_table, check_access

    reports = check_access(names)
    console(140).print(access_table(reports).as_rich())
    if not all(report.usable for report in reports):
        raise SystemExit(1)


def merge_backbone(backbone: str | None, adapter: str | None, out: Path | None, *, for_own_use: bool) -> None:
    """Write a backbone with its adapter merged, and say how it is used."""
    from histotune.backbones.entries import BackboneConfig
    from histotune.backbones.merged_folder import NOTICE, save_merged
    from histotune.studies.setup import backbone_of

    if backbone is None or out is None:
        raise UserError(
            f"backbones merge needs {'--backbone' if backbone is None else '--out'}",
            fix="histotune backbones merge --backbone NAME --adapter FOLDER --out FOLDER",
        )
    spec = backbone_of(BackboneConfig(name=backbone, adapter=adapter or ""))
    with claimed(out, folder=True):
        save_merged(spec, out, for_own_use=for_own_use)
    print(f"{out}: {spec.name} with its adapter merged; {NOTICE} says what licence it is under")
    print(f"use it with --backbone {out}")
