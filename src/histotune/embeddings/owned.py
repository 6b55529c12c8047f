"""Which files of a space's folder histotune wrote: removal and repair touch these alone, and follow no link.

A file is told by its place and its name, which are hexadecimal digits wherever the store chooses it. Everything else is
somebody else's, stays where it is, and is named to the user.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from histotune.tools.atomic import unfinished_name
from histotune.tools.files import is_regular_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SPACE_NAME = re.compile(r"[0-9a-f]{32}")
SHARD_NAME = re.compile(r"[0-9a-f]{24}")
MATRIX_OR_NOTE = re.compile(rf"{SHARD_NAME.pattern}\.(npy|json)")
NAMES_BY_PLACE = {
    "": re.compile(r"space\.json|pending\.json|lock|gathered\.lock"),
    "shards": MATRIX_OR_NOTE,
    "gathered": MATRIX_OR_NOTE,
    "damaged": MATRIX_OR_NOTE,
    "ranks": re.compile(r"plan\.json|[0-9a-f]{16}-\d+\.(json|lock)"),
}


@dataclass(frozen=True)
class Survey:
    """The files of a space's folder.

    Attributes:
        owned: Regular files that the store wrote, by their place and name.
        foreign: Files, folders and links that it did not write.
    """

    owned: tuple[Path, ...]
    foreign: tuple[Path, ...]


def survey(folder: Path) -> Survey:
    """Tell the store's own files in a space's folder from all others; no link is followed."""
    owned: list[Path] = []
    foreign: list[Path] = []
    for place in NAMES_BY_PLACE:
        for path in entries(folder / place):
            if not (place == "" and path.name in NAMES_BY_PLACE and is_real_folder(path)):
                (owned if _is_owned(path, place) else foreign).append(path)
    return Survey(tuple(owned), tuple(foreign))


def owned_in(folder: Path, place: str) -> Iterator[Path]:
    """Yield the store's own files in one place of a space's folder, half-written ones among them."""
    return (path for path in entries(folder / place) if _is_owned(path, place))


def is_real_folder(path: Path) -> bool:
    """Return whether this is a folder itself and no link to one."""
    return path.is_dir() and not path.is_symlink()


def linked_place(folder: Path) -> Path | None:
    """Return the first part of a space, or the folder of all spaces, that is a link; None where none is."""
    places = (folder.parent, folder, *(folder / place for place in NAMES_BY_PLACE if place))
    return next((path for path in places if path.is_symlink()), None)


def entries(folder: Path) -> list[Path]:
    """Return what lies in a folder; nothing where it is missing, or a link."""
    return sorted(folder.iterdir()) if is_real_folder(folder) else []


def _is_owned(path: Path, place: str) -> bool:
    name = unfinished_name(path) or path.name
    return NAMES_BY_PLACE[place].fullmatch(name) is not None and is_regular_file(path)
