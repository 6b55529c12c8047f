"""What histotune says about itself: every help page, every recipe's fields, the backbones, the machine."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from . import edits, models
from .scene import Scene, Step, step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .scene import Outcome

PANEL = re.compile(r"^╭─ Commands .*?^╰", re.MULTILINE | re.DOTALL)
NAME = re.compile(r"^│ ([a-z][\w-]*)  ", re.MULTILINE)
ALLOWED = re.compile(r"^  allowed: (.*)$", re.MULTILINE)
ROW = re.compile(r"^│ *([a-z][\w.-]*) ", re.MULTILINE)


def help_of(*path: str) -> Step:
    """Return the step that prints a command's help, followed by those of the commands below it."""
    words = " ".join(path)
    return Step("-".join(path) or "histotune", f"{words} --help".strip(), then=lambda outcome: below(path, outcome))


def below(path: tuple[str, ...], outcome: Outcome) -> Iterator[Step]:
    """Yield the help of every command that a help page lists."""
    for panel in PANEL.findall(outcome.out):
        for name in NAME.findall(panel):
            yield help_of(*path, name)


def names_allowed(line: str) -> Callable[[Outcome], Iterator[Step]]:
    """Return what yields a step for every name that a message offers as allowed."""

    def follow(outcome: Outcome) -> Iterator[Step]:
        for names in ALLOWED.findall(outcome.err):
            for name in names.split(", "):
                yield step(name, line.format(name))

    return follow


def rows_shown(line: str) -> Callable[[Outcome], Iterator[Step]]:
    """Return what yields a step for every name in the first column of a table."""

    def follow(outcome: Outcome) -> Iterator[Step]:
        for name in dict.fromkeys(ROW.findall(outcome.out)):
            yield step(name, line.format(name))

    return follow


HELP = Scene(
    "help",
    (
        help_of(),
        step("no-words", "", code=2),
        step("short", "-h"),
        step("data-alone", "data", code=2),
        step("cache-alone", "cache", code=2),
        step("config-alone", "config", code=2),
    ),
    seconds_s=24,
)  # fmt: skip
CONFIG = Scene(
    "config",
    (
        Step("unknown", "config show no-such-recipe", code=2, then=names_allowed("config show {}")),
        step("set", """config show breakhis --set sweep.folds=3 --set 'sweep.penalties=[0.1,1]'
             --set view.name=tiles --set evaluation.final=true --set source.path=elsewhere"""),
        step("sgd", "config show tiles --set sweep.sgd=common-wandb --set sweep.sgd.n_trials=7"),
    ),
    seconds_s=10,
)  # fmt: skip
BACKBONES = Scene(
    "backbones",
    (
        Step("table", "backbones", then=rows_shown("backbones show {}")),
        step("by-hub-id", "backbones show kaiko-ai/midnight"),
        step("check", "backbones check lite0 colour-histogram"),
        step("check-missing", "backbones check midnight uni2-h conch phikon", code=1),
        step("check-folder", "backbones check dinov2", code=2),
    ),
    (models.dinov2(),),
    seconds_s=32,
)  # fmt: skip
DOCTOR = Scene(
    "doctor",
    (
        step("quick", "doctor"),
        step("cache", "doctor --cache cache", edits.text("cache/notes.txt", "kept")),
        step("deep", "doctor --deep"),
        step("no-trials", "trials"),
        step("no-cache", "cache ls"),
        step("debug", "--debug trials"),
    ),
    seconds_s=9,
)  # fmt: skip
SCENES = (HELP, CONFIG, BACKBONES, DOCTOR)
