"""Two records held against one another: file by file, key by key, each difference in a line of its own."""

from __future__ import annotations

import csv
import difflib
import io
import json
from contextlib import suppress
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

ABOUT, TIMES = "about.json", "times.json"
"""Files of a record that say how it was made, and are not compared."""
ABSENT = "(absent)"
MOST_LINES_MATCHED = 4000
"""Longer texts are compared line by line at the same place, since matching them takes time that grows squarely."""
SHOWN = 60


@dataclass(frozen=True)
class Difference:
    """One value that differs.

    Attributes:
        command: ``SCENE/STEP``.
        file: The file of that command: ``stdout.txt``, ``outcome.json``, ``files/...``.
        key: Key path, cell or line; empty for a whole file.
        old: The older value as text.
        new: The newer value as text.
    """

    command: str
    file: str
    key: str
    old: str
    new: str

    def __str__(self) -> str:
        """Return it as one line, long values cut around their first difference."""
        old, new = shorten(self.old, self.new)
        where = " / ".join(part for part in (self.command, self.file, self.key) if part)
        return f"{where}: {old} -> {new}"


def compare_records(old: Path, new: Path, wanted: Sequence[str] | None = None) -> Iterator[Difference]:
    """Yield every difference between two records.

    Args:
        old: Folder of the older record.
        new: Folder of the newer one.
        wanted: Commands (``SCENE/STEP``) to look at; None takes all.
    """
    files = sorted(files_of(old) | files_of(new))
    for file in files:
        command, rest = split_name(file)
        if wanted is not None and command not in wanted:
            continue
        before, after = old / file, new / file
        if not before.is_file():
            yield Difference(command, rest, "", ABSENT, "(a file)")
        elif not after.is_file():
            yield Difference(command, rest, "", "(a file)", ABSENT)
        elif (first := before.read_bytes()) != (second := after.read_bytes()):
            for key, one, other in compare_texts(rest, first.decode("utf-8"), second.decode("utf-8")):
                yield Difference(command, rest, key, one, other)


def files_of(record: Path) -> set[str]:
    """Return the files of a record, but for what says how it was made."""
    found = {path.relative_to(record).as_posix() for path in record.rglob("*") if path.is_file()}
    return found - {ABOUT, TIMES}


def split_name(file: str) -> tuple[str, str]:
    """Return the command of a file (``SCENE/STEP``) and the rest of its name."""
    scene, step, rest = file.split("/", 2)
    return f"{scene}/{step}", rest


def compare_texts(name: str, old: str, new: str) -> Iterator[tuple[str, str, str]]:
    """Yield (key, old, new) of every difference between two texts, by what their name says they are.

    Texts that hold the same values and are written in another way are told apart line by line.
    """
    found = list(_by_kind(name, old, new))
    yield from found or compare_lines(old.split("\n"), new.split("\n"))


def _by_kind(name: str, old: str, new: str) -> Iterator[tuple[str, str, str]]:
    if name.endswith(".csv"):
        yield from compare_cells(*(list(csv.reader(io.StringIO(text))) for text in (old, new)))
    elif name.endswith((".json", ".jsonl")):
        with suppress(json.JSONDecodeError):
            yield from compare_values("", *(_parse(name, text) for text in (old, new)))


def _parse(name: str, text: str) -> Any:  # noqa: ANN401  (JSON)
    return [json.loads(line) for line in text.splitlines()] if name.endswith(".jsonl") else json.loads(text)


def compare_values(path: str, old: Any, new: Any) -> Iterator[tuple[str, str, str]]:  # noqa: ANN401  (JSON)
    """Yield what differs between two parsed JSON values."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in (*old, *(key for key in new if key not in old)):
            inner = f"{path}.{key}" if path else key
            if key not in new:
                yield inner, as_text(old[key]), ABSENT
            elif key not in old:
                yield inner, ABSENT, as_text(new[key])
            else:
                yield from compare_values(inner, old[key], new[key])
        if list(old) != list(new) and set(old) == set(new):
            yield path or "(order of keys)", " ".join(old), " ".join(new)
    elif isinstance(old, list) and isinstance(new, list):
        if len(old) != len(new):
            yield f"{path}[]", f"{len(old)} entries", f"{len(new)} entries"
        for place, (one, other) in enumerate(zip(old, new, strict=False)):
            yield from compare_values(f"{path}[{place}]", one, other)
    elif type(old) is not type(new) or old != new:
        yield path, as_text(old), as_text(new)


def compare_cells(old: list[list[str]], new: list[list[str]]) -> Iterator[tuple[str, str, str]]:
    """Yield what differs between two tables, with the row's number and the column's name."""
    header = old[0] if old else []
    if len(old) != len(new):
        yield "rows", str(len(old)), str(len(new))
    for number, (one, other) in enumerate(zip(old, new, strict=False)):
        for place, (before, after) in enumerate(zip_longest(one, other, fillvalue=ABSENT)):
            if before != after:
                column = header[place] if place < len(header) else str(place)
                yield f"row {number}, {column}", before, after


def compare_lines(old: list[str], new: list[str]) -> Iterator[tuple[str, str, str]]:
    """Yield lines that differ; lines that came or went are matched with nothing."""
    if max(len(old), len(new)) > MOST_LINES_MATCHED:
        for number, (one, other) in enumerate(zip_longest(old, new, fillvalue=ABSENT), start=1):
            if one != other:
                yield f"line {number}", one, other
        return
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    for kind, start, stop, new_start, new_stop in matcher.get_opcodes():
        if kind == "equal":
            continue
        pairs = zip_longest(old[start:stop], new[new_start:new_stop], fillvalue=ABSENT)
        for number, (one, other) in enumerate(pairs, start=1):
            yield f"line {start + number}", one, other


def as_text(value: Any) -> str:  # noqa: ANN401  (JSON)
    """Return a JSON value as one line."""
    return json.dumps(value, ensure_ascii=False)


def shorten(old: str, new: str) -> tuple[str, str]:
    """Return two long texts cut to where they begin to differ."""
    if max(len(old), len(new)) <= 2 * SHOWN:
        return old, new
    same = next((place for place, pair in enumerate(zip(old, new, strict=False)) if len(set(pair)) > 1),
                min(len(old), len(new)))  # fmt: skip
    return tuple(_around(text, same) for text in (old, new))  # type: ignore[return-value]


def _around(text: str, place: int) -> str:
    start, stop = max(0, place - SHOWN // 2), place + SHOWN
    return f"{'…' if start else ''}{text[start:stop]}{'…' if stop < len(text) else ''}"
