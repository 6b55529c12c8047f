"""What may differ between two runs of one version and is therefore not compared: one table, with a reason for each.

A masked figure is an unchecked figure, so that a mask takes as little as it can: a number out of a line, never the
line. Two kinds: :data:`TEXTS` work on every line of a text, :data:`KEYS` on a value in JSON or in a decoded table.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


@dataclass(frozen=True)
class TextMask:
    """Part of a line that is not compared.

    Attributes:
        name: What stands in its place, in angle brackets.
        pattern: What is found; where it has a group, only the group is replaced.
        reason: Why it varies.
        files: Which files it is looked for in, as ``SCENE/STEP/FILE`` with wildcards.
    """

    name: str
    pattern: str
    reason: str
    files: str = "*"


@dataclass(frozen=True)
class KeyMask:
    """A value in a JSON file or a decoded table that is not compared.

    Attributes:
        name: What stands in its place, in angle brackets; a list keeps its length where it is masked entry by entry.
        keys: Its path, with wildcards: ``stages[*].seconds_s``.
        reason: Why it varies.
        files: Which files, as ``SCENE/STEP/FILE`` with wildcards.
    """

    name: str
    keys: str
    reason: str
    files: str = "*"


@dataclass(frozen=True)
class RowMask:
    """Entries of a list that are not compared, since it depends on the clock whether they are there.

    Attributes:
        keys: The list's path, with wildcards.
        pattern: What the entry's JSON holds.
        reason: Why it varies.
        files: Which files, as ``SCENE/STEP/FILE`` with wildcards.
    """

    keys: str
    pattern: str
    reason: str
    files: str = "*"


TEXTS: tuple[TextMask, ...] = (
    TextMask("work", r"/[^\s\"'<>]*?histotune-golden-\d", "the folder that a record is played in"),
    TextMask("run id", r"\b20\d{6}T\d{6}-[0-9a-f]{8}\b", "the time and a random number"),
    TextMask(
        "frames",
        r"(?:^  File \".*\n(?:    .*\n)*)+",
        "a traceback names modules and lines, which may move; the exception below it is kept",
        "*/stderr.txt",
    ),
    TextMask("s", r"^( +[\d,]+\.\d) s  \S", "how long a stage took", "*/stdout.txt"),
    TextMask(
        "s",
        r'<th scope="row">(?:read data|embed [^<]+|sweep and score [^<]+|report|total)</th><td class="num">([\d.,]+)</td>',
        "how long a stage took",
        "*.html",
    ),
    TextMask("time", r"\b20\d\d-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d)?(?:\.\d+)?(?:\+00:00|Z)?", "when it was played"),
)
KEYS: tuple[KeyMask, ...] = (
    KeyMask("seconds", "columns.sweep_s[*]", "how long a sweep took", "*/trials/v1/*.parquet"),
    KeyMask("seconds", "stages[*].seconds_s", "how long a stage took", "*/provenance.json"),
    KeyMask("version", "versions.*", "an installed library", "*/provenance.json"),
)
ROWS: tuple[RowMask, ...] = (
    RowMask(
        "content.rows",
        r"/histotune/(restained|synthetic)/",
        "the hash of a file is remembered where the file is older than two seconds, and histotune wrote these just before",
        "*/hashes.sqlite",
    ),
)


@dataclass(frozen=True)
class Masks:
    """The masks of a record, and the folders whose names vary with where it is played.

    Attributes:
        folders: Name in angle brackets by folder; the longest are replaced first.
        texts: Masks of text.
        keys: Masks of values.
        rows: Masks of entries.
    """

    folders: Mapping[str, str]
    texts: Sequence[TextMask] = TEXTS
    keys: Sequence[KeyMask] = KEYS
    rows: Sequence[RowMask] = ROWS

    def text(self, file: str, text: str) -> str:
        """Return a text with everything masked that may vary.

        Args:
            file: Its place in the record, ``SCENE/STEP/FILE``.
            text: Its content.
        """
        for folder in sorted(self.folders, key=len, reverse=True):
            text = text.replace(folder, f"<{self.folders[folder]}>")
        for mask in self.texts:
            if fnmatchcase(file, mask.files):
                text = _replace(mask, text)
        return text

    def value(self, file: str, value: Any) -> Any:  # noqa: ANN401  (whatever JSON holds)
        """Return parsed JSON with everything masked that may vary, texts inside it included.

        Args:
            file: Its place in the record.
            value: Parsed JSON.
        """
        wanted = [mask for mask in (*self.keys, *self.rows) if fnmatchcase(file, mask.files)]
        return self._inside(file, value, "", wanted)

    def _inside(self, file: str, value: Any, path: str, wanted: Sequence[KeyMask | RowMask]) -> Any:  # noqa: ANN401
        for mask in (mask for mask in wanted if path and key_matches(path, mask.keys)):
            if isinstance(mask, KeyMask):
                return None if value is None else f"<{mask.name}>"
            value = [entry for entry in value if not re.search(mask.pattern, json.dumps(entry))]
        if isinstance(value, dict):
            inner = ((self.text(file, key), key) for key in value)
            return {name: self._inside(file, value[key], f"{path}.{name}".lstrip("."), wanted) for name, key in inner}
        if isinstance(value, list):
            return [self._inside(file, item, f"{path}[{place}]", wanted) for place, item in enumerate(value)]
        return self.text(file, value) if isinstance(value, str) else value


def key_matches(path: str, pattern: str) -> bool:
    """Return whether a path of keys fits a pattern, in which ``*`` stands for any text and ``[*]`` for any place.

    Example:
        >>> key_matches("stages[3].seconds_s", "stages[*].seconds_s")
        True
    """
    return _key_pattern(pattern).fullmatch(path) is not None


@cache
def _key_pattern(pattern: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(part) for part in pattern.split("*")))


def _replace(mask: TextMask, text: str) -> str:
    def masked(found: re.Match[str]) -> str:
        if not found.re.groups:
            return f"<{mask.name}>" + "\n" * found[0].endswith("\n")
        start, stop = (place - found.start() for place in found.span(1))
        return f"{found[0][:start]}<{mask.name}>{found[0][stop:]}"

    return re.sub(mask.pattern, masked, text, flags=re.MULTILINE)


def unused(masks: Masks, names: Iterable[str]) -> list[str]:
    """Return the names of masks that replaced nothing in a record.

    Args:
        masks: The table.
        names: Names in angle brackets that the record holds.
    """
    found = set(names)
    return [mask.name for mask in (*masks.texts, *masks.keys) if mask.name not in found]
