"""A split by its name: the name says everything, the seed included."""

from __future__ import annotations

import csv
import re
from collections import Counter
from dataclasses import asdict, dataclass, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from histotune.datasets.disk import name_some
from histotune.datasets.splits.author_folds import authors_split
from histotune.datasets.splits.folds import grouped_folds, grouped_holdout, random_image_folds
from histotune.datasets.splits.split import (
    PART_ORDER,
    Split,
    mark_leaks,
    note_outside,
    refuse_leaks,
    shared_groups,
    tile_groups,
)
from histotune.tools.errors import UserError, closest_name
from histotune.tools.files import hash_json, read_json, write_json
from histotune.tools.stand_ins import refuse_stand_in

if TYPE_CHECKING:
    from histotune.datasets.tileset import TileSet


FORMS = (
    "grouped-K-seedS (K folds), holdout-P-seedS (P per cent of the cases), eva, thunder, pcam-official, "
    "authors-5[/foldN][:PATH], random-images-K-seedS, or a file written by `histotune data split`"
)
EXAMPLES = (
    "grouped-5-seed0", "holdout-20-seed0", "eva", "thunder", "pcam-official", "authors-5", "authors-5/fold1",
    "random-images-5-seed0",
)  # fmt: skip
PUBLISHED = ("eva", "thunder", "pcam-official")
SEEDED = re.compile(r"(?P<form>grouped|holdout|random-images)-(?P<number>\d{1,6})-seed(?P<seed>\d{1,12})")
AUTHORS = re.compile(r"authors-(?P<number>\d{1,3})(?:/fold(?P<fold>\d{1,3}))?(?::(?P<path>.+))?")


def named_split(name: str, tiles: TileSet, *, allow_leaky: bool = False) -> Split:
    """Make a split by its name."""
    split = _make(name.strip(), tiles, allow_leaky)
    refuse_leaks(split, tiles, allow_leaky=allow_leaky)
    return split


def is_split_name(text: str) -> bool:
    """Return whether a text has the form of a split's name, so that it is never taken for a file."""
    plain = text.strip()
    return plain in PUBLISHED or bool(SEEDED.fullmatch(plain) or AUTHORS.fullmatch(plain))


def _make(name: str, tiles: TileSet, allow_leaky: bool) -> Split:
    if name in RULES:
        return breakhis_published(name, tiles)
    if name == "pcam-official":
        return official_parts(tiles)
    if match := SEEDED.fullmatch(name):
        number, seed = int(match["number"]), int(match["seed"])
        if match["form"] == "grouped":
            return grouped_folds(tiles, number, seed)
        if match["form"] == "holdout":
            return grouped_holdout(tiles, number, seed)
        return random_image_folds(tiles, number, seed, allow_leaky=allow_leaky)
    if match := AUTHORS.fullmatch(name):
        fold = None if match["fold"] is None else int(match["fold"])
        return authors_split(tiles, int(match["number"]), fold, Path(match["path"]) if match["path"] else None)
    raise UserError("unknown split", value=name, allowed=FORMS, closest=closest_name(name, EXAMPLES))


# ---- Published splits: eva and THUNDER on BreakHis, the official parts of PatchCamelyon ----
#
# ``breakhis_eva_thunder.csv`` holds the authors' patient numbers with their 40X image counts and parts: those of eva as
# kaiko-eva 0.4.5 writes them down (its ``BreaKHis`` data set), those of THUNDER from thunder-bench 0.2.2, which takes
# eva's validation patients as its test part and ten others for tuning.


TABLE = "breakhis_eva_thunder.csv"
MAGNIFICATION = "40X"
PATIENT = re.compile(r"SOB_[BM]_(?P<tumour>[A-Z]+)_\d{2}-(?P<number>\d+[A-Z]*)")
CLASSES = ("TA", "MC", "F", "DC")
RULES = {
    "eva": (
        "eva (kaiko-eva 0.4.5): BreakHis at 40X, classes TA, MC, F and DC; 14 patient numbers of the authors validate "
        "and there is no test part. Its authors stop training and report on the same part; here a head is chosen "
        "inside the train part."
    ),
    "thunder": (
        "THUNDER (thunder-bench 0.2.2): eva's 14 patient numbers are the test part, ten others tune, the rest trains. "
        "Its authors choose head and epoch on the tuning part; here a head is chosen inside the train part and the "
        "tuning part is valid."
    ),
}


@dataclass(frozen=True)
class PublishedPatient:
    """One of the authors' patients as eva and THUNDER use it.

    Attributes:
        tumour: Tumour type.
        number: The authors' patient number, with block letters.
        n_tiles: Its images at 40X.
        eva: train or valid.
        thunder: train, valid (tuning) or test.
    """

    tumour: str
    number: str
    n_tiles: int
    eva: str
    thunder: str


def published_patients() -> tuple[PublishedPatient, ...]:
    """Return the patients of eva and THUNDER, in the order of eva's own table."""
    text = resources.files(__package__).joinpath(TABLE).read_text(encoding="utf-8")
    return tuple(
        PublishedPatient(row["tumour"], row["patient"], int(row["n_40x"]), row["eva"], row["thunder"])
        for row in csv.DictReader(text.splitlines())
    )


def breakhis_published(name: str, tiles: TileSet) -> Split:
    """Return eva's or THUNDER's split of BreakHis."""
    _require_data_set(tiles, "breakhis", f"{name} is a split of BreakHis", "use pcam-official or grouped-5-seed0")
    patients = published_patients()
    part_by_patient = {(patient.tumour, patient.number): getattr(patient, name) for patient in patients}
    side_by_key: dict[str, str] = {}
    columns = tiles.table.select("tile_id", "source_patient_id", "magnification")
    for tile_id, source_patient_id, magnification in columns.iter_rows():
        match = PATIENT.fullmatch(source_patient_id or "")
        part = part_by_patient.get((match["tumour"], match["number"])) if match else None
        if part is not None and magnification == MAGNIFICATION:
            side_by_key[tile_id] = part
    if not side_by_key:
        raise UserError(
            f"none of these tiles belongs to the {len(patients)} patients of this split at {MAGNIFICATION}",
            value=name,
            allowed="the original BreakHis images at 40X, of tumour types TA, MC, F and DC",
            fix="point --data to the whole data set, or use grouped-5-seed0",
        )
    split = Split(name, "parts", "tile", side_by_key, notes=(RULES[name],), partial=True)
    split = replace(split, notes=(*split.notes, *_differences(split, tiles, patients)))
    return note_outside(mark_leaks(split, tiles), tiles)


def official_parts(tiles: TileSet) -> Split:
    """Return PatchCamelyon's own parts, as its files are named."""
    _require_data_set(tiles, "patch_camelyon", "pcam-official is a split of PatchCamelyon", "use grouped-5-seed0")
    pairs = zip(tiles.tile_ids, tiles.table["split"].to_list(), strict=True)
    side_by_tile = {tile_id: side for tile_id, side in pairs if side in PART_ORDER}
    if not side_by_tile:
        raise UserError("these tiles belong to no official part", value=tiles.name, allowed="train, valid, test")
    split = Split("pcam-official", "parts", "tile", side_by_tile, partial=len(side_by_tile) < len(tiles))
    unknown = tiles.table["group_id"].null_count()
    if unknown:
        note = (
            f"The slide of {unknown:,} tiles is unknown in this copy: that no slide lies in two official parts is its "
            "authors' word and can't be checked here."
        )
        split = replace(split, notes=(note,))
    elif not split.partial and not shared_groups(tiles, split).groups:
        by_slide = dict(zip(tile_groups(tiles), split.side_of_tiles(tiles), strict=True))
        split = replace(split, unit="group", side_by_key={key: side for key, side in by_slide.items() if side})
    return note_outside(mark_leaks(split, tiles), tiles)


def _require_data_set(tiles: TileSet, name: str, what: str, fix: str) -> None:
    if tiles.name != name:
        raise UserError(what, value=tiles.name, allowed=name, fix=fix)


def _differences(split: Split, tiles: TileSet, patients: tuple[PublishedPatient, ...]) -> list[str]:
    """Say where these tiles or their labels differ from the published split."""
    notes = []
    found = Counter(split.side_by_key.values())
    wanted: Counter[str] = Counter()
    for patient in patients:
        wanted[getattr(patient, split.name)] += patient.n_tiles
    if found != wanted:
        counts = ", ".join(
            f"{side} {found[side]:,} of {wanted[side]:,}" for side in sorted(wanted, key=PART_ORDER.__getitem__)
        )
        notes.append(f"These tiles are not the whole published split: {counts}.")
    if tiles.class_names != CLASSES:
        notes.append(
            f"The published task has the classes {', '.join(CLASSES)}; these tiles are labelled "
            f"{', '.join(tiles.class_names)} (--set source.labels=eva4 gives the published ones)."
        )
    return notes


# ---- Splits in files ----


SPLIT_FORMAT: Literal["histotune split 1"] = "histotune split 1"
MAX_SPLIT_BYTES = 512 * 1024 * 1024


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
    content = {"format": SPLIT_FORMAT, **asdict(split), "split_hash": split.split_hash}
    write_json(path, {**content, "checksum": hash_json(content)})


def load_split(path: Path, tiles: TileSet, *, allow_leaky: bool = False) -> Split:
    """Read a split and check it against the tiles."""
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
    """Compare the keys of a split with those of some tiles."""
    keys = set(split.key_of_tiles(tiles))
    known = set(split.side_by_key)
    return Coverage(absent=tuple(sorted(known - keys)), extra=tuple(sorted(keys - known)))


def _read(path: Path) -> Split:
    if not path.is_file():
        raise UserError(
            "there is no such split file",
            value=path,
            fix="histotune data split DATASET --data DIR --split NAME --out FILE",
        )
    data = _json(path)
    if not isinstance(data, dict) or data.get("format") != SPLIT_FORMAT:
        raise _unusable("this file is no split of histotune", path)
    try:
        content = SplitFile.model_validate(data)
    except ValidationError as error:
        wrong = ", ".join(sorted({str(detail["loc"][0]) for detail in error.errors()}))
        raise _unusable(f"this split file was changed by hand or by another version ({wrong})", path) from error
    fields = content.model_dump(exclude={"format", "split_hash", "checksum"})
    split = Split(**{**fields, "side_by_key": dict(sorted(content.side_by_key.items())), "notes": tuple(content.notes)})
    del data["checksum"]
    if split.split_hash != content.split_hash or hash_json(data) != content.checksum or not _sides_fit(split):
        raise _unusable("this split file was changed after it was written: its hash does not match its content", path)
    return split


def _json(path: Path) -> object:
    try:
        if path.stat().st_size > MAX_SPLIT_BYTES:
            raise _unusable("this file is too large for a split", path)
        return read_json(path)
    except ValueError as error:
        refuse_stand_in(path, "this split file")
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
    return not head or SPLIT_FORMAT.encode() in head


def _unusable(what: str, path: Path) -> UserError:
    return UserError(
        what, value=path, fix="make it again: histotune data split DATASET --data DIR --split NAME --out FILE"
    )


def _mismatch(path: Path, split: Split, coverage: Coverage) -> UserError:
    said = []
    if coverage.absent:
        said.append(
            f"{len(coverage.absent):,} of its {len(split.side_by_key):,} {split.unit}s are not among the tiles "
            f"({name_some(list(coverage.absent), 3)})"
        )
    if coverage.extra and not split.partial:
        said.append(
            f"{len(coverage.extra):,} {split.unit}s of the tiles are not in it ({name_some(list(coverage.extra), 3)})"
        )
    return UserError(
        f"the split {split.name} was made over other tiles: {'; '.join(said)}",
        value=path,
        fix="read the same data with the same source settings (labels, subset), or make it again: histotune data split",
    )
