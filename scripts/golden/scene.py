"""What is played: scenes, each a folder of its own in which commands follow one another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

Edit = Callable[[Path], None]
"""Changes something in a scene's folder before a command, such as a byte of a file."""


@dataclass(frozen=True)
class Outcome:
    """What a command left behind.

    Attributes:
        code: Exit code; None where it had to be stopped.
        out: What it printed.
        err: What it wrote to standard error.
    """

    code: int | None
    out: str
    err: str


@dataclass(frozen=True)
class Step:
    """One command.

    Attributes:
        name: Its name within the scene.
        line: The command line after ``histotune``, as a shell reads it.
        edits: What is changed in the scene's folder first.
        code: The exit code that a sound record has.
        environment: Variables for this command alone.
        then: Further commands that follow from what it printed.
    """

    name: str
    line: str
    edits: tuple[Edit, ...] = ()
    code: int = 0
    environment: Mapping[str, str] = field(default_factory=dict)
    then: Callable[[Outcome], Iterable[Step]] | None = None


@dataclass(frozen=True)
class Scene:
    """Commands that follow one another in a folder of their own, with a cache and a ledger of their own.

    Attributes:
        name: Its name in the record.
        steps: The commands.
        inputs: What is written before the first command.
        seconds_s: About how long it takes; the longest scenes begin first.
    """

    name: str
    steps: tuple[Step, ...]
    inputs: tuple[Edit, ...] = ()
    seconds_s: float = 5.0


def step(name: str, line: str, *edits: Edit, code: int = 0, **environment: str) -> Step:
    """Return a step; keyword arguments in upper case are environment variables."""
    return Step(name, " ".join(line.split()), edits, code, environment)


def mistake(name: str, line: str, *edits: Edit, **environment: str) -> Step:
    """Return a step that is expected to end in one message and exit code 2."""
    return step(name, line, *edits, code=2, **environment)
