"""Splits that others published: eva and THUNDER on BreakHis, the official parts of PatchCamelyon.

``breakhis_eva_thunder.csv`` holds the authors' patient numbers with their 40X image counts and parts: those of eva as
kaiko-eva 0.4.5 writes them down (its ``BreaKHis`` data set), those of THUNDER from thunder-bench 0.2.2, which takes
eva's validation patients as its test part and ten others for tuning.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from dataclasses import dataclass, replace
from importlib import resources
from typing import TYPE_CHECKING, Literal

from histotune.datasets.splits.leaks import mark_leaks, shared_groups
from histotune.datasets.splits.split import PART_ORDER, Split, note_outside, tile_groups
from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from histotune.datasets.tileset import TileSet

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

    def part(self, name: str) -> str:
        """Return the part in the split of this name."""
        return self.eva if name == "eva" else self.thunder


def published_patients() -> tuple[PublishedPatient, ...]:
    """Return the patients of eva and THUNDER, in the order of eva's own table."""
    text = resources.files(__package__).joinpath(TABLE).read_text(encoding="utf-8")
    return tuple(
        PublishedPatient(row["tumour"], row["patient"], int(row["n_40x"]), row["eva"], row["thunder"])
        for row in csv.DictReader(text.splitlines())
    )


def breakhis_published(name: Literal["eva", "thunder"], tiles: TileSet) -> Split:
    """Return eva's or THUNDER's split of BreakHis.

    Args:
        name: Which.
        tiles: BreakHis tiles; those of other magnifications and tumour types take no part.

    Returns:
        The split by tiles, marked leaky where today's groups lie on two sides, with notes on the rule, on what these
        tiles lack of the published split, and on every shared group.

    Raises:
        UserError: These are no BreakHis tiles, or none of the published patients is among them.

    Example:
        >>> breakhis_published("eva", tiles).sides  # doctest: +SKIP
        ('train', 'valid')
    """
    _require_breakhis(name, tiles)
    patients = published_patients()
    part_by_patient = {(patient.tumour, patient.number): patient.part(name) for patient in patients}
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
    """Return PatchCamelyon's own parts, as its files are named.

    Args:
        tiles: Tiles whose ``split`` column says train, valid or test.

    Returns:
        The split, by slide where slides are known and none lies in two parts, by tile otherwise.

    Raises:
        UserError: These are no PatchCamelyon tiles, or they belong to no part.
    """
    if tiles.name != "patch_camelyon":
        raise UserError("pcam-official is a split of PatchCamelyon", value=tiles.name, allowed="patch_camelyon",
                        fix="use grouped-5-seed0")  # fmt: skip
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


def _require_breakhis(name: str, tiles: TileSet) -> None:
    if tiles.name != "breakhis":
        raise UserError(f"{name} is a split of BreakHis", value=tiles.name, allowed="breakhis",
                        fix="use pcam-official or grouped-5-seed0")  # fmt: skip


def _differences(split: Split, tiles: TileSet, patients: tuple[PublishedPatient, ...]) -> list[str]:
    """Say where these tiles or their labels differ from the published split."""
    notes = []
    found = Counter(split.side_by_key.values())
    wanted: Counter[str] = Counter()
    for patient in patients:
        wanted[patient.part(split.name)] += patient.n_tiles
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
