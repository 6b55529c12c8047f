"""Embeddings that somebody else computed: a name for them, and the files they came in."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING

from histotune.backbones.spec import BackboneSpec
from histotune.tools.errors import UserError, closest_name
from histotune.tools.files import hash_bytes, is_regular_file, write_json

if TYPE_CHECKING:
    from pathlib import Path

PREFIX = "external:"
NAME = re.compile(r"[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class ExternalFile:
    """A file that embeddings were imported from: its name, the hash of its bytes, its rows."""

    name: str
    sha256: str
    n_rows: int


@dataclass(frozen=True)
class ExternalRecord:
    """Imported embeddings under a name.

    Attributes:
        name: What follows ``external:``.
        claimed: The network that made them, as the user or the files say; nobody here has checked it.
        files: Where they came from.
        blocks: Names of the column blocks.
    """

    name: str
    claimed: str
    files: tuple[ExternalFile, ...]
    blocks: tuple[str, ...]

    @property
    def files_hash(self) -> str:
        """Hash over the files' bytes, whatever their names and order."""
        return hash_bytes(*sorted(file.sha256 for file in self.files))


def describe_external(name: str, cache: Path | None) -> BackboneSpec:
    """Return imported embeddings as a backbone that computes nothing.

    Args:
        name: ``external:NAME``.
        cache: The cache they were imported into.

    Returns:
        A spec whose revision is the hash of the files.

    Raises:
        UserError: Nothing was imported under this name.
    """
    record = read_external(name.removeprefix(PREFIX), cache)
    return BackboneSpec(
        name=name,
        kind="external",
        source=record.claimed,
        revision=record.files_hash,
        licence="unknown: external embeddings",
        citation=f"imported from {len(record.files):,} files, unverified",
        default_pooling=record.blocks,
    )


def read_external(name: str, cache: Path | None) -> ExternalRecord:
    """Read what was imported under a name.

    Args:
        name: The name.
        cache: The cache it was imported into.

    Returns:
        The record.

    Raises:
        UserError: Nothing was imported under this name, or the record is damaged.
    """
    path = None if cache is None else record_path(name, cache)
    if cache is None or path is None or not path.is_file():
        known = [] if cache is None else external_names(cache)
        raise UserError("no embeddings were imported under this name", value=name,
                        allowed=", ".join(known) or "none yet", closest=closest_name(name, known),
                        fix="histotune cache import FILES --as NAME, with the same --cache")  # fmt: skip
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        files = tuple(ExternalFile(**file) for file in data["files"])
        return ExternalRecord(data["name"], data["claimed"], files, tuple(data["blocks"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError("the record of these imported embeddings is damaged", value=path,
                        fix=f"histotune cache import FILES --as {name} --replace") from error  # fmt: skip


def write_external(record: ExternalRecord, cache: Path) -> None:
    """Write a record; its embeddings can then be used as ``--backbone external:NAME``.

    Args:
        record: What was imported.
        cache: Root folder of the cache.

    Raises:
        UserError: The name has characters that file names lack.
    """
    write_json(record_path(record.name, cache), asdict(record))


def external_names(cache: Path) -> list[str]:
    """Return the names under which embeddings were imported."""
    return sorted(path.stem for path in (cache / "external").glob("*.json"))


def is_record(path: Path) -> bool:
    """Return whether a file is the record of an import, whatever else lies beside it."""
    if path.suffix != ".json" or not NAME.fullmatch(path.stem) or not is_regular_file(path):
        return False
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(data, dict) and data.keys() >= {field.name for field in fields(ExternalRecord)}


def record_path(name: str, cache: Path) -> Path:
    """Return where the record of a name is kept.

    Args:
        name: The name.
        cache: Root folder of the cache.

    Returns:
        Its path, there or not.

    Raises:
        UserError: The name has characters that file names lack.
    """
    if not NAME.fullmatch(name):
        raise UserError("this is no name for imported embeddings", value=name,
                        allowed="letters, digits, dots, dashes and underscores", fix="--as uni-trident")  # fmt: skip
    return cache / "external" / f"{name}.json"
