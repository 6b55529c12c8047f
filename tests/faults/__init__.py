"""Commands that are killed, or find the disk full, at the n-th change they make to files.

A small library in C is put between the process and the system (``LD_PRELOAD``); it counts every creation, write, fsync,
rename, unlink, mkdir and rmdir below one folder. A server imports histotune once and forks a child for every command,
so that hundreds of kills take minutes.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Literal

import pytest

FOLDER = Path(__file__).parent
ACTIONS = {"count": 0, "kill": 1, "torn": 2, "full": 3}
Action = Literal["count", "kill", "torn", "full"]


@dataclass(frozen=True)
class Change:
    """One change to a file: its number, the call, and the path below the watched folder."""

    number: int
    call: str
    path: str


@dataclass(frozen=True)
class Watched:
    """How a command ended (a killed one with -9), what it printed and what it changed."""

    code: int
    out: str
    err: str
    changes: tuple[Change, ...]


@cache
def library() -> Path:
    """Return the compiled library; the test is skipped where none can be made."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if sys.platform != "linux" or compiler is None:
        pytest.skip("stopping a process at its n-th change needs Linux and a C compiler")
    folder = mkdtemp(prefix="histotune-faults-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    built = Path(folder) / "faults.so"
    made = subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-o", str(built), str(FOLDER / "faults.c"), "-ldl"],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode != 0:
        pytest.skip(f"the C compiler can't build a shared library: {made.stderr.strip()[:200]}")
    return built


class Server:
    """Runs histotune's commands in forked children whose changes below one folder are counted.

    Args:
        root: Folder whose changes count.
        notes: Folder for what is noted; it must lie outside of ``root``.
        port: Of a server of small copies of data sets, to fetch from.
    """

    def __init__(self, root: Path, notes: Path, port: int | None = None) -> None:
        notes.mkdir(parents=True, exist_ok=True)
        self.control, self.log, self.notes = notes / "control", notes / "changes.tsv", notes
        self.control.write_bytes(bytes(24))
        surroundings = {
            **os.environ,
            "LD_PRELOAD": str(library()),
            "FAULTS_ROOT": str(root),
            "FAULTS_CONTROL": str(self.control),
            "FAULTS_LOG": str(self.log),
            **({} if port is None else {"FAULTS_PORT": str(port)}),
        }
        self.process = subprocess.Popen(
            [sys.executable, str(FOLDER / "server.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=surroundings,
        )

    def run(self, arguments: Sequence[str | Path], cwd: Path, at: int = 0, action: Action = "count") -> Watched:
        """Run ``histotune ARGUMENTS``; at its change number ``at`` the action happens.

        Args:
            arguments: What stands behind ``histotune``.
            cwd: Working folder.
            at: Number of the change, from 1; 0 lets all pass.
            action: ``kill`` before the change, ``torn`` in the middle of a write, ``full``: no room from then on.
        """
        self.log.write_bytes(b"")
        self.control.open("r+b").write(struct.pack("=3q", 0, at, ACTIONS[action]))
        out, err = self.notes / "out.txt", self.notes / "err.txt"
        asked = {"arguments": [str(one) for one in arguments], "cwd": str(cwd), "out": str(out), "err": str(err)}
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, "the server ended"
        self.control.open("r+b").write(bytes(24))
        read = [path.read_text(encoding="utf-8", errors="replace") for path in (out, err)]
        return Watched(int(answer), read[0], read[1], tuple(self._changes()))

    def _changes(self) -> Iterator[Change]:
        for line in self.log.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
            number, call, path = line.split("\t", 2)
            yield Change(int(number), call, path)


@contextmanager
def serving(root: Path, notes: Path, port: int | None = None) -> Iterator[Server]:
    """Yield a server, and stop it."""
    server = Server(root, notes, port)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.communicate()
