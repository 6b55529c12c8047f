"""What may differ between two runs of one version and is therefore not compared: one table, with a reason for each.

A masked figure is an unchecked figure, so that a mask takes as little as it can: a number out of a line, never the
line. :data:`TEXTS` work on every line of a text, :data:`KEYS` on a value in JSON or in a decoded table; :data:`ROWS`
and :data:`FILES` name the few entries and files that are not kept at all.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True)
class TextMask:
    """Part of a line that is not compared.

    Attributes:
        name: What stands in its place, in angle brackets; empty leaves nothing there.
        pattern: What is found; where it has groups, only these are replaced.
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


@dataclass(frozen=True)
class FileMask:
    """A file that is not kept.

    Attributes:
        files: Which, as ``SCENE/STEP/files/PATH`` with wildcards.
        reason: Why nothing of it can be compared.
    """

    files: str
    reason: str


FILES: tuple[FileMask, ...] = (
    FileMask("*/files/home/state/histotune/wandb/*", "W&B's own log: records of another program, with times and host"),
    FileMask("*/files/home/*/wandb/*", "W&B's own settings and logs"),
)
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
    TextMask("duration", r"^done in ([\d,.]+ (?:h|min|s))", "how long a run took", "*/stdout.txt"),
    TextMask(
        "s",
        r'<th scope="row">(?:read data|write synthetic tissue|embed [^<]+|sweep and score [^<]+|report|total)</th>'
        r'<td class="num">([\d.,]+)</td>',
        "how long a stage took",
        "*.html",
    ),
    TextMask("rate", r"^  [a-z ]+?( +[\d,.]+) images/s", "how fast this machine is now", "*/estimate*/stdout.txt"),
    TextMask("limit", r"images/s on its own((?:  <- the limit)?)$", "the slowest stage", "*/estimate*/stdout.txt"),
    TextMask(
        "rates",
        r"images/s \(([\d,.]+ to [\d,.]+ over \d+ batches of \d+)\)$",
        "how fast this machine is now, which also decides how many batches are timed",
        "*/estimate*/stdout.txt",
    ),
    TextMask("duration", r"^about (.+? \(.+? to .+?\)), ", "how fast this machine is now", "*/estimate*/stdout.txt"),
    TextMask(
        "", r"^A batch of \d+ takes long here.*\n", "only said where the machine is busy", "*/estimate*/stdout.txt"
    ),
    TextMask("cores", r"^  processor .*, (\d+) cores for this process", "another share of the machine", "*/stdout.txt"),
    TextMask("memory", r"^  memory +([\d.]+ GiB *)$", "another share of the machine", "*/stdout.txt"),
    TextMask("free", r"^  free disk +([\d.]+ GiB *)$", "what else is kept on the disk", "*/stdout.txt"),
    TextMask(
        "speed", r"^  (?:fp32|bf16) +([\d,]+) GFLOP/s.*?( *)$", "how fast this machine is now", "*doctor/*/stdout.txt"
    ),
    TextMask("cores", r"<dt>n cpus</dt><dd>(\d+)</dd>", "another share of the machine", "*.html"),
    TextMask("memory", r"<dt>memory gib</dt><dd>([\d.]+)</dd>", "another share of the machine", "*.html"),
    TextMask(
        "files",
        r"^hashes\.sqlite: (\d+) \(content hashes of tiles and weights\), ([\d.]+ kB)$",
        "a file's hash is remembered where the file is older than two seconds, and the demo renders its files",
        "demo*/stdout.txt",
    ),
    TextMask("wandb run", r"offline-run-\d+_\d+-(?:\w+|<run id>)", "W&B's name of a run holds time and chance"),
    TextMask("time", r"\b20\d\d-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d)?(?:\.\d+)?(?:\+00:00|Z)?", "when it was played"),
)
KEYS: tuple[KeyMask, ...] = (
    KeyMask("seconds", "columns.sweep_s[*]", "how long a sweep took", "*/trials/v1/*.parquet"),
    KeyMask("seconds", "stages[*].seconds_s", "how long a stage took", "*/provenance.json"),
    KeyMask("cores", "n_cpus", "another share of the machine", "*/provenance.json"),
    KeyMask("memory", "memory_gib", "another share of the machine", "*/provenance.json"),
)
ROWS: tuple[RowMask, ...] = (
    RowMask(
        "content.rows",
        r"/histotune/(restained|synthetic)/",
        "a file's hash is remembered where the file is older than two seconds, and histotune wrote these just before",
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
        files: Files that are not kept.
    """

    folders: Mapping[str, str]
    texts: Sequence[TextMask] = TEXTS
    keys: Sequence[KeyMask] = KEYS
    rows: Sequence[RowMask] = ROWS
    files: Sequence[FileMask] = FILES

    def keeps(self, file: str) -> bool:
        """Return whether a file is kept at all."""
        return not any(fnmatchcase(file, mask.files) for mask in self.files)

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
        every: tuple[KeyMask | RowMask, ...] = (*self.keys, *self.rows)
        wanted = [mask for mask in every if fnmatchcase(file, mask.files)]
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
        spans = [found.span(group) for group in range(1, 1 + found.re.groups)] or [found.span()]
        name = f"<{mask.name}>" + "\n" * (text[spans[-1][0] : spans[-1][1]].endswith("\n")) if mask.name else ""
        pieces, place = [], found.start()
        for start, stop in spans:
            pieces += [text[place:start], name]
            place = stop
        return "".join([*pieces, text[place : found.end()]])

    return re.sub(mask.pattern, masked, text, flags=re.MULTILINE)
