"""What is done to a scene's files between two commands: a byte changed, a file cut, moved, written anew."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from .inputs import SETTLED_S

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .scene import Edit


def first(folder: Path, pattern: str) -> Path:
    """Return the first file or folder that fits a pattern, in the order of names."""
    found = sorted(folder.glob(pattern))
    if not found:
        raise FileNotFoundError(f"no {pattern} in {folder}")
    return found[0]


def settled(path: Path) -> None:
    """Give a file the old time of change that all inputs have."""
    os.utime(path, (SETTLED_S, SETTLED_S))


def flip(pattern: str, place: int = -1) -> Edit:
    """Return what changes one bit of a file."""

    def edit(folder: Path) -> None:
        path = first(folder, pattern)
        data = bytearray(path.read_bytes())
        data[place] ^= 1
        path.write_bytes(bytes(data))
        settled(path)

    return edit


def cut(pattern: str, n_bytes: int) -> Edit:
    """Return what keeps the first bytes of a file, or leaves out the last ones where the number is negative."""

    def edit(folder: Path) -> None:
        path = first(folder, pattern)
        path.write_bytes(path.read_bytes()[:n_bytes])
        settled(path)

    return edit


def text(name: str, content: str) -> Edit:
    """Return what writes a text file."""

    def edit(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
        settled(path)

    return edit


def beside(pattern: str, name: str, content: str) -> Edit:
    """Return what writes a text file beside one whose folder has a name of its own."""

    def edit(folder: Path) -> None:
        path = first(folder, pattern).with_name(name)
        path.write_text(content, encoding="utf-8")
        settled(path)

    return edit


def replace(pattern: str, old: str, new: str, times: int = 1) -> Edit:
    """Return what replaces words in a text file; it fails where they are not there."""

    def edit(folder: Path) -> None:
        path = first(folder, pattern)
        content = path.read_text(encoding="utf-8")
        if old not in content:
            raise ValueError(f"{path} holds no {old!r}")
        path.write_text(content.replace(old, new, times), encoding="utf-8")
        settled(path)

    return edit


def rewrite(pattern: str, change: Callable[[str], str]) -> Edit:
    """Return what puts a text file through a function."""

    def edit(folder: Path) -> None:
        path = first(folder, pattern)
        path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")
        settled(path)

    return edit


def copy(pattern: str, name: str) -> Edit:
    """Return what copies a file or a folder."""

    def edit(folder: Path) -> None:
        path = first(folder, pattern)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            shutil.copytree(path, folder / name)
        else:
            shutil.copy2(path, folder / name)

    return edit


def remove(pattern: str) -> Edit:
    """Return what removes a file or a folder."""

    def edit(folder: Path) -> None:
        path = first(folder, pattern)
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return edit


def folder(name: str) -> Edit:
    """Return what makes an empty folder."""

    def edit(place: Path) -> None:
        (place / name).mkdir(parents=True)

    return edit


def age(pattern: str) -> Edit:
    """Return what makes a file or folder look unused for years."""

    def edit(place: Path) -> None:
        for path in sorted(place.glob(pattern)):
            settled(path)

    return edit
