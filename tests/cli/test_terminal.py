"""How the command line speaks: help in the order of the work with examples that work, messages once and as text."""

from __future__ import annotations

import io
import logging
import shlex
from collections.abc import Callable, Iterator

import pytest
import typer
from typer.main import get_command

from histotune.cli.main import PANEL_OF, PANELS, app
from histotune.cli.studies import with_wandb_mode
from histotune.cli.terminal import PlainMessages, SaidOnce, log_to_terminal, run_app, with_options_first
from histotune.tools.streams import PlainStream
from tests.conftest import CommandResult

ROOT = get_command(app)
EXAMPLE = "Example: "


def commands(command: object, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], object]]:
    """Yield every command with the words that call it, groups included."""
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*path, name))


COMMANDS = dict(commands(ROOT))
every_command = pytest.mark.parametrize("path", COMMANDS, ids=lambda path: " ".join(path) or "histotune")


def examples(path: tuple[str, ...]) -> list[str]:
    paragraphs = str(vars(COMMANDS[path])["help"]).strip().split("\n\n")
    return [" ".join(one.split()).removeprefix(EXAMPLE) for one in paragraphs if one.strip().startswith(EXAMPLE)]


def called(words: list[str]) -> tuple[object, list[str]]:
    """Return the command that words call, and what is left for it."""
    command: object = ROOT
    while words and words[0] in getattr(command, "commands", {}):
        command, words = vars(command)["commands"][words[0]], words[1:]
    return command, words


# Help


def test_every_command_has_its_panel_and_every_panel_its_commands() -> None:
    names = list(vars(ROOT)["commands"])
    assert sorted(names) == sorted(PANEL_OF), "cli/main.py: PANELS names every command, once"
    for name, command in vars(ROOT)["commands"].items():
        assert command.rich_help_panel == PANEL_OF[name]
    assert list(PANELS) == ["Start", "Data", "Train", "Judge", "Hand over", "Scale", "Upkeep"]


def test_the_help_shows_panels_and_commands_in_the_order_of_the_work(histotune: Callable[..., CommandResult]) -> None:
    shown = histotune("--help").out
    titles = [shown.index(f"─ {panel} ─") for panel in PANELS]
    assert titles == sorted(titles)
    rows = [line.split()[1] for line in shown[titles[0] :].splitlines() if line.startswith("│ ") and line[2] != " "]
    assert rows == list(PANEL_OF)


@every_command
def test_the_help_of_every_command_ends_with_an_example(path: tuple[str, ...]) -> None:
    text = str(vars(COMMANDS[path])["help"]).strip()
    assert text.split("\n\n")[-1].startswith(EXAMPLE)
    for example in examples(path):
        assert shlex.split(example)[: len(path) + 1] == ["histotune", *path]


@every_command
def test_every_example_is_one_that_the_command_takes(path: tuple[str, ...]) -> None:
    from histotune.studies.recipes import recipe_names

    for example in examples(path):
        words = with_options_first(with_wandb_mode(shlex.split(example)))[1:]
        command, left = called(words)
        if hasattr(command, "commands"):
            assert not left
            continue
        context = command.make_context("histotune", left)  # type: ignore[attr-defined]
        names = {"breakhis", "pcam", "tiles"}
        for parameter, known in (("dataset", names), ("target", names), ("recipe", {*recipe_names()})):
            assert context.params.get(parameter) in {None, "BreakHis", *known}, example


@every_command
def test_the_example_of_every_command_is_seen_in_its_help(
    path: tuple[str, ...], histotune: Callable[..., CommandResult]
) -> None:
    shown = histotune(*path, "--help")
    assert shown.code == 0
    for example in examples(path):
        assert "".join((EXAMPLE + example).split()) in "".join(shown.out.split())


# At a terminal


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["data", "--help"], ["cache", "ls", "--help"]])
def test_help_at_a_terminal_shows_no_escapes(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Typer colours its help by itself; what shows names as text must not show these colours as text."""
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", PlainStream(terminal))
    monkeypatch.setattr("sys.argv", ["histotune", *words])
    run_app(app)
    assert "Usage:" in terminal.getvalue()
    assert "\\x1b" not in terminal.getvalue()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["rnu"], "no such command 'rnu'. Did you mean 'run'?"),
        (["embed", "--dta", "x"], "no such option: --dta"),
        (["embed"], "missing argument"),
        (["compare", "a", "--permutations", "few"], "invalid value for '--permutations'"),
        (["\x1b[31mred\nverdict: ok"], "\\x1b[31mred"),
    ],
)
def test_a_command_line_that_cannot_be_read_is_one_message(
    words: list[str], said: str, histotune: Callable[..., CommandResult]
) -> None:
    done = histotune(*words)
    assert done.code == 2
    assert done.err.count("error:") == 1
    assert said.lower() in done.err.lower()
    assert "--help" in done.err.splitlines()[-1]
    assert "\x1b" not in done.err
    assert not any(line.startswith("verdict") for line in done.err.splitlines())
    assert done.out == ""


def test_the_fix_of_a_mistyped_option_names_its_command(histotune: Callable[..., CommandResult]) -> None:
    assert "histotune data split --help" in histotune("data", "split", "--no-such").err


def test_a_refusal_to_go_on_is_a_message_and_exit_codes_are_kept() -> None:
    small = typer.Typer()

    @small.command()
    def stop(how: str) -> None:
        if how == "abort":
            raise typer.Abort
        raise typer.Exit(int(how))

    for how, code in (("abort", 1), ("3", 3)):
        with pytest.raises(SystemExit) as stopped, pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.argv", ["histotune", how])
            run_app(small)
        assert stopped.value.code == code


# Messages


@pytest.fixture
def _logging_as_before() -> Iterator[None]:
    root, own = logging.getLogger(), logging.getLogger("histotune")
    before = (root.level, root.handlers[:], own.level)
    yield
    root.setLevel(before[0])
    root.handlers[:] = before[1]
    own.setLevel(before[2])


@pytest.mark.usefixtures("_logging_as_before")
def test_a_message_is_said_once_in_a_run_and_details_as_often_as_they_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    log_to_terminal(logging.DEBUG)
    log = logging.getLogger("histotune.embeddings.precision")
    for _ in range(3):
        log.info("using %s", "fp32")
        log.debug("error %g", 0.5)
    log.info("using %s", "bf16")
    log.warning("using %s", "fp32")
    lines = stream.getvalue().splitlines()
    assert [line for line in lines if not line.startswith("debug")] == [
        "using fp32",
        "using bf16",
        "warning: using fp32",
    ]
    assert lines.count("debug: embeddings.precision: error 0.5") == 3
    log_to_terminal(logging.INFO)  # the next run says it again
    log.info("using %s", "fp32")
    assert stream.getvalue().splitlines()[-1] == "using fp32"
    log.debug("not shown")
    assert "not shown" not in stream.getvalue()


def test_a_name_in_a_message_neither_steers_the_terminal_nor_begins_a_line() -> None:
    record = logging.LogRecord(
        "histotune.x", logging.WARNING, "", 1, "%s is left out", ("a\nverdict: ok\r\x1b]0;t\x07\x9b2J\u2028b",), None
    )
    text = PlainMessages().format(record)
    assert text == "warning: a verdict: ok \\x1b]0;t\\x07\\x9b2J b is left out"
    assert SaidOnce().filter(record)


def test_options_of_every_command_stand_anywhere(histotune: Callable[..., CommandResult]) -> None:
    assert with_options_first(["histotune", "run", "x", "--quiet", "--", "--debug"]) == [
        "histotune", "--quiet", "run", "x", "--", "--debug",
    ]  # fmt: skip
    assert histotune("cache", "ls", "--debug").code == 0
