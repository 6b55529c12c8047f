"""Splits in files: canonical JSON, written whole or not at all, checked against the tiles when read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from histotune.datasets.disk import name_some
from histotune.datasets.splits.leaks import mark_leaks, refuse_leaks
from histotune.datasets.splits.named import is_split_name, named_split
from histotune.datasets.splits.split import PART_ORDER, Split, note_outside
from histotune.tools.errors import UserError
from histotune.tools.files import hash_json, write_json

if TYPE_CHECKING:
    from histotune.datasets.tileset import TileSet

FORMAT: Literal["histotune split 1"] = "histotune split 1"
MAX_BYTES = 512 * 1024 * 1024


class SplitFile(BaseModel):
    """The content of a split file.

    Attributes:
        format: Says what the file is.
        name: Name of the split.
        kind: folds or parts.
        unit: group or tile.
        leaky: Whether it was leaky when it was written.
        partial: Whether tiles without a side are meant to be left out.
        notes: Its notes.
        side_by_key: Side per group or tile.
        split_hash: Hash of unit and sides.
        checksum: Hash of everything else in the file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Literal["histotune split 1"]
    name: str
    kind: Literal["folds", "parts"]
    unit: Literal["group", "tile"]
    leaky: bool
    partial: bool
    notes: list[str]
    side_by_key: dict[str, str]
    split_hash: str
    checksum: str


@dataclass(frozen=True)
class Coverage:
    """How the keys of a split and those of some tiles differ.

    Attributes:
        absent: Keys of the split that no tile has.
        extra: Keys of tiles that the split does not know.
    """

    absent: tuple[str, ...]
    extra: tuple[str, ...]


def save_split(split: Split, path: Path) -> None:
    """Write a split as JSON; equal splits give equal bytes.

    Args:
        split: The split.
        path: The file, conventionally ending in ``.json``; an older split there is replaced.

    Raises:
        UserError: Something else than a split lies there, or the place can't be written.
    """
    if path.exists() and not _may_replace(path):
        raise UserError("something else than a split lies here", value=path, fix="choose another --out")
    content: dict[str, object] = {
        "format": FORMAT,
        "name": split.name,
        "kind": split.kind,
        "unit": split.unit,
        "leaky": split.leaky,
        "partial": split.partial,
        "notes": list(split.notes),
        "side_by_key": dict(split.side_by_key),
        "split_hash": split.split_hash,
    }
    write_json(path, {**content, "checksum": hash_json(content)})


def load_split(path: Path, tiles: TileSet, *, allow_leaky: bool = False) -> Split:
    """Read a split and check it against the tiles.

    Args:
        path: Written by :func:`save_split`.
        tiles: The tiles that it will be applied to, with the groups as they are known today.
        allow_leaky: Also return a split that puts tiles of one group on two sides.

    Returns:
        The split, marked by what today's groups say.

    Raises:
        UserError: No such file; it is truncated or was changed by hand; its keys are not those of the tiles; or a
            group lies on two sides and that was not allowed.
    """
    split = _read(path)
    coverage = coverage_of(split, tiles)
    if coverage.absent or (coverage.extra and not split.partial):
        raise _mismatch(path, split, coverage)
    refuse_leaks(split, tiles, allow_leaky=allow_leaky)
    return note_outside(mark_leaks(split, tiles), tiles)


def find_split(name_or_path: str, tiles: TileSet, *, allow_leaky: bool = False) -> Split:
    """Make a split by its name, or read it from a file.

    Args:
        name_or_path: A name as for :func:`named_split`; otherwise a file that exists or ends in ``.json``.
        tiles: The tiles to split.
        allow_leaky: Also return a split that puts tiles of one group on two sides.

    Returns:
        The split.

    Raises:
        UserError: As :func:`named_split` and :func:`load_split`.
    """
    path = Path(name_or_path).expanduser()
    if not is_split_name(name_or_path) and (path.suffix.lower() == ".json" or path.exists()):
        return load_split(path, tiles, allow_leaky=allow_leaky)
    return named_split(name_or_path, tiles, allow_leaky=allow_leaky)


def coverage_of(split: Split, tiles: TileSet) -> Coverage:
    """Compare the keys of a split with those of some tiles.

    Args:
        split: The split.
        tiles: The tiles.

    Returns:
        What either lacks, sorted.
    """
    keys = set(split.key_of_tiles(tiles))
    known = set(split.side_by_key)
    return Coverage(absent=tuple(sorted(known - keys)), extra=tuple(sorted(keys - known)))


def _read(path: Path) -> Split:
    if not path.is_file():
        raise UserError("there is no such split file", value=path,
                        fix="histotune data split DATASET --data DIR --split NAME --out FILE")  # fmt: skip
    data = _json(path)
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise _unusable("this file is no split of histotune", path)
    try:
        content = SplitFile.model_validate(data)
    except ValidationError as error:
        fields = ", ".join(sorted({str(detail["loc"][0]) for detail in error.errors()}))
        raise _unusable(f"this split file was changed by hand or by another version ({fields})", path) from error
    split = Split(content.name, content.kind, content.unit, dict(sorted(content.side_by_key.items())), content.leaky,
                  tuple(content.notes), content.partial)  # fmt: skip
    del data["checksum"]
    if split.split_hash != content.split_hash or hash_json(data) != content.checksum or not _sides_fit(split):
        raise _unusable("this split file was changed after it was written: its hash does not match its content", path)
    return split


def _json(path: Path) -> object:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise _unusable("this file is too large for a split", path)
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _unusable("this split file is truncated or no JSON", path) from error
    except OSError as error:
        raise UserError("this split file can't be read", value=path, fix=f"chmod u+r {path}") from error


def _sides_fit(split: Split) -> bool:
    """Whether the sides are those of the kind: 0 to n - 1, or known parts."""
    numbers = {str(fold) for fold in range(len(split.sides))}
    return bool(split.sides) and set(split.sides) <= (numbers if split.kind == "folds" else set(PART_ORDER))


def _may_replace(path: Path) -> bool:
    """Whether a file is empty or starts like a split, damaged or not."""
    try:
        with path.open("rb") as stream:
            head = stream.read(400)
    except OSError:
        return False
    return not head or FORMAT.encode() in head


def _unusable(what: str, path: Path) -> UserError:
    return UserError(what, value=path, fix="make it again: histotune data split DATASET --data DIR --split NAME "
                     "--out FILE")  # fmt: skip


def _mismatch(path: Path, split: Split, coverage: Coverage) -> UserError:
    said = []
    if coverage.absent:
        said.append(f"{len(coverage.absent):,} of its {len(split.side_by_key):,} {split.unit}s are not among the tiles "
                    f"({name_some(list(coverage.absent), 3)})")  # fmt: skip
    if coverage.extra and not split.partial:
        said.append(f"{len(coverage.extra):,} {split.unit}s of the tiles are not in it "
                    f"({name_some(list(coverage.extra), 3)})")  # fmt: skip
    return UserError(
        f"the split {split.name} was made over other tiles: {'; '.join(said)}",
        value=path,
        fix="read the same data with the same source settings (labels, subset), or make it again: histotune data split",
    )
