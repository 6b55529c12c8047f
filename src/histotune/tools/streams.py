"""What a terminal is sent: text alone, in an encoding it has; a stream that can't be written ends with one message."""

from __future__ import annotations

import errno
import os
import re
import shlex
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but tab and line feed, marks that reverse the order of letters, bytes that are no UTF-8."""
LINE_BREAKS = re.compile("[\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]+")
"""What begins a line, in a terminal, a file or a browser."""
BAR = re.compile("(?:\r|\x1b\\[A)*")
"""How a progress bar's text begins at a terminal: it goes back to the start of its line, or a line up."""
PIPE_CLOSED = 141  # as a shell reports a process that SIGPIPE ended
NO_MEMORY = ("can't allocate memory", "out of memory", "not enough memory", "bad allocation", "std::bad_alloc")


class PlainStream:
    r"""A text stream in which control characters are shown as escapes, so that a file's name can't steer a terminal.

    Args:
        stream: The stream to write to.

    Example:
        >>> PlainStream(sys.stdout).write("a name with \x1b[31m colour\n") > 0
        a name with \x1b[31m colour
        True
    """

    def __init__(self, stream: TextIO) -> None:
        self.raw = stream

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  (whatever the stream has)
        """Return everything else that the stream has."""
        return getattr(self.raw, name)

    def write(self, text: str) -> int:
        """Write text without control characters."""
        with _explained(self.raw):
            bar = BAR.match(text) if self.raw.isatty() else None
            start = 0 if bar is None else bar.end()
            return self.raw.write(text[:start] + shown(text[start:]))

    def writelines(self, lines: Iterable[str]) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Hand on what was written so far."""
        with _explained(self.raw):
            self.raw.flush()


def shown(text: str) -> str:
    r"""Return text with control characters as escapes.

    Example:
        >>> print(shown("\x1b]0;title\x07"))
        \x1b]0;title\x07
    """
    return CONTROL.sub(_escape, text)


def one_line(text: str) -> str:
    r"""Return text on one line, control characters as escapes, so that a name can't pass for a line of its own.

    Example:
        >>> print(one_line("tumour\nverdict: ok\x1b[0m"))
        tumour verdict: ok\x1b[0m
    """
    return shown(LINE_BREAKS.sub(" ", text)).replace("\t", " ")


def is_text(name: str) -> bool:
    """Return whether a name is UTF-8; bytes of other encodings are lone surrogates in it."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def escaped(name: str) -> str:
    r"""Return a name with the bytes that are no UTF-8 as escapes, for a person to recognise it.

    Example:
        >>> print(escaped("caf\udce9.png"))
        caf\xe9.png
    """
    return os.fsencode(name).decode("utf-8", "backslashreplace") if not is_text(name) else name


def move_command(path: str) -> str:
    """Return a command that gives a file or folder, or the first folder above it that needs one, a name in UTF-8."""
    parts = Path(path).parts
    until = next((end for end in range(1, len(parts) + 1) if not is_text(parts[end - 1])), len(parts))
    odd = str(Path(*parts[:until]))
    quoted = escaped(odd.replace("'", "\\'"))
    return f"mv $'{quoted}' {shlex.quote(os.fsencode(odd).decode('latin-1'))}"


def rename_command(folder: str) -> str:
    """Return a command that renames all below a folder whose names are Latin-1 in place of UTF-8."""
    script = (
        "import os, sys; [os.rename(os.path.join(d, n), os.path.join(d, n.decode('latin-1').encode())) "
        "for d, s, f in os.walk(os.fsencode(sys.argv[1]), topdown=False) for n in s + f "
        "if n.decode('utf-8', 'ignore').encode() != n]"
    )
    return f'python3 -c "{script}" {shlex.quote(folder)}'


def prepare_streams() -> None:
    """Let standard output and error show every text: what their encoding lacks becomes an escape."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None or isinstance(stream, PlainStream):
            continue
        with suppress(AttributeError, ValueError):  # a stream that a test or a notebook put there
            stream.reconfigure(errors="backslashreplace")
        setattr(sys, name, cast("TextIO", PlainStream(stream)))


def terminal_stream(stream: TextIO) -> TextIO:
    """Return the stream to send colours to: that of a terminal without the filter, any other as it is."""
    raw = stream.raw if isinstance(stream, PlainStream) else stream
    return raw if raw.isatty() else stream


@contextmanager
def explained_memory() -> Iterator[None]:
    """Turn memory that can't be had into one message."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        words = str(error)
        if not isinstance(error, MemoryError) and not any(one in words.lower() for one in NO_MEMORY):
            raise
        raise UserError(
            f"there is not enough memory ({words.splitlines()[0] if words else 'an allocation failed'})",
            fix="free memory, or take less at once: --set embedding.batch_size=8 --set loader.workers=1",
        ) from error


def finish_streams() -> None:
    """Hand on what was written; afterwards nothing can fail any more."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()


@contextmanager
def _explained(stream: TextIO) -> Iterator[None]:
    """Turn a full disk behind a stream into one message, and a closed pipe into a quiet end."""
    try:
        yield
    except BrokenPipeError:
        _discard(stream)
        raise SystemExit(PIPE_CLOSED) from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EBADF):
            raise
        _discard(stream)
        raise UserError(
            f"the output can't be written ({error.strerror})",
            value=getattr(stream, "name", None),
            fix="free space where it goes, or write it elsewhere (--out, or > FILE)",
        ) from error


def _discard(stream: TextIO) -> None:
    """Send what a stream still holds nowhere, so that closing it at the end raises nothing."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def _escape(found: re.Match[str]) -> str:
    code = ord(found.group())
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
