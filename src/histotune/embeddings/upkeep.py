"""Checking, mending and removing what the cache holds; nothing that a running process holds is touched."""

from __future__ import annotations

import re
import shutil
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from histotune.embeddings.inventory import FITS_FOLDER
from histotune.embeddings.mapped import MappedFile, read_seal
from histotune.embeddings.store import Damage, Store
from histotune.errors import UserError, collect, raise_together
from histotune.files import explained_os_errors, lock

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

SPACE_FILES = {"space.json", "pending.json", "lock", "shards", "gathered", "damaged", "ranks", "gathered.lock"}
UNITS_S = {"h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}


@dataclass(frozen=True)
class SpaceCheck:
    """What reading every byte of a space has found.

    Attributes:
        short_name: What commands call the space.
        backbone: Backbone name.
        n_shards: Shards read.
        n_rows: Rows in sound shards.
        damaged: Shards that can't be trusted.
        debris: Files that no shard, plan or gathered matrix needs.
    """

    short_name: str
    backbone: str
    n_shards: int
    n_rows: int
    damaged: tuple[Damage, ...]
    debris: tuple[Damage, ...]


@dataclass(frozen=True)
class Repair:
    """What was mended in a space.

    Attributes:
        check: What was found first.
        n_lost: Rows that stood in the shards set aside, as far as their manifests tell; to be computed again.
        n_pending: Rows of an interrupted run, which the same command resumes.
        external: Whether lost rows must be imported again, since nothing here can compute them.
    """

    check: SpaceCheck
    n_lost: int
    n_pending: int
    external: bool


def check_space(store: Store) -> SpaceCheck:
    """Read every byte of a space, changing nothing.

    Args:
        store: The space.

    Returns:
        What is damaged, and what lies about.
    """
    damaged = store.verify()
    names = {damage.name for damage in damaged}
    found = store.inspect().sound
    rows = {one for name, manifest in found.items() if name not in names for one in manifest.content}
    debris = tuple(_debris(store, set(found) | names))
    return SpaceCheck(store.short_name, store.space.backbone, len(set(found) | names), len(rows), damaged, debris)


def repair_space(store: Store) -> Repair:
    """Set damaged shards aside and sweep up what no sound shard needs.

    Args:
        store: The space.

    Returns:
        What was done.

    Raises:
        UserError: A running process holds the space, or it can't be written.
    """
    with _held(store), explained_os_errors(store.folder):
        check = check_space(store)
        manifests = store.inspect().sound
        held = {one for name, manifest in manifests.items() for one in manifest.content}
        for damage in check.damaged:
            store.quarantine(damage.name, damage.reason)
        kept = {one for manifest in store.inspect().sound.values() for one in manifest.content}
        for debris in check.debris:
            _clear(store, store.folder / debris.name)
        plans = tuple(plan for plan in store.read_plan() if not kept.issuperset(plan.content))
        if plans:
            store.write_plan(plans)
        else:
            store.drop_plan()
    n_pending = len({one for plan in plans for one in plan.content} - kept)
    return Repair(check, len(held - kept), n_pending, store.space.external)


def remove_spaces(found: Sequence[Store]) -> int:
    """Remove embedding spaces.

    Args:
        found: Their stores.

    Returns:
        Number of spaces removed.

    Raises:
        UserError: Running processes hold some of them, or they can't be written; the others are removed.
    """
    errors: list[UserError] = []
    n_removed = 0
    for store in found:
        with collect(errors), _held(store), explained_os_errors(store.folder):
            _refuse_foreign(store)
            _empty(store)
            n_removed += 1
    raise_together(errors)
    return n_removed


def remove_rest(cache: Path) -> tuple[str, ...]:
    """Remove what the cache holds besides spaces: content hashes, the rendered cohort, names of imports.

    Args:
        cache: Root folder of the cache; files that histotune does not write there are left alone.

    Returns:
        Names of what was removed.

    Raises:
        UserError: It can't be written.
    """
    removed = []
    with explained_os_errors(cache / "hashes.sqlite"):
        for name in ("hashes.sqlite", "timm_names.json"):
            if (cache / name).is_file():
                (cache / name).unlink()
                removed.append(name)
        cohort, names = cache / "synthetic", cache / "external"
        if (cohort / "breakhis" / "SYNTHETIC.json").is_file():
            shutil.rmtree(cohort)
            removed.append(cohort.name)
        if names.is_dir():
            shutil.rmtree(names)
            removed.append(names.name)
    removed += [FITS_FOLDER] if remove_fits(unused_fits(cache)) else []
    return tuple(removed)


def unused_fits(cache: Path, older_than_s: float = 0.0) -> tuple[Path, ...]:
    """Return the files of solved fits that were not used for so long.

    Args:
        cache: Root folder of the cache.
        older_than_s: Seconds since the last use.
    """
    limit_s = time.time() - older_than_s
    return tuple(
        path for path in sorted((cache / FITS_FOLDER).glob("*.safetensors")) if path.stat().st_mtime <= limit_s
    )


def remove_fits(paths: Sequence[Path]) -> int:
    """Remove solved fits; a sweep that needs them solves them again.

    Args:
        paths: From :func:`unused_fits`.

    Returns:
        Number of files removed.

    Raises:
        UserError: They can't be removed.
    """
    for path in paths:
        with explained_os_errors(path):
            path.unlink(missing_ok=True)
    return len(paths)


def parse_age(text: str) -> float:
    """Return an age in seconds.

    Args:
        text: Such as "30d", "12h" or "2w".

    Returns:
        Seconds.

    Raises:
        UserError: Not of this form.

    Example:
        >>> parse_age("2d")
        172800.0
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([hdw])", text.strip().lower())
    if match is None:
        raise UserError("this is no age", value=text, allowed="hours, days or weeks: 12h, 30d, 2w",
                        fix="--older-than 30d")  # fmt: skip
    return float(match.group(1)) * UNITS_S[match.group(2)]


def _debris(store: Store, shards: set[str]) -> Iterator[Damage]:
    """Yield files of the space's folder that nothing needs, by their place in it."""
    folder = store.folder
    for path in sorted(folder.glob("*")):
        if path.name not in SPACE_FILES:
            yield Damage(path.name, "foreign file" if not _is_partial(path) else "half-written by a killed run")
    for path in sorted((folder / "shards").glob("*")):
        if _is_partial(path):
            yield Damage(f"shards/{path.name}", "half-written by a killed run")
        elif path.suffix == ".npy" and path.stem not in shards:
            yield Damage(f"shards/{path.name}", "matrix without manifest: never counted")
        elif path.suffix not in (".json", ".npy"):
            yield Damage(f"shards/{path.name}", "foreign file")
    hashes = {name: manifest.sha256 for name, manifest in store.inspect().sound.items()}
    for path in sorted((folder / "gathered").glob("*")):
        if _is_partial(path):
            yield Damage(f"gathered/{path.name}", "half-written by a killed run")
        elif not _is_needed(path, hashes):
            yield Damage(f"gathered/{path.name}", "gathered matrix that is damaged or out of date")
    with_plan = folder / "pending.json"
    if with_plan.is_file() and not store.read_plan():
        yield Damage(with_plan.name, "damaged plan of an interrupted run")


def _is_partial(path: Path) -> bool:
    return path.name.startswith(".") and path.name.endswith(".partial")


def _is_needed(path: Path, hashes: dict[str, str]) -> bool:
    """Whether a gathered matrix, or the note beside it, belongs to shards that are still there, every byte right."""
    shards = read_seal(path.with_suffix(".json")).get("shards")
    if not isinstance(shards, dict) or any(hashes.get(name) != digest for name, digest in shards.items()):
        return False
    return MappedFile(path.with_suffix(".npy"), shards).open() is not None


def _clear(store: Store, path: Path) -> None:
    """Remove our own debris; a foreign file may matter to somebody, so it steps aside."""
    ours = _is_partial(path) or path.suffix == ".npy" or path.parent.name == "gathered" or path.name == "pending.json"
    if ours and path.is_file():
        path.unlink(missing_ok=True)
        return
    aside = store.folder.parent.parent / "foreign"
    aside.mkdir(exist_ok=True)
    path.replace(aside / f"{store.short_name}-{path.name}")


def _empty(store: Store) -> None:
    """Remove a space's files; the manifests first, so that what an interruption leaves counts no more."""
    for manifest in sorted((store.folder / "shards").glob("*.json")):
        manifest.unlink(missing_ok=True)
    for path in sorted(store.folder.iterdir()):
        if path.is_dir():
            shutil.rmtree(path)
        elif path != store.lock_path:
            path.unlink(missing_ok=True)
    with suppress(OSError):  # Windows keeps an open file; the empty folder then counts as no space
        store.lock_path.unlink()
        store.folder.rmdir()


def _refuse_foreign(store: Store) -> None:
    """Refuse to remove a folder that holds something no store writes."""
    foreign = sorted(path.name for path in store.folder.iterdir()
                     if path.name not in SPACE_FILES and not _is_partial(path))  # fmt: skip
    if foreign:
        raise UserError("this space's folder holds foreign files, which would be lost with it",
                        value=", ".join(str(store.folder / name) for name in foreign),
                        fix=f"move them away, or `histotune cache repair {store.short_name}` does")  # fmt: skip


@contextmanager
def _held(store: Store) -> Iterator[None]:
    """Hold the space's lock, or say at once that a running process has it."""
    try:
        with lock(store.lock_path, timeout_s=0):
            yield
    except UserError as error:
        if not isinstance(error.__cause__, TimeoutError):
            raise
        raise UserError("a running process is embedding into this space", value=f"{store.short_name} in {store.folder}",
                        fix="wait until it is done, or stop it; finished shards are kept") from error  # fmt: skip
