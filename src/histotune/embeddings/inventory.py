"""What the cache holds: spaces, content hashes, rendered cohorts; looked at without changing anything."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from histotune.embeddings.owned import is_real_folder
from histotune.embeddings.store import Damage, Store
from histotune.tools.errors import UserError, closest_name
from histotune.tools.files import is_locked

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

MIN_DIGITS = 4  # of a space's key, to name it
FITS_FOLDER = "fits"  # what the heads room keeps in a cache


@dataclass(frozen=True)
class SpaceFacts:
    """One embedding space as it lies on the disk.

    Attributes:
        key: Its key; only the digits of its folder's name where its description can't be read.
        backbone: Backbone name, "unknown" where the description can't be read.
        view: The view in words.
        precision: Of the matrix products, and of what is stored where that is float16.
        device: Kind of device, such as ``cpu`` or ``cuda7.5``; "any" where it has no say.
        n_rows: Embeddings held.
        n_shards: Shards that look sound.
        n_bytes: Everything in the folder.
        last_used_s: When it was last read or written, seconds since 1970.
        external: Whether its rows were imported.
        in_use: Whether a running process holds its lock.
        n_pending: Rows that an interrupted or running process has planned and not yet written.
        damaged: Shards whose manifest or length is wrong.
    """

    key: str
    backbone: str
    view: str
    precision: str
    device: str
    n_rows: int
    n_shards: int
    n_bytes: int
    last_used_s: float
    external: bool
    in_use: bool
    n_pending: int
    damaged: tuple[Damage, ...]

    @property
    def short_name(self) -> str:
        """What commands call it."""
        return self.key[:12]


@dataclass(frozen=True)
class FolderFacts:
    """A file or folder of the cache that is no embedding space: what it is, how much it holds, its size."""

    name: str
    what: str
    n_entries: int
    n_bytes: int


@dataclass(frozen=True)
class Inventory:
    """The whole cache.

    Attributes:
        cache: Its root folder.
        spaces: Embedding spaces, the last used first.
        others: Content hashes, rendered cohorts, solved fits, records of imports.
        foreign: Folders and files among the spaces that histotune did not write; no command touches them.
    """

    cache: Path
    spaces: tuple[SpaceFacts, ...]
    others: tuple[FolderFacts, ...]
    foreign: tuple[Path, ...] = ()

    @property
    def n_bytes(self) -> int:
        """Bytes of everything listed."""
        return sum(space.n_bytes for space in self.spaces) + sum(other.n_bytes for other in self.others)


def take_inventory(cache: Path) -> Inventory:
    """List what a cache holds, reading manifests but no matrices.

    Args:
        cache: Its root folder; may be missing.

    Returns:
        The inventory.
    """
    found = stores(cache)
    spaces = sorted((space_facts(store) for store in found), key=lambda space: -space.last_used_s)
    return Inventory(cache, tuple(spaces), tuple(_others(cache)), _foreign(cache, found))


def stores(cache: Path) -> tuple[Store, ...]:
    """Return the store of every space in a cache, by key; folders that histotune did not write are no spaces."""
    found = (Store.at(path) for path in sorted((cache / "embeddings").glob("*")) if path.is_dir())
    return tuple(store for store in found if store.is_own)


def find_stores(cache: Path, names: Sequence[str]) -> tuple[Store, ...]:
    """Return the spaces that a command names.

    Args:
        cache: Root folder of the cache.
        names: First digits of keys (at least 4), or backbone names, which take all their spaces; none takes all.

    Returns:
        The stores, each once.

    Raises:
        UserError: Names that fit nothing, together with the closest ones.
    """
    known = stores(cache)
    if not names:
        return known
    found: dict[Path, Store] = {}
    unknown = []
    for name in names:
        fitting = [store for store in known if _is_named(store, name)]
        found.update({store.folder: store for store in fitting})
        unknown += [] if fitting else [name]
    if unknown:
        every = [store.short_name for store in known] + sorted({store.space.backbone for store in known})
        raise UserError("no such embedding space in this cache", value=", ".join(unknown),
                        allowed=", ".join(every) or "none: the cache is empty",
                        closest=closest_name(unknown[0], every), fix="histotune cache ls")  # fmt: skip
    return tuple(found.values())


def space_facts(store: Store) -> SpaceFacts:
    """Look at one space.

    Args:
        store: Its store.

    Returns:
        The facts.
    """
    found, space = store.inspect(), store.space
    held = {one for manifest in found.sound.values() for one in manifest.content}
    planned = {one for plan in store.read_plan() for one in plan.content}
    return SpaceFacts(
        key=space.key,
        backbone=space.backbone,
        view=_view_words(space.view),
        precision=(space.precision or "unknown") + (", kept in fp16" if space.stores_fp16 else ""),
        device=_device_words(space.signature),
        n_rows=len(held),
        n_shards=len(found.sound),
        n_bytes=folder_bytes(store.folder),
        last_used_s=_last_used(store.folder),
        external=space.external,
        in_use=is_locked(store.lock_path),
        n_pending=len(planned - held),
        damaged=found.damaged,
    )


def folder_bytes(folder: Path) -> int:
    """Return the bytes of all files below a folder; files that vanish meanwhile count nothing."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(place, name)).st_size  # noqa: PTH116, PTH118  (many files)
            except OSError:
                continue
    return total


def _foreign(cache: Path, known: Sequence[Store]) -> tuple[Path, ...]:
    """Return what lies among the spaces and is none; a folder that holds a lock alone is one that was emptied."""
    folders = {store.folder for store in known}
    found = (path for path in sorted((cache / "embeddings").glob("*")) if path not in folders)
    return tuple(
        path for path in found if not is_real_folder(path) or any(one.name != "lock" for one in path.iterdir())
    )


def _is_named(store: Store, name: str) -> bool:
    by_key = len(name) >= MIN_DIGITS and store.space.key.startswith(name.lower())
    return by_key or store.space.backbone == name


def _last_used(folder: Path) -> float:
    """Return the newest time of the files that every use touches."""
    times = [path.stat().st_mtime for path in (folder / "space.json", folder / "shards") if path.exists()]
    return max(times, default=folder.stat().st_mtime)


def _view_words(view: str) -> str:
    """Return a view's name and settings; those that say nothing are left out."""
    settings = json.loads(view)
    name, size = settings.pop("name", "unknown"), settings.pop("size_px", None)
    words = [f"{name} {size} px" if size else str(name)]
    words += [str(value) if isinstance(value, str) else f"{key} {value}"
              for key, value in sorted(settings.items()) if value not in (None, False, "")]  # fmt: skip
    return ", ".join(words)


def _device_words(signature: str) -> str:
    facts = json.loads(signature)
    return str(facts.get("device", "unknown" if "external" in facts or not facts else "any"))


def _others(cache: Path) -> Iterator[FolderFacts]:
    index = cache / "hashes.sqlite"
    if index.is_file():
        yield FolderFacts(index.name, "content hashes of tiles and weights", _n_hashes(index), index.stat().st_size)
    cohort = cache / "synthetic"
    if cohort.is_dir():
        n_files = sum(1 for path in cohort.rglob("*") if path.is_file())
        yield FolderFacts(cohort.name, "rendered cohort", n_files, folder_bytes(cohort))
    fits = cache / FITS_FOLDER
    if fits.is_dir():
        n_fits = len(list(fits.glob("*.safetensors")))
        yield FolderFacts(fits.name, "solved fits of sweeps", n_fits, folder_bytes(fits))
    external = cache / "external"
    if external.is_dir():
        yield FolderFacts(external.name, "names of imported embeddings", len(list(external.glob("*.json"))),
                          folder_bytes(external))  # fmt: skip
    names = cache / "timm_names.json"
    if names.is_file():
        yield FolderFacts(names.name, "what timm said about names", 1, names.stat().st_size)


def _n_hashes(index: Path) -> int:
    try:
        with closing(sqlite3.connect(f"{index.absolute().as_uri()}?mode=ro", timeout=60, uri=True)) as database:
            return int(database.execute("SELECT count(*) FROM content").fetchone()[0])
    except sqlite3.Error:
        return 0
