"""The ledger of law 2: every scoring of a test split, kept outside the run folder, never rewritten.

Every line carries a checksum over itself and a hash of all lines before, so that a changed, missing or torn line is
told; ``ledger.last.json`` beside it knows the last line, so that lines lost at the end are told, too. Lines of earlier
versions have no checksum; the next line that has one vouches for them. This is against accidents: who forges a line can
forge the others. Whatever is wrong with the ledger, the next scoring is entered.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from histotune.evaluation.findings import LedgerCount
from histotune.tools.atomic import explained_os_errors
from histotune.tools.files import CHECKSUM, hash_bytes, hash_json, json_or_none, lock, parse_json, write_json

if TYPE_CHECKING:
    from pathlib import Path

LOG = logging.getLogger(__name__)
LEDGER_FILE = "ledger.jsonl"
LAST_FILE = "ledger.last.json"
PREVIOUS = "previous"
ENTRY = ("split_hash", "target", "choice_hash")


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


@dataclass(frozen=True)
class LedgerLines:
    """The lines of a ledger, judged.

    Attributes:
        raw: Every line as it stands, without its end.
        entries: What can be read of them.
        faults: What is wrong, in words, with the number of the line.
        chain: Hash of all lines, which the next one carries.
    """

    raw: tuple[bytes, ...]
    entries: tuple[dict[str, str], ...]
    faults: tuple[str, ...]
    chain: str


def record_scoring(folder: Path, scoring: Scoring) -> LedgerCount:
    """Append a scoring and count how often its split has been scored.

    Args:
        folder: Where ``ledger.jsonl`` lives; outlives caches and run folders.
        scoring: What was scored.

    Returns:
        k scorings under m choices, this one included. A line that is not as it was written counts by what it says.

    Raises:
        UserError: The ledger can't be written.
    """
    path = folder / LEDGER_FILE
    with lock(folder / "ledger.lock"), explained_os_errors(path):
        found = read_ledger(path)
        if found.faults:
            LOG.warning("the ledger %s is damaged, so its counts may be wrong: %s", path, "; ".join(found.faults))
        line = _line(scoring, found.chain)
        with path.open("ab") as stream:
            stream.write((b"" if _ends_whole(path) else b"\n") + line + b"\n")
        write_json(folder / LAST_FILE, {"lines": len(found.raw) + 1, "last": hash_bytes(line)})
    key = (scoring.split_hash, scoring.target)
    same = [one for one in (*found.entries, asdict(scoring)) if (one["split_hash"], one["target"]) == key]
    return LedgerCount(scoring.target, len(same), len({one["choice_hash"] for one in same}))


def read_ledger(path: Path) -> LedgerLines:
    """Read a ledger and compare every line with its checksum and with the line before.

    Args:
        path: ``ledger.jsonl``; it may be missing.

    Returns:
        Its lines; a line that can't be read is no entry, and a fault.
    """
    raw = tuple(path.read_bytes().splitlines()) if path.is_file() else ()
    entries, faults = [], []
    chain, trusted = "", True  # the hash of all lines before, and whether the last of them is as it was written
    for number, line in enumerate(raw, 1):
        entry = _entry(line)
        if entry is None:
            faults.append(f"line {number} is torn or can't be read")
        elif _has_changed(entry):
            faults.append(f"line {number} has changed since it was written")
        elif PREVIOUS in entry:
            if trusted and entry[PREVIOUS] != chain:
                faults.append(f"a line before line {number} is missing or has changed")
            chain = entry[PREVIOUS]  # so that the lines behind damage are judged by themselves
        if entry is not None:
            entries.append(entry)
        chain, trusted = hash_bytes(chain, line), entry is not None and not _has_changed(entry)
    if fault := _fault_at_the_end(path.with_name(LAST_FILE), raw, told=bool(faults)):
        faults.append(fault)
    return LedgerLines(raw, tuple(entries), tuple(faults), chain)


def _line(scoring: Scoring, chain: str) -> bytes:
    """Return a scoring as a line that follows others."""
    facts = {"time": datetime.now(UTC).isoformat(timespec="seconds"), **asdict(scoring), PREVIOUS: chain}
    return json.dumps({**facts, CHECKSUM: hash_json(facts)}, sort_keys=True).encode()


def _entry(line: bytes) -> dict[str, str] | None:
    """Return what a line says; None where it is no entry."""
    try:
        entry = parse_json(line)
    except ValueError:
        return None
    whole = isinstance(entry, dict) and all(isinstance(entry.get(name), str) for name in ENTRY)
    return entry if whole else None


def _has_changed(entry: dict[str, str]) -> bool:
    """Whether a line is not as it was written: its checksum differs, or only one of the two new fields is there."""
    facts = {name: value for name, value in entry.items() if name != CHECKSUM}
    if not facts.keys() <= {"time", *ENTRY, PREVIOUS} or (CHECKSUM in entry) != (PREVIOUS in entry):
        return True
    return CHECKSUM in entry and entry[CHECKSUM] != hash_json(facts)


def _fault_at_the_end(path: Path, raw: tuple[bytes, ...], *, told: bool) -> str:
    """Return what is wrong behind the last line that is known; empty where nothing is.

    A process that is killed after its line and before the note of it leaves one line more than the note knows.
    """
    sealed = any(b'"previous"' in line for line in raw)
    if not path.exists():
        return f"{path.name} is missing, so lines lost at the end can't be told" if sealed and len(raw) > 1 else ""
    data = json_or_none(path)
    known = data.get("lines") if isinstance(data, dict) else None
    if not isinstance(known, int) or known < 1 or not isinstance(data.get("last"), str):
        return f"{path.name} can't be read, so lines lost at the end can't be told"
    if len(raw) < known:
        return f"{known - len(raw)} of its {known} lines are missing"
    if not told and hash_bytes(raw[known - 1]) != data["last"]:
        return f"line {known} is not the one that {path.name} knows"
    return ""


def _ends_whole(path: Path) -> bool:
    """Whether the file ends with a whole line; a crash may have left half a one."""
    size = path.stat().st_size if path.exists() else 0
    if size == 0:
        return True
    with path.open("rb") as stream:
        stream.seek(size - 1)
        return stream.read(1) == b"\n"
