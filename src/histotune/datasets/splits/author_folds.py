"""The BreakHis authors' own folds, from Kaggle's ``Folds.csv`` or from plain text, ``dsfold1.txt`` and so on.

Both list every image once per fold with ``train`` or ``test``. They keep the authors' 82 patients apart, not the
accession numbers, and each fold is a train/test split of its own, whose test parts may overlap.
"""

from __future__ import annotations

import csv
import os
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from histotune.datasets.disk import name_some
from histotune.datasets.splits.split import Split, mark_leaks, note_outside
from histotune.tools.errors import UserError
from histotune.tools.files import hash_bytes
from histotune.tools.stand_ins import refuse_stand_in

if TYPE_CHECKING:
    from collections.abc import Iterator

    from histotune.datasets.tileset import TileSet


CSV_NAME = "folds.csv"
TEXT_NAME = re.compile(r"dsfold(\d+)\.txt", re.IGNORECASE)
COLUMNS = {
    "fold": ("fold", "folds", "fold_id"),
    "grp": ("grp", "group", "set", "split", "part"),
    "filename": ("filename", "file", "file_name", "path", "image"),
}
FOLDS_FORMAT = (
    "Folds.csv with the columns fold, mag, grp (train or test) and filename, or dsfold1.txt ... with lines such as "
    "SOB_M_DC-14-5694-400-005.png|400|1|train"
)
MAX_FOLDS_BYTES = 64 * 1024 * 1024  # the real files hold about 40,000 lines
LEVELS_UP = 5  # from the images' common folder to where copies of the data set keep their fold files


@dataclass(frozen=True)
class AuthorsFolds:
    """What the fold files say.

    Attributes:
        source: Names of the files and the first digits of their hash, for notes.
        side_by_fold: Fold number -> tile id -> train or test.
    """

    source: str
    side_by_fold: dict[int, dict[str, Literal["train", "test"]]]

    @property
    def are_folds(self) -> bool:
        """Whether every image is tested in exactly one fold and trains in all others."""
        tested: dict[str, int] = defaultdict(int)
        for sides in self.side_by_fold.values():
            for tile_id, side in sides.items():
                tested[tile_id] += side == "test"
        complete = all(len(sides) == len(tested) for sides in self.side_by_fold.values())
        return complete and all(n == 1 for n in tested.values())


@dataclass(frozen=True)
class FoldEntry:
    """One line of a fold file, its fields as they stand there.

    Attributes:
        line: Number of the line, from 1.
        fold: Names the fold.
        side: train or test.
        file_name: Of the image.
    """

    line: int
    fold: str
    side: str
    file_name: str


def authors_split(tiles: TileSet, n_folds: int, fold: int | None, path: Path | None) -> Split:
    """Return the authors' folds, or one of them as a train/test split."""
    if tiles.name != "breakhis":
        raise UserError("the authors' folds are a split of BreakHis", value=tiles.name, allowed="breakhis")
    folds = read_folds(find_fold_files(tiles, path))
    name = f"authors-{n_folds}" + ("" if fold is None else f"/fold{fold}")
    if len(folds.side_by_fold) != n_folds:
        n = len(folds.side_by_fold)
        raise UserError(f"the fold files hold {n} folds, not {n_folds}", value=folds.source, allowed=f"authors-{n}")
    kind: Literal["folds", "parts"] = "folds" if fold is None else "parts"
    if fold is None:
        side_by_key = _all_folds(folds, n_folds)
    elif fold in folds.side_by_fold:
        side_by_key = dict(folds.side_by_fold[fold])
    else:
        raise UserError("there is no such fold", value=name, allowed=_fold_names(folds))
    known = {tile_id: side_by_key[tile_id] for tile_id in tiles.tile_ids if tile_id in side_by_key}
    if not known:
        raise UserError(
            "no image of the fold files is among these tiles",
            value=folds.source,
            allowed=f"the original file names, such as {next(iter(side_by_key))}",
        )
    notes = (f"The data set authors' folds, from {folds.source}.", *_absent(known, side_by_key))
    split = Split(name, kind, "tile", known, notes=notes, partial=True)
    return note_outside(mark_leaks(split, tiles), tiles)


def find_fold_files(tiles: TileSet, path: Path | None) -> tuple[Path, ...]:
    """Return ``Folds.csv`` or all ``dsfold*.txt`` of one folder."""
    if path is not None:
        place = path.expanduser()
        if place.is_file():
            return _in_folder(place.parent) if TEXT_NAME.fullmatch(place.name) else (place,)
        found = _in_folder(place) if place.is_dir() else ()
        if not found:
            raise _no_folds("no fold files here", path)
        return found
    common = Path(os.path.commonpath([str(path) for path in {Path(path).parent for path in tiles.table["path"]}]))
    for folder in (common, *list(common.parents)[:LEVELS_UP]):
        found = _in_folder(folder)
        if found:
            return found
    fix = "name them: --split authors-5:PATH/TO/Folds.csv"
    raise _no_folds("the authors' fold files were not found beside the images", common, fix)


def read_folds(paths: tuple[Path, ...]) -> AuthorsFolds:
    """Read fold files of either shape."""
    texts = [_read_text(path) for path in paths]
    if not any(text.strip() for text in texts):
        raise _no_folds("the fold file is empty", paths[0])
    side_by_fold: dict[int, dict[str, Literal["train", "test"]]] = defaultdict(dict)
    for path, text in zip(paths, texts, strict=True):
        entries = _csv_entries(path, text) if "|" not in text.partition("\n")[0] else _text_entries(text)
        for entry in entries:
            number, side = re.search(r"\d+", entry.fold), entry.side.strip().lower()
            stem = re.split(r"[\\/]", entry.file_name.strip())[-1].rpartition(".")[0]
            if number is None or side not in ("train", "test") or not stem:
                fields = f"{entry.fold}, {entry.side}, {entry.file_name}"
                raise _no_folds(f"{path.name} can't be read at line {entry.line}", fields)
            first = side_by_fold[int(number[0])].setdefault(stem, "test" if side == "test" else "train")
            if first != side:
                raise UserError(f"{path.name} puts an image on both sides of fold {number[0]}", value=stem)
    if not side_by_fold:
        raise _no_folds("the fold file lists no image", paths[0])
    names = name_some([path.name for path in paths], 5)
    return AuthorsFolds(f"{names} (hash {hash_bytes(*texts)[:12]})", dict(sorted(side_by_fold.items())))


def _no_folds(what: str, value: object, fix: str | None = None) -> UserError:
    return UserError(what, value=value, allowed=FOLDS_FORMAT, fix=fix)


def _in_folder(folder: Path) -> tuple[Path, ...]:
    try:
        files = sorted(path for path in folder.iterdir() if path.is_file())
    except OSError:
        return ()
    table = tuple(path for path in files if path.name.lower() == CSV_NAME)
    numbered = [(int(match[1]), path) for path in files if (match := TEXT_NAME.fullmatch(path.name))]
    return table or tuple(path for _, path in sorted(numbered))


def _read_text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_FOLDS_BYTES:
            raise _no_folds("this file is too large for a fold file", path)
        refuse_stand_in(path, "this fold file")
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise _no_folds("this fold file can't be read", path) from error


def _csv_entries(path: Path, text: str) -> Iterator[FoldEntry]:
    """Yield the lines of a table; columns are found by name, in any order and case."""
    header = text.partition("\n")[0]
    delimiter = max(",;\t", key=header.count)
    rows = csv.reader(text.splitlines(), delimiter=delimiter)
    names = [name.strip().lower() for name in next(rows, [])]
    places = {}
    for column, known in COLUMNS.items():
        found = next((names.index(name) for name in known if name in names), None)
        if found is None:
            raise _no_folds(f"{path.name} has no column {column}", ", ".join(names) or "no columns")
        places[column] = found
    for number, row in enumerate(rows, 2):
        if not any(field.strip() for field in row):
            continue
        fields = [row[places[column]] if places[column] < len(row) else "" for column in ("fold", "grp", "filename")]
        yield FoldEntry(number, *fields)


def _text_entries(text: str) -> Iterator[FoldEntry]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        fields = [*line.split("|"), "", "", ""]
        yield FoldEntry(number, fold=fields[2], side=fields[3], file_name=fields[0])


def _all_folds(folds: AuthorsFolds, n_folds: int) -> dict[str, str]:
    """Return the fold that tests each image, counted from 0."""
    if not folds.are_folds:
        raise UserError(
            "the test parts of these folds do not cover each image once, so they are no cross-validation: each fold is "
            "a train/test split of its own",
            value=f"authors-{n_folds}",
            allowed=_fold_names(folds),
            fix=f"--split authors-{n_folds}/fold1 --final, and the other folds in turn",
        )
    numbers = {fold: str(place) for place, fold in enumerate(folds.side_by_fold)}
    return {
        tile_id: numbers[fold]
        for fold, sides in folds.side_by_fold.items()
        for tile_id, side in sides.items()
        if side == "test"
    }


def _fold_names(folds: AuthorsFolds) -> str:
    n = len(folds.side_by_fold)
    return ", ".join(f"authors-{n}/fold{fold}" for fold in folds.side_by_fold)


def _absent(known: dict[str, str], listed: dict[str, str]) -> tuple[str, ...]:
    absent = len(listed) - len(known)
    return (f"{absent:,} images of the fold files are not among these tiles.",) if absent else ()
