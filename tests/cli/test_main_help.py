"""Every command explains itself: its help is printed, and no word of it is taken for markup."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest
from typer.main import get_command

from histotune.cli.main import app
from tests.conftest import CommandResult


def commands(command: object, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the words of every command, groups included."""
    yield path
    for name, inner in sorted(getattr(command, "commands", {}).items()):
        yield from commands(inner, (*path, name))


def command_of(path: tuple[str, ...]) -> object:
    found: object = get_command(app)
    for name in path:
        found = vars(found)["commands"][name]
    return found


def plain(text: str) -> str:
    """Return a text without spaces, line breaks and the lines of boxes."""
    return re.sub(r"[\s\u2500-\u257f]", "", text)


@pytest.mark.parametrize("path", list(commands(get_command(app))), ids=lambda path: " ".join(path) or "histotune")
def test_the_help_of_every_command_says_all_it_has_to_say(
    path: tuple[str, ...], histotune: Callable[..., CommandResult]
) -> None:
    result = histotune(*path, "--help")
    assert result.code == 0, result.err
    shown = plain(result.out)
    for option in vars(command_of(path))["params"]:
        if text := getattr(option, "help", None):
            assert plain(text.replace("\\[", "[")) in shown, text
