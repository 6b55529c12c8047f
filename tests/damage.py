"""Damage as disks and downloads do it, and a user without rights."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from histotune.tools.errors import UserError

NOBODY = 65534


def flip(data: bytes, place: int, bit: int) -> bytes:
    """Return the bytes with one bit changed."""
    changed = bytearray(data)
    changed[place] ^= 1 << bit
    return bytes(changed)


def one_byte_changes(data: bytes, *, places: Iterable[int] | None = None) -> Iterator[tuple[int, bytes]]:
    """Yield the place and the bytes of every change of one byte: two bits in turn, and the next digit for digits."""
    for place in range(len(data)) if places is None else places:
        byte = data[place]
        others = [byte ^ 1, byte ^ 0x20]
        if byte in b"0123456789":
            others.append(ord("0") + (byte - ord("0") + 1) % 10)
        for other in dict.fromkeys(others):
            yield place, data[:place] + bytes([other]) + data[place + 1 :]


def changed_bytes(path: Path, is_same: Callable[[], bool]) -> tuple[int, list[int]]:
    """Change every byte of a file once and read it; return the tries, and the places of changes that nobody told.

    Args:
        path: The file; it is as it was afterwards.
        is_same: Reads it. A UserError tells of the change; False says that it was believed.
    """
    whole, silent, n_tries = path.read_bytes(), [], 0
    for place, changed in one_byte_changes(whole):
        path.write_bytes(changed)
        n_tries += 1
        try:
            if not is_same():
                silent.append(place)
        except UserError:
            continue
    path.write_bytes(whole)
    return n_tries, silent


@contextmanager
def folder_for_everyone() -> Iterator[Path]:
    """Yield a folder that other users reach, which pytest's own folders are not."""
    folder = Path(tempfile.mkdtemp(prefix="histotune-test-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextmanager
def without_rights() -> Iterator[None]:
    """Run the block as a user to whom permission bits apply; root gives up its rights for that long."""
    if sys.platform == "win32":
        pytest.skip("permission bits")
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
