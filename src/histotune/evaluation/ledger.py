"""The ledger of law 2: every scoring of a test split, kept outside the run folder, never rewritten."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from histotune.evaluation.findings import LedgerCount
from histotune.tools.atomic import explained_os_errors
from histotune.tools.files import lock

if TYPE_CHECKING:
    from pathlib import Path


LEDGER_FILE = "ledger.jsonl"


@dataclass(frozen=True)
class Scoring:
    """One scoring of one split.

    Attributes:
        split_hash: Hash of the scored tiles' assignment (law 2's key, with the target).
        target: Which split, in words, such as "pcam test".
        choice_hash: Hash of everything that was chosen: configuration and head.
    """

    split_hash: str
    target: str
    choice_hash: str


def record_scoring(folder: Path, scoring: Scoring) -> LedgerCount:
    """Append a scoring and count how often its split has been scored.

    Args:
        folder: Where ``ledger.jsonl`` lives; outlives caches and run folders.
        scoring: What was scored.

    Returns:
        k scorings under m choices, this one included.

    Raises:
        UserError: The ledger can't be written.
    """
    path = folder / LEDGER_FILE
    with lock(folder / "ledger.lock"), explained_os_errors(path):
        line = {"time": datetime.now(UTC).isoformat(timespec="seconds"), **asdict(scoring)}
        with path.open("a", encoding="utf-8", newline="\n") as stream:
            stream.write(_line_break_if_torn(path) + json.dumps(line, sort_keys=True) + "\n")
        key = (scoring.split_hash, scoring.target)
        same = [entry for entry in _entries(path) if (entry["split_hash"], entry["target"]) == key]
    return LedgerCount(scoring.target, len(same), len({entry["choice_hash"] for entry in same}))


def _entries(path: Path) -> list[dict[str, str]]:
    """Read all whole lines; a line torn by a crash is skipped, never guessed."""
    entries = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(text)
        except json.JSONDecodeError:
            continue
        if isinstance(entry, dict) and {"split_hash", "target", "choice_hash"} <= set(entry):
            entries.append(entry)
    return entries


def _line_break_if_torn(path: Path) -> str:
    """A crash may have left half a line; the next entry starts on its own."""
    size = path.stat().st_size
    if size == 0:
        return ""
    with path.open("rb") as stream:
        stream.seek(size - 1)
        return "" if stream.read(1) == b"\n" else "\n"
