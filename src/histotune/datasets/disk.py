"""Which files lie below a folder: one quick pass that links can't trap."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from histotune.datasets.headers import IMAGE_SUFFIXES
from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

SYNTHETIC_MARK = "SYNTHETIC.json"
SYNTHETIC_NOTE = "SYNTHETIC: these tiles were rendered by a program and show no patient."
FETCH_RECORDS = ".fetch"  # what `histotune data fetch` keeps beside the data: its lock, its receipt, work in progress
ARCHIVES = (".tar.gz", ".tgz", ".tar", ".zip")


@dataclass(frozen=True)
class Listing:
    """The files below a folder.

    Attributes:
        root: The folder, absolute.
        paths: Every file below it, absolute, sorted.
        synthetic: Whether a ``SYNTHETIC.json`` below or just above marks the tiles as rendered.
    """

    root: str
    paths: tuple[str, ...]
    synthetic: bool

    def relative(self, path: str) -> str:
        """Return a path as a person reads it, below the root."""
        return os.path.relpath(path, self.root)


def list_files(root: Path) -> Listing:
    """List all files below a folder, following links to folders once.

    Args:
        root: The folder; ``~`` is expanded.

    Returns:
        The files, with the ``SYNTHETIC.json`` mark left out of ``paths``.

    Raises:
        UserError: The folder is missing, is a file, can't be read, or is empty.
    """
    folder = Path(os.path.abspath(root.expanduser()))  # noqa: PTH100  (resolve() would lose the user's own path)
    _require_folder(folder)
    paths = sorted(_walk(folder))
    files = tuple(path for path in paths if os.path.basename(path) != SYNTHETIC_MARK)  # noqa: PTH119  (thousands)
    if not files:
        raise UserError("this folder holds no files", value=folder, fix="check --data: the download may have failed")
    return Listing(str(folder), files, len(files) < len(paths) or _marked_above(folder))


def name_some(names: list[str], limit: int) -> str:
    """Return the names joined by commas, cut after ``limit`` with a count of the rest."""
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {rest} more" if rest > 0 else "")


def marked_synthetic(folder: Path) -> bool:
    """Return whether a ``SYNTHETIC.json`` in a folder, or just above it, marks its tiles as rendered."""
    return (folder / SYNTHETIC_MARK).is_file() or _marked_above(folder)


def _walk(folder: Path) -> Iterator[str]:
    """Yield files depth first; a folder reached a second time through a link is not entered again."""
    seen: set[tuple[int, int]] = set()
    pending = [str(folder)]
    while pending:
        here = pending.pop()
        status = os.stat(here)  # noqa: PTH116
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        entries = _entries(here)
        if not entries and here.lower().endswith(IMAGE_SUFFIXES):
            raise UserError("this is an empty folder named like an image", value=here,
                            fix="copy the image again from its source, or remove the folder")  # fmt: skip
        for entry in entries:
            if _is_folder(entry):
                pending.append(entry.path)
            elif entry.is_symlink() or entry.is_file():  # a broken link is reported by whoever opens it
                yield entry.path


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted((entry for entry in entries if entry.name != FETCH_RECORDS), key=lambda entry: entry.name)
    except PermissionError as error:
        raise UserError("this folder can't be read", value=folder, fix=f"chmod -R u+rX {folder}") from error
    except OSError as error:
        raise UserError(f"this folder can't be read ({error.strerror})", value=folder, fix="check its disk") from error


def _require_folder(folder: Path) -> None:
    if folder.is_dir():
        return
    if folder.is_file():
        archive = folder.name.lower().endswith(ARCHIVES)
        raise UserError(
            "this is a file, and a folder is needed",
            value=folder,
            fix=f"unpack it (tar -xf {folder}) and pass the unpacked folder"
            if archive
            else f"pass the folder that holds it: --data {folder.parent}",
        )
    nearest = next(parent for parent in folder.parents if parent.is_dir())
    raise UserError("this folder does not exist", value=folder, allowed=f"{nearest} exists", fix="check --data")


def _marked_above(folder: Path) -> bool:
    """Look two folders up, and beside ``BreaKHis_v1`` where the folder lies inside one."""
    for start in {folder, folder.resolve()}:
        inside = [parent.parent for parent in (start, *start.parents) if parent.name.lower() == "breakhis_v1"]
        if any((parent / SYNTHETIC_MARK).is_file() for parent in (*start.parents[:2], *inside)):
            return True
    return False
