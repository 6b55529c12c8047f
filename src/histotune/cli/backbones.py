"""The commands below ``histotune backbones``: which there are, everything about one, whether it can be used here."""

from __future__ import annotations

from typing import Annotated

import typer

backbones_app = typer.Typer(help="Which backbones have a name, what is known about them, and whether they load here.")


@backbones_app.callback(invoke_without_command=True)
def backbones(ctx: typer.Context) -> None:
    """List the backbones that have a name: size, scale, licence, overlap with benchmarks."""
    if ctx.invoked_subcommand is None:
        from histotune.cli.backbone_commands import list_backbones

        list_backbones()


@backbones_app.command("show")
def show(name: Annotated[str, typer.Argument(help="Such as midnight, or its hub id.")]) -> None:
    """Print everything known about a backbone, each figure with its source."""
    from histotune.cli.backbone_commands import show_backbone

    show_backbone(name)


@backbones_app.command("check")
def check(names: Annotated[list[str], typer.Argument(help="Names or hub ids.")]) -> None:
    """Ask whether backbones can be used here: hub, licence, token, disk, cache, and what to do otherwise."""
    from histotune.cli.backbone_commands import check_backbones

    check_backbones(names)
