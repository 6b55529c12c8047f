"""Damage as disks and downloads do it, and a user without rights."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

NOBODY = 65534


def flip(data: bytes, place: int, bit: int) -> bytes:
    """Return the bytes with one bit changed."""
    changed = bytearray(data)
    changed[place] ^= 1 << bit
    return bytes(changed)


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
