"""The commands below ``histotune cache``: what is kept, whether it is sound, out of it and into it."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from histotune.tools.atomic import claimed
from histotune.tools.errors import UserError, name_setting
from histotune.tools.files import readable_bytes, user_dir
from histotune.tools.marks import EXTERNAL
from histotune.tools.table import Layout, Table, columns_of, console, rows_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from histotune.embeddings.exchange import ExportTable
    from histotune.embeddings.importing import ImportReport
    from histotune.embeddings.store import Store
    from histotune.embeddings.upkeep import Inventory, SpaceFacts
    from histotune.studies.config import ExperimentConfig


FITS = "fits"  # the name under which solved fits of sweeps are removed
cache_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Look at kept embeddings; check, mend, remove, export, import them.\n\nExample: histotune cache ls",
)

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
    """List embedding spaces, content hashes, solved fits and rendered cohorts, with their sizes.

    Example: histotune cache ls
    """
    from histotune.embeddings.upkeep import take_inventory

    inventory = take_inventory(_root(cache))
    if not inventory.spaces and not inventory.others:
        print(f"nothing is cached in {inventory.cache}")
        _print_foreign(inventory.foreign)
        return
    console(160).print(inventory_table(inventory).as_rich(Layout(lines=False)), highlight=False, markup=False)
    for other in inventory.others:
        print(f"{other.name}: {other.n_entries:,} ({other.what}), {readable_bytes(other.n_bytes)}")
    print(f"{readable_bytes(inventory.n_bytes)} in all, in {inventory.cache}")
    _print_foreign(inventory.foreign)
    for space in inventory.spaces:
        if space.damaged:
            print(
                f"{space.short_name}: {len(space.damaged):,} damaged shards; histotune cache repair {space.short_name}"
                f"{_cache_option(cache)}"
            )
        if space.n_pending and not space.in_use:
            print(f"{space.short_name}: {space.n_pending:,} tiles left by an interrupted run; its command resumes it")


@cache_app.command("verify")
def verify(spaces: Spaces = None, cache: Cache = None) -> None:
    """Read every byte and compare it with the recorded hashes; exit code 1 where something is damaged.

    Example: histotune cache verify lite0
    """
    from histotune.embeddings.upkeep import check_space, damage_of_index, find_stores

    broken = []
    found = find_stores(_root(cache), spaces or [])
    damage_of_hashes = None if spaces else damage_of_index(_root(cache))
    if not found:
        print(f"no embedding space of histotune's in {_root(cache)}")
    for store in found:
        check = check_space(store)
        print(
            f"{check.short_name} ({check.backbone}): {check.n_rows:,} rows in {check.n_shards:,} shards, every byte "
            f"read, {len(check.damaged):,} damaged"
        )
        for damage in check.damaged:
            print(f"  damaged: {damage.name}: {damage.reason}")
        for debris in check.debris:
            print(f"  not needed: {debris.name}: {debris.reason}")
        broken += [check.short_name] if check.damaged else []
        _print_foreign(check.foreign)
        if check.debris and not check.damaged:
            print(f"  histotune cache repair {check.short_name}{_cache_option(cache)} sweeps it up")
    if damage_of_hashes is not None:
        print(f"hashes.sqlite, the index of content hashes, is damaged: {damage_of_hashes}")
    if broken or damage_of_hashes is not None:
        names = "" if damage_of_hashes is not None else f" {' '.join(broken)}"
        print(f"repair with: histotune cache repair{names}{_cache_option(cache)}")
        raise typer.Exit(1)


@cache_app.command("repair")
def repair(spaces: Spaces = None, cache: Cache = None) -> None:
    """Set damaged shards aside, sweep up what killed runs left, and say what will be computed again.

    Example: histotune cache repair
    """
    from histotune.embeddings.upkeep import find_stores, repair_index, repair_space

    found = find_stores(_root(cache), spaces or [])
    damage_of_hashes = None if spaces else repair_index(_root(cache))
    if damage_of_hashes is not None:
        print(f"hashes.sqlite: damaged ({damage_of_hashes}) and removed; the next run computes content hashes again")
    elif not found:
        print(f"no embedding space of histotune's in {_root(cache)}; nothing was touched")
    for store in found:
        repair = repair_space(store)
        check = repair.check
        print(
            f"{check.short_name} ({check.backbone}): {len(check.damaged):,} damaged shards set aside, "
            f"{len(check.debris):,} files swept up"
        )
        for item in (*check.damaged, *check.debris):
            print(f"  {item.name}: {item.reason}")
        _print_foreign(check.foreign)
        if repair.n_lost:
            how = "import their files again" if repair.external else "the next run that needs them computes them again"
            print(f"  {repair.n_lost:,} rows are lost; {how}")
        elif check.damaged:
            print("  no row is known to be lost; what the next run misses it computes again")
        if repair.n_pending:
            print(f"  {repair.n_pending:,} tiles were left by an interrupted run; its command resumes it")


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
    """Remove embedding spaces, never one that a running process holds; `rm fits` removes solved fits of sweeps.

    Example: histotune cache rm --older-than 30d
    """
    from histotune.embeddings.upkeep import (
        is_own_index,
        parse_age,
        remove_fits,
        remove_rest,
        remove_spaces,
        unused_fits,
    )

    root, names = _root(cache), spaces or []
    found = _chosen(root, names, older_than, everything=everything)
    age_s = parse_age(older_than) if older_than else 0.0
    fits = unused_fits(root, age_s) if FITS in names or (older_than is not None and not names) else ()
    if not found and not fits and not everything:
        print("nothing to remove")
        return
    if fits:
        print(f"{len(fits):,} solved fits of sweeps; solved again when needed")
    _ask(found, everything=everything, yes=yes)
    with_index = everything and is_own_index(root)  # the spaces beside it tell whose a damaged one is
    removal = remove_spaces(found)
    removed = [f"{removal.n_removed:,} spaces"]
    removed += [f"{remove_fits(fits):,} solved fits"] if fits else []
    removed += remove_rest(root, with_index=with_index) if everything else ()
    print(f"removed {' and '.join(removed)}")
    _print_foreign(removal.foreign)


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

    Example: histotune cache export --dataset breakhis --data data/breakhis --out embeddings.parquet
    """
    from histotune.embeddings.exchange import export as write_out
    from histotune.embeddings.exchange import space_table
    from histotune.embeddings.upkeep import find_stores
    from histotune.studies.arguments import build_config

    root = _root(cache)
    stores = () if space is None else find_stores(root, [space])
    if len(stores) > 1:
        raise UserError(
            "several spaces have this name",
            value=space,
            fix="name one by its key",
            allowed=", ".join(store.short_name for store in stores),
        )
    if dataset is None and not stores:
        raise UserError(
            "what to export?",
            allowed="a SPACE, or --dataset NAME --data DIR",
            fix="histotune cache ls lists the spaces",
        )
    with claimed(out):
        if dataset is not None:
            config = build_config(dataset, data=data, backbone=backbone, settings=settings, cache=cache)
            table = _dataset_table(stores[0] if stores else None, coords, config)
        else:
            table = space_table(stores[0])
        n_files = write_out(table, out)
    files = "" if n_files == 1 else f" in {n_files:,} files"
    print(
        f"{len(table.content):,} rows of {table.features_ND.shape[1]:,} columns ({table.space.backbone}){files}: {out}"
    )
    if out.suffix in (".h5", "") and table.places_N2 is None:
        print("tiles have no place on a slide here: coords are -1; --coords TABLE (tile_id, x, y) gives them")


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

    Example: histotune cache import features/ --as uni --dataset breakhis --data data/breakhis --coords places.csv
    """
    from histotune.datasets.read import read_dataset
    from histotune.embeddings.estimate import tile_contents
    from histotune.embeddings.exchange import read_places
    from histotune.embeddings.importing import ImportRequest, KnownTiles, import_embeddings
    from histotune.studies.arguments import build_config

    root = _root(cache)
    known = []
    if dataset is not None:
        config = build_config(dataset, data=data, pcam=pcam, settings=settings, cache=cache)
        source = () if config.source is None else (read_dataset(config.source, "source"),)
        target = () if config.target is None else (read_dataset(config.target, "target"),)
        tile_sets = (*source, *target)
        known = [KnownTiles(tiles, tile_contents(tiles, root, config.loader)) for tiles in tile_sets]
    places = {} if coords is None else read_places(coords)
    _print_import(import_embeddings(ImportRequest(tuple(files), name, root, backbone or "", places, replace), known))


# ------------------------------------------------------------------------------
# What the commands below ``histotune cache`` do: find what was named, call the library, print the result.


def _print_foreign(names: Sequence[str | Path]) -> None:
    for name in names:
        print(f"  not histotune's, left where it is: {name}")


def _print_import(report: ImportReport) -> None:
    name, n_files = f"external:{report.record.name}", len(report.record.files)
    print(
        f"{report.n_used:,} of {report.n_rows:,} rows from {n_files:,} files belong to tiles, {report.n_new:,} are new"
    )
    if report.n_rows > report.n_used:
        print(f"{report.n_rows - report.n_used:,} rows belong to no tile named here and were left out")
    if report.without_row:
        some = ", ".join(report.without_row[:20]) + (", ..." if len(report.without_row) > 20 else "")
        print(f"{len(report.without_row):,} tiles have no row, and a run that needs them will stop: {some}")
    print(f"made by {report.record.claimed}, as claimed; unverified: every number made with them is marked EXTERNAL")
    print(f"use them with --backbone {name}")


def _dataset_table(store: Store | None, coords: Path | None, config: ExperimentConfig) -> ExportTable:
    """Find the rows of a data set, in a space that was named or in that of its backbone."""
    from histotune.embeddings.estimate import request_space, tile_contents
    from histotune.embeddings.exchange import read_places, tile_table_of
    from histotune.embeddings.store import Store
    from histotune.studies.setup import read_single, set_up

    tiles = read_single(config)
    contents = tile_contents(tiles, config.cache, config.loader)
    if store is None:
        store = Store(config.cache, request_space(set_up(config, tiles).request(), contents))
    places = None if coords is None else read_places(coords)
    return tile_table_of(store, tiles, contents, places)


def _chosen(root: Path, names: Sequence[str], older_than: str | None, *, everything: bool) -> tuple[Store, ...]:
    from histotune.embeddings.upkeep import find_stores, parse_age, space_facts

    if not (names or older_than or everything):
        raise UserError(
            "what to remove?",
            allowed="SPACE..., fits, --older-than 30d, or --all",
            fix="histotune cache ls lists the spaces",
        )
    if everything and (names or older_than):
        raise UserError("--all removes everything, so nothing else goes with it", fix="leave out one of them")
    spaces = tuple(name for name in names if name != FITS)
    found = find_stores(root, spaces) if spaces or not names else ()
    if older_than is None:
        return found
    limit_s = time.time() - parse_age(older_than)
    return tuple(store for store in found if space_facts(store).last_used_s < limit_s)


def _ask(found: Sequence[Store], *, everything: bool, yes: bool) -> None:
    """Show what would go and ask; without a person to ask, --yes must have been typed."""
    from histotune.embeddings.upkeep import space_facts

    for store in found:
        facts = space_facts(store)
        again = "its files must be imported again" if facts.external else "computed again when needed"
        print(f"{facts.short_name}  {facts.backbone}, {facts.n_rows:,} rows, {readable_bytes(facts.n_bytes)}; {again}")
    if everything:
        print("and the content hashes, rendered cohorts, solved fits and names of imports in this cache")
    if yes:
        return
    if not sys.stdin.isatty():
        raise UserError("nobody is here to confirm; nothing was removed", fix="add --yes")
    import typer

    if not typer.confirm("remove this?"):
        raise UserError("nothing was removed")


def inventory_table(inventory: Inventory) -> Table:
    """Return a row per embedding space."""
    names = ("space", "backbone", "view", "precision", "device", "rows", "size", "last used", "")
    rows = rows_of(
        (
            space.short_name,
            space.backbone,
            space.view,
            space.precision,
            space.device,
            f"{space.n_rows:,}",
            readable_bytes(space.n_bytes),
            _when(space.last_used_s),
            _state(space),
        )
        for space in inventory.spaces
    )
    return Table("", columns_of(names, right=("rows", "size"), fit="cut"), rows)


def _state(space: SpaceFacts) -> str:
    words = [
        (EXTERNAL, space.external),
        ("in use", space.in_use),
        ("damaged", bool(space.damaged)),
        ("interrupted", bool(space.n_pending) and not space.in_use),
    ]
    return ", ".join(word for word, is_so in words if is_so)


def _when(moment_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(moment_s))


def _cache_option(cache: Path | None) -> str:
    """Return the option that names a cache in a command, for a person to copy; empty for the user's own."""
    return "" if cache is None else f" --cache {shlex.quote(str(cache))}"


def _root(cache: Path | None) -> Path:
    root = (cache or user_dir("cache")).expanduser()
    name_setting(root, "--cache FOLDER")
    return root
