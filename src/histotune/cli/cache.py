"""The commands below ``histotune cache``: what is kept, whether it is sound, out of it and into it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

cache_app = typer.Typer(no_args_is_help=True, help="Look at kept embeddings; check, mend, remove, export, import them.")

Cache = Annotated[
    Path | None, typer.Option("--cache", help="Folder of the cache. Default: the user's.", show_default=False)
]
Spaces = Annotated[
    list[str] | None,
    typer.Argument(help="First digits of a space's key, or a backbone's name. Default: all.", show_default=False),
]
Dataset = Annotated[str | None, typer.Option("--dataset", help="breakhis or pcam.", show_default=False)]
Data = Annotated[Path | None, typer.Option("--data", help="Folder of the data set.", show_default=False)]
Pcam = Annotated[Path | None, typer.Option("--pcam", help="PatchCamelyon folder beside --data.", show_default=False)]
SetField = Annotated[
    list[str] | None, typer.Option("--set", help="Any field of the config. Repeatable.", show_default=False)
]
Coords = Annotated[
    Path | None,
    typer.Option("--coords", help="Table with tile_id, x, y: places on slides at level 0.", show_default=False),
]


@cache_app.command("ls")
def ls(cache: Cache = None) -> None:
    """List embedding spaces, content hashes, solved fits and rendered cohorts, with their sizes."""
    from histotune.cli.cache_commands import list_and_print

    list_and_print(cache)


@cache_app.command("verify")
def verify(spaces: Spaces = None, cache: Cache = None) -> None:
    """Read every byte and compare it with the recorded hashes; exit code 1 where something is damaged."""
    from histotune.cli.cache_commands import verify_and_print

    if not verify_and_print(spaces or [], cache):
        raise typer.Exit(1)


@cache_app.command("repair")
def repair(spaces: Spaces = None, cache: Cache = None) -> None:
    """Set damaged shards aside, sweep up what killed runs left, and say what will be computed again."""
    from histotune.cli.cache_commands import repair_and_print

    repair_and_print(spaces or [], cache)


@cache_app.command("rm")
def rm(
    spaces: Spaces = None,
    older_than: Annotated[
        str | None, typer.Option("--older-than", help="Not used for so long: 12h, 30d, 2w.", show_default=False)
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All spaces, hashes, fits and rendered cohorts.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    cache: Cache = None,
) -> None:
    """Remove embedding spaces, never one that a running process holds; `rm fits` removes solved fits of sweeps."""
    from histotune.cli.cache_commands import RemoveChoice, remove_and_print

    remove_and_print(RemoveChoice(tuple(spaces or ()), older_than, everything, yes), cache)


@cache_app.command("export")
def export(
    out: Annotated[Path, typer.Option("--out", help="FILE.npz, FILE.parquet, FILE.h5, or a new folder of slides.")],
    space: Annotated[str | None, typer.Argument(help="A space, or its backbone's name.", show_default=False)] = None,
    dataset: Dataset = None,
    data: Data = None,
    backbone: Annotated[str | None, typer.Option("--backbone", help="Whose space, without SPACE.")] = None,
    coords: Coords = None,
    settings: SetField = None,
    cache: Cache = None,
) -> None:
    """Write embeddings for other programs; a folder takes one HDF5 file per slide, as CLAM and TRIDENT read it.

    histotune cache export --dataset breakhis --data BreaKHis_v1 --out embeddings.parquet
    """
    from histotune.cli.cache_commands import export_and_print

    export_and_print(space, out, coords, dataset=dataset, data=data, backbone=backbone, settings=settings, cache=cache)


@cache_app.command("import")
def import_(
    files: Annotated[list[Path], typer.Argument(help="Files of embeddings (.h5, .npz, .parquet), or folders of them.")],
    name: Annotated[str, typer.Option("--as", help="A name; use them with --backbone external:NAME.")],
    backbone: Annotated[
        str | None, typer.Option("--backbone", help="The network that made them, as you know it.", show_default=False)
    ] = None,
    dataset: Dataset = None,
    data: Data = None,
    pcam: Pcam = None,
    coords: Coords = None,
    replace: Annotated[bool, typer.Option("--replace", help="Take the name from other files.")] = False,
    settings: SetField = None,
    cache: Cache = None,
) -> None:
    """Take in embeddings that somebody else computed; they are marked EXTERNAL wherever they are used.

    histotune cache import features_uni_v1/ --as uni --dataset breakhis --data BreaKHis_v1 --coords places.csv
    """
    from histotune.cli.cache_commands import ImportChoice, import_and_print

    choice = ImportChoice(tuple(files), name, backbone, coords, replace)
    import_and_print(choice, dataset=dataset, data=data, pcam=pcam, settings=settings, cache=cache)
