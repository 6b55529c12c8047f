"""Where results go: one command at a time at one place, no link or device replaced, nothing of killed runs left."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from histotune.tools.atomic import claimed
from tests.conftest import CommandResult

Command = Callable[..., CommandResult]
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="locks on open files, links and pipes")
NOTHING = ("--data", "no-such.csv")  # a claim is staked before any data is read
FOLDERS = {
    "run": ("run", "tiles", *NOTHING),
    "demo": ("demo",),
    "protocol": ("run", "eva-breakhis", "--data", "no-such-folder"),
    "sweep": ("sweep", "tiles", *NOTHING),
    "matrix": ("matrix", "tiles", *NOTHING),
    "transfer": ("transfer", "no-such-run", "tiles", *NOTHING),
    "compare": ("compare", "no-such-run", "nor-this"),
    "audit": ("data", "audit", "tiles", *NOTHING),
}
FILES = {
    "croissant": ("data", "croissant", "tiles", *NOTHING),
    "split": ("data", "split", "tiles", *NOTHING),
    "estimate-mpp": ("data", "estimate-mpp", "tiles", *NOTHING),
    "predict": ("predict", "no-such-head", "no-such.png"),
    "leaderboard": ("leaderboard", "--run", "no-such-run"),
}
PLACES = [*((name, words, True) for name, words in FOLDERS.items()),
          *((name, words, False) for name, words in FILES.items())]  # fmt: skip
READING = [one for one in PLACES if one[0] != "demo"]  # the demo needs no data, and would run
every_reading = pytest.mark.parametrize(
    ("words", "folder"), [one[1:] for one in READING], ids=[one[0] for one in READING]
)
every_command = pytest.mark.parametrize(
    ("words", "folder"), [one[1:] for one in PLACES], ids=[one[0] for one in PLACES]
)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def named(stem: str, words: tuple[str, ...]) -> str:
    """Return a name that the command may write: a table of predictions is known by its ending."""
    return f"{stem}.csv" if words[0] == "predict" else f"{stem}.json"


def listed(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@every_command
def test_a_second_process_at_one_place_is_refused_at_once(
    histotune: Command, words: tuple[str, ...], folder: bool
) -> None:
    out = named("out", words)
    with claimed(Path(out), folder=folder):
        done = histotune(*words, "--out", out)
    assert done.code == 2
    assert "another process is writing there already" in done.err
    assert "no-such" not in done.err
    assert listed(Path()) == []


@every_command
def test_links_and_pipes_are_refused_and_stay(histotune: Command, words: tuple[str, ...], folder: bool) -> None:
    link, pipe = named("link", words), named("pipe", words)
    Path(link).symlink_to("nowhere")
    os.mkfifo(pipe)
    for name, what in ((link, "a link"), (pipe, "a pipe"), (os.devnull, "a device")):
        done = histotune(*words, "--out", name)
        assert done.code == 2
        if words[0] == "predict" and name == os.devnull:
            continue  # refused for its name already: no table ends so
        assert f"{what} " in done.err
        assert "it is not replaced" in done.err
    assert listed(Path()) == [link, pipe]


@every_command
def test_the_folder_one_is_in_is_refused_in_one_message(
    histotune: Command, words: tuple[str, ...], folder: bool
) -> None:
    Path("kept").write_text("mine", encoding="utf-8")
    for name in (".", "..", "/"):
        done = histotune(*words, "--out", name)
        assert done.code == 2
        assert done.err.count("error:") == 1
        assert "no-such" not in done.err
    assert listed(Path()) == ["kept"]


@every_reading
def test_what_a_killed_run_left_goes_with_the_next_one(
    histotune: Command, words: tuple[str, ...], folder: bool
) -> None:
    out = named("out", words)
    left = Path(f".{out}.abcd1234.partial")
    if folder:
        left.mkdir()
        (left / "half").write_bytes(b"x")
        Path(f".{out}.abcd1234.old").mkdir()
        Path(f".{out}.abcd1234.old/earlier").write_bytes(b"x")
    else:
        left.write_bytes(b"half")
    Path(f".{out}.lock").write_bytes(b"")
    assert histotune(*words, "--out", out, "--help").code == 0  # a look at the help changes nothing
    assert left.exists()
    assert histotune(*words, "--out", out).code == 2
    assert listed(Path()) == ([out] if folder else [])
    assert not folder or listed(Path(out)) == ["earlier"]


@every_command
def test_a_place_that_cannot_be_written_is_found_before_any_data_is_read(
    histotune: Command, words: tuple[str, ...], folder: bool
) -> None:
    Path("file").write_bytes(b"")
    for name in ("file/out.json", "/proc/out.json", "x" * 300):
        done = histotune(*words, "--out", name)
        assert done.code == 2
        assert done.err.count("error:") == 1
        assert "--out" in done.err
        assert "no-such" not in done.err
    assert listed(Path()) == ["file"]


@every_reading
def test_no_empty_folder_stays_where_nothing_was_written(
    histotune: Command, words: tuple[str, ...], folder: bool
) -> None:
    assert histotune(*words, "--out", "new/deep/out.json").code == 2
    assert listed(Path()) == []


@pytest.mark.parametrize("words", [
    ("report", "gone"), ("evaluate", "gone", "tiles", *NOTHING), ("predict", "gone", "a.png"),
    ("transfer", "gone", "tiles", *NOTHING), ("compare", "gone", "other"), ("leaderboard", "--run", "gone"),
    ("run", "--from", "gone"), ("config", "show", "gone"), ("evaluate", "gone/head", "tiles", *NOTHING),
    ("report", "gone", "--out", "page.html"),
], ids=" ".join)  # fmt: skip
def test_a_result_that_was_set_aside_comes_back_when_it_is_looked_for(
    histotune: Command, words: tuple[str, ...]
) -> None:
    aside = Path(".gone.abcd1234.old")
    aside.mkdir()
    (aside / "scores.json").write_bytes(b"{}")
    assert histotune(*words).code == 2  # it is no whole run
    assert listed(Path("gone")) == ["scores.json"]
    assert not aside.exists()


def test_what_a_running_process_has_set_aside_is_left_to_it(histotune: Command) -> None:
    aside = Path(".gone.abcd1234.old")
    with claimed(Path("gone"), folder=True):
        aside.mkdir()
        (aside / "scores.json").write_bytes(b"{}")
        histotune("report", "gone")
        assert listed(aside) == ["scores.json"]


@pytest.mark.parametrize("words", [
    FOLDERS["run"], FOLDERS["protocol"], FOLDERS["sweep"], FOLDERS["matrix"], FOLDERS["transfer"]
])  # fmt: skip
@pytest.mark.parametrize("kind", ["file above", "read-only", "pipe", "folder"])
def test_a_ledger_that_cannot_be_written_is_found_before_any_data_is_read(
    histotune: Command, words: tuple[str, ...], kind: str
) -> None:
    state = Path("state")
    match kind:
        case "file above":
            state.write_bytes(b"")
        case "read-only":
            state = Path("/proc/1")
        case "pipe":
            state.mkdir()
            os.mkfifo(state / "ledger.jsonl")
        case _:
            (state / "ledger.jsonl").mkdir(parents=True)
    done = histotune(*words, "--out", "out", "--set", f"ledger={state}")
    assert done.code == 2
    assert done.err.count("error:") == 1
    assert "--set ledger=FOLDER" in done.err
    assert "no-such" not in done.err
    assert not Path("out").exists()
