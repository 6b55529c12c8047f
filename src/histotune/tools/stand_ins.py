"""Files that stand in place of what was asked for: a pointer of Git LFS, or the page of a login or a proxy."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

START_BYTES = 512
MARK = b"\xef\xbb\xbf"  # of UTF-8, which some servers put before a page
LFS_START = b"version https://git-lfs.github.com/spec/"
PAGE_STARTS = (b"<!doctype html", b"<html", b"<head", b"<body", b"<script")


@dataclass(frozen=True)
class StandIn:
    """What lies in place of a file.

    Attributes:
        words: What it is, to follow the name of the file: "a pointer of Git LFS".
        fix: How the file itself is had.
    """

    words: str
    fix: str


LFS_POINTER = StandIn(
    "a pointer of Git LFS, not the file itself",
    "run `git lfs install` and `git lfs pull` in the repository, which fetch the files themselves",
)
WEB_PAGE = StandIn(
    "a web page, such as that of a login or a proxy, not the file itself",
    "open the address in a browser, log in there or ask whoever runs the network, then download the file again",
)


def stand_in(start: bytes) -> StandIn | None:
    """Return what a file is instead of itself, by its first bytes; None for anything that may be itself.

    Example:
        >>> stand_in(b"<!DOCTYPE html><title>Log in</title>").words
        'a web page, such as that of a login or a proxy, not the file itself'
    """
    text = start.removeprefix(MARK).lstrip().lower()
    if text.startswith(LFS_START):
        return LFS_POINTER
    if text.startswith(b"<!--"):  # a comment before the page
        text = text.partition(b"-->")[2].lstrip()
    return WEB_PAGE if text.startswith(PAGE_STARTS) else None


def stand_in_at(path: str | Path) -> StandIn | None:
    """Return what lies at a path in place of a file; None where that can't be told, or nothing lies there."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116  (a pipe would block when opened)
            return None
        with open(path, "rb") as stream:  # noqa: PTH123  (thousands of files)
            return stand_in(stream.read(START_BYTES))
    except OSError:
        return None


def refuse_stand_in(path: str | Path, what: str) -> None:
    """Refuse a file that stands in place of what was asked for.

    Args:
        path: The file.
        what: What was asked for, in words: "this image".

    Raises:
        UserError: It is a pointer of Git LFS, or a web page.
    """
    found = stand_in_at(path)
    if found is not None:
        raise UserError(f"{what} is {found.words}", value=path, fix=found.fix)


def fix_of(reasons: list[str], otherwise: str) -> str:
    """Return how files are had that can't be read for some reasons, where one of these is that something stands in.

    Args:
        reasons: Words that name why, each of them with those of a stand-in where there is one.
        otherwise: What to do where nothing stands in.

    Returns:
        The fix of what stands in, else the other one.
    """
    known = (LFS_POINTER, WEB_PAGE)
    return next((one.fix for one in known if any(one.words in reason for reason in reasons)), otherwise)
