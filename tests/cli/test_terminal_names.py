"""No name of a class, file, group or site steers a terminal, passes for a line of its own, or is read as markup."""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import CommandResult

Histotune = Callable[..., CommandResult]
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="such names are no file names there")
QUICK = ("--set", "sweep.penalties=[0.01,1]", "--set", "sweep.folds=3", "--set", "evaluation.outer_folds=3",
         "--set", 'evaluation.floors=["majority"]', "--set", "interval.n_resamples=200",
         "--backbone", "colour-histogram")  # fmt: skip
STEERS = {
    "escapes": "\x1b[5;35mc\x1b[0m\x1b]0;owned\x07\x1b]8;;file:///etc\x1b\\l\x9b2J\x9d0;t\x9c\r\x1b[A\u202eexe.gnp",
    "lines": "x\nF!\u2028F!\x85F!\x0bF!",
    "markup": "[red]r[/red][bold] [/] [/nothing] [link=file:///etc]l[/link]",
}
ESCAPES = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
FORGED = re.compile(r"^F!", re.MULTILINE)  # at the margin, where our own lines begin
COMMANDS = {
    "describe": ("data", "describe", "tiles", "--data", "{data}"),
    "audit": ("data", "audit", "tiles", "--data", "{data}", "--split", "grouped-3-seed0", "--out", "audit"),
    "split": ("data", "split", "tiles", "--data", "{data}", "--split", "grouped-3-seed0"),
    "diff": ("data", "diff", "tiles", "{data}", "{other}"),
    "embed": ("embed", "tiles", "--data", "{data}", "--backbone", "colour-histogram"),
    "run": ("run", "tiles", "--data", "{data}", "--out", "run", *QUICK),
    "sweep": ("sweep", "tiles", "--data", "{data}", "--out", "head", *QUICK[:4], *QUICK[-2:]),
    "evaluate": ("evaluate", "run", "tiles", "--data", "{data}"),
    "exclude": ("evaluate", "run", "tiles", "--data", "{data}", "--exclude-seen"),
    "transfer": ("transfer", "run", "tiles", "--data", "{data}", "--no-images", "--out", "transfer"),
    "predict": ("predict", "run", "{folder}", "--out", "predictions.csv"),
    "compare": ("compare", "run", "run2", "--permutations", "99"),
    "report": ("report", "run"),
    "trials": ("trials",),
    "cache": ("cache", "ls"),
    "no such class": ("run", "tiles", "--data", "{data}", "--out", "no", "--set", "source.positive_class=nothing"),
    "no such file": ("data", "describe", "tiles", "--data", "{folder}/nothing{steer}"),
    "mistyped": ("run{steer}",),
    "mistyped option": ("run", "--{steer}"),
}
DETAILED = ("run", "sweep", "evaluate", "transfer")  # whose details are looked at, too


def write_tiles(folder: Path, steer: str) -> Path:
    """Write a table of 36 tiles whose every name, that of each file too, steers."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    rows = [("path", "label", "group", "site", "scanner")]
    for number in range(36):
        label = number % 2
        name = f"{number}-{steer.replace('/', '|')}.png"
        level = rng.normal(160 - 20 * label, 15)
        pixels = rng.normal(level, 20, (24, 32, 3)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / name)
        site = f"{number // 6 % 2}{steer}"
        rows.append((name, f"{'ab'[label]}{steer}", f"{'gh'[label]}{number // 6}{steer}", site, site))
    with (folder / "tiles.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows(rows)
    return folder / "tiles.csv"


def check(text: str, what: str) -> None:
    assert not ESCAPES.search(text.replace("\r\n", "\n")), f"{what}: {text!r}"
    assert not FORGED.search(text), f"{what}: {text!r}"
    assert "Traceback" not in text, f"{what}: {text}"


@pytest.mark.parametrize("kind", STEERS)
def test_names_are_text_in_whatever_a_command_says(
    histotune: Histotune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    steer = STEERS[kind]
    data, other = write_tiles(tmp_path / "data", steer), write_tiles(tmp_path / "other", f"2{steer}")
    places = {"data": data, "other": other, "folder": data.parent, "steer": steer}
    finished = []
    for name, words in COMMANDS.items():
        detail = ("--debug",) if name in DETAILED else ()
        done = histotune(*(word.format(**places) if "{" in word else word for word in words), *detail)
        check(done.out, name)
        check(done.err, name)
        assert done.code in (0, 1, 2), name
        finished += [name] if done.code != 2 else []
        if name == "run":
            assert done.code == 0, done.err
            assert kind != "markup" or f"tells b{steer} from a{steer}" in done.out  # shown as it is written
            shutil.copytree(tmp_path / "run", tmp_path / "run2")
    assert {"describe", "split", "embed", "run", "sweep", "evaluate", "predict", "report"} <= set(finished)


@pytest.mark.parametrize("kind", ["escapes", "lines"])
def test_names_are_text_at_a_terminal_where_tables_and_bars_are_coloured(tmp_path: Path, kind: str) -> None:
    import pty

    steer = STEERS[kind]
    data = write_tiles(tmp_path / "data", steer)
    for words in (
        ("data", "audit", "tiles", "--data", str(data), "--split", "grouped-3-seed0", "--out", "audit"),
        ("run", "tiles", "--data", str(data), "--out", "run", *QUICK),
        ("evaluate", "run", "tiles", "--data", str(data)),
    ):
        text = at_terminal(pty, words, tmp_path)
        assert "Traceback" not in text, text
        plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
        assert "\x1b[5;35m" not in text and "\x1b]" not in text and "\x07" not in text and "\x9b" not in text
        assert not FORGED.search(plain.replace("\r", "\n")), plain


def at_terminal(pty: object, words: tuple[str, ...], folder: Path) -> str:
    """Return everything that a command writes to a terminal of 160 columns."""
    ours, theirs = pty.openpty()  # type: ignore[attr-defined]
    places = {"XDG_CACHE_HOME": str(folder / "cache"), "XDG_STATE_HOME": str(folder / "state"), "COLUMNS": "160"}
    process = subprocess.Popen(
        [sys.executable, "-m", "histotune", *words],
        stdin=theirs, stdout=theirs, stderr=theirs, cwd=folder, env={**os.environ, **places},
    )  # fmt: skip
    os.close(theirs)
    parts = []
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # Linux's word for the end of a terminal
            break
        if not part:
            break
        parts.append(part)
    os.close(ours)
    assert process.wait(timeout=300) in (0, 1)
    return b"".join(parts).decode("utf-8", "replace")
