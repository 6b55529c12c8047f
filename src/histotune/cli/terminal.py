"""How the command line speaks: each message once, on one line, as text; help in colours; mistakes in one message."""

from __future__ import annotations

import logging
import shlex
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand, TyperGroup

from histotune.tools.streams import PlainStream, one_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from typer import Typer

ANYWHERE = ("--debug", "--quiet")
"""Options of every command, which may stand before or after its name."""
MISTYPED: type[Exception] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
"""What a command line that can't be read raises; the class lies elsewhere from version to version of Typer."""


# ------------------------------------------------------------------------------
# Messages: what is logged reaches standard error once, on one line, as text.


class SaidOnce(logging.Filter):
    """Lets every message pass once; details for ``--debug`` pass as often as they come."""

    def __init__(self) -> None:
        super().__init__()
        self._said: set[tuple[int, str]] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is said."""
        said = (record.levelno, record.getMessage())
        if record.levelno > logging.DEBUG and said in self._said:
            return False
        self._said.add(said)
        return True


class PlainMessages(logging.Formatter):
    """Messages on one line each, warnings named so; names in them can neither steer a terminal nor begin a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as it is shown; a traceback, where there is one, keeps its lines."""
        text = one_line(record.getMessage())
        if record.levelno >= logging.WARNING:
            text = f"warning: {text}"
        elif record.levelno <= logging.DEBUG:
            text = f"debug: {record.name.removeprefix('histotune.')}: {text}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


class ErrorStream(logging.StreamHandler[Any]):
    """Writes to whatever standard error is now, since a progress bar puts itself in its place while it moves."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)
        self.setFormatter(PlainMessages())
        self.addFilter(SaidOnce())

    @property
    def stream(self) -> Any:  # noqa: ANN401
        """Standard error."""
        return sys.stderr


def log_to_terminal(level: int) -> None:
    """Show what histotune logs from a level on, and the warnings of other libraries."""
    logging.basicConfig(level=logging.WARNING, handlers=[ErrorStream()], force=True)
    logging.getLogger("histotune").setLevel(level)


# ------------------------------------------------------------------------------
# Commands: help in colours, the order of the work, Ctrl-C with what is kept.


@contextmanager
def _in_colours() -> Iterator[None]:
    """Send what is printed meanwhile to a terminal as it is: help is our own text, and Typer colours it."""
    plain = sys.stdout
    if isinstance(plain, PlainStream) and plain.isatty():
        sys.stdout = plain.raw
    try:
        yield
    finally:
        sys.stdout = plain


class ExplainedCommand(TyperCommand):
    """A command whose help is in colours at a terminal."""

    def format_help(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401  (Typer's classes lie elsewhere by version)
        """Print the help."""
        with _in_colours():
            super().format_help(ctx, formatter)


class ExplainedGroup(TyperGroup):
    """Commands whose help is in colours, and that say, when stopped by hand, what is kept and which command goes on."""

    def format_help(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401
        """Print the help."""
        with _in_colours():
            super().format_help(ctx, formatter)

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401
        """Run a command; Ctrl-C ends it with one message, since Typer would end it without a word."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            again = shlex.join(["histotune", *sys.argv[1:]])
            sys.stderr.write(
                f"\nstopped; finished embeddings and solved fits are kept. The same command resumes:\n  {again}\n"
            )
            raise SystemExit(130) from None


def explain_in_colours(app: Typer) -> None:
    """Give all commands of an application, those of its groups too, help in colours."""
    for command in app.registered_commands:
        command.cls = ExplainedCommand
    for group in app.registered_groups:
        group.cls = ExplainedGroup
        if group.typer_instance is not None:
            explain_in_colours(group.typer_instance)


def run_app(app: Typer) -> None:
    """Run the command that was typed; one that can't be read is one message and exit code 2."""
    try:
        code = app(standalone_mode=False)
    except MISTYPED as error:
        raise SystemExit(_explain(error)) from None
    except typer.Abort:
        sys.stderr.write("stopped\n")
        raise SystemExit(1) from None
    if isinstance(code, int) and code:
        raise SystemExit(code)


def _explain(error: Any) -> int:  # noqa: ANN401
    """Say what is wrong with a command line, and where its help is; return the exit code."""
    words = one_line(error.format_message())
    if type(error).__name__ != "NoArgsIsHelpError":  # that one has shown the help
        path = getattr(getattr(error, "ctx", None), "command_path", "") or "histotune"
        command = " ".join(["histotune", *path.split()[1:]]) if not path.startswith("python") else path
        sys.stderr.write(f"error: {words[:1].lower()}{words[1:]}\n  fix: see what it takes: {command} --help\n")
    return int(getattr(error, "exit_code", 2))


def with_options_first(words: Sequence[str]) -> list[str]:
    """Return a command line on which the options of every command stand before its name, wherever they were typed.

    Example:
        >>> with_options_first(["histotune", "demo", "--debug"])
        ['histotune', '--debug', 'demo']
    """
    end = words.index("--") if "--" in words else len(words)
    moved = [word for word in words[1:end] if word in ANYWHERE]
    return [*words[:1], *moved, *(word for word in words[1:end] if word not in ANYWHERE), *words[end:]]
