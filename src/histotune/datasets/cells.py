"""The one reader of cells that hold ids and labels: Unicode normalised, spaces stripped, missing is missing.

Cells that differ beyond that, and yet look alike, are refused together; ``source.ids`` joins them or keeps them apart.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Literal

import polars as pl

from histotune.datasets.look_alikes import DASHES, alike_groups, one_of
from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from histotune.datasets.config import DatasetConfig


INVISIBLE = "\x00\u00ad\u200b\u200c\u200d\u2060\ufeff"
MISSING_WORDS = frozenset(
    [
        "nan",
        "-nan",
        "na",
        "n/a",
        "<na>",
        "none",
        "null",
        "nil",
        "nat",
        "#n/a",
        "#na",
        "#null!",
        "#value!",
        "#ref!",
        "#div/0!",
        "#name?",
        "#num!",
        "n.a.",
        "n.a",
        "(null)",
        "(none)",
        "<null>",
        "\\n",
        "1.#ind",
        "-1.#ind",
        "1.#qnan",
        "-1.#qnan",
    ]
) | {"", "#n/a n/a"}
"""What programs write where a value is missing, in small letters."""
MISSING_MARKS = frozenset({"-", "--", "---", "?", "??", "."})
SIGNS = frozenset({"+", "++", "pos", "+/-"})  # where a label is one of these, a dash is a label, too
VAGUE_WORDS = frozenset({"unknown", "unk", "missing", "undefined", "unspecified", "not available", "not known"})
NUMBER = re.compile(r"[+-]?(?:0|[1-9]\d*)(?:\.\d+)?")
WHOLE_FLOAT = re.compile(r"-?\d+\.0+")
BOOLEAN = {"true": "1", "false": "0"}
SHOWN = 8
WHITE = re.compile("[\t\n\r\x0b\x0c\x1c-\x1f\x85\u2028\u2029]+")
"""Line breaks and tabs, as spreadsheets keep them in cells; to a reader they are spaces."""


@dataclass(frozen=True)
class CellRules:
    """How cells are read.

    Attributes:
        ids: ``join`` makes one name of those that look alike, ``exact`` keeps them apart; None refuses them.
        also_missing: Further words that stand for a missing value.
        not_missing: Words that are names, though they often stand for a missing value.
    """

    ids: Literal["join", "exact"] | None = None
    also_missing: tuple[str, ...] = ()
    not_missing: tuple[str, ...] = ()

    @classmethod
    def of(cls, config: DatasetConfig) -> CellRules:
        """Return the rules that a data set's settings ask for."""
        return cls(config.ids, config.also_missing, config.not_missing)

    def keeping(self, names: Iterable[str]) -> CellRules:
        """Return the same rules where some names are known to be names, and stay as they are."""
        return replace(self, ids="exact", not_missing=(*self.not_missing, *names))


@dataclass(frozen=True)
class Cells:
    """A column, read.

    Attributes:
        values: The cells, in their order; null where missing.
        notes: Sentences on what was read as missing, joined or kept apart; for the terminal, too.
        errors: What must be told before anything is made of the cells.
    """

    values: pl.Series
    notes: tuple[str, ...] = ()
    errors: tuple[UserError, ...] = ()


def read_labels(column: pl.Series, rules: CellRules) -> Cells:
    """Read a column of labels; 1, 1.0 and True are one class, and so are "benign" and "benign "."""
    return _read(column, "label", rules)


def read_ids(column: pl.Series, name: str, rules: CellRules) -> Cells:
    """Read a column of ids, such as those of groups or slides.

    Args:
        column: Text.
        name: What the column is called, for messages.
        rules: How its cells are read.

    Returns:
        The ids, one for each case that was meant, or the errors that say why that can't be told.
    """
    return _read(column, name, rules)


def clean(cell: str) -> str:
    r"""Return a cell in Unicode's composed form on one line, without spaces and invisible characters around it.

    Example:
        >>> clean("  Mu\u0308ller\u00a0") == "M\u00fcller", clean("tubular\nadenoma")
        (True, 'tubular adenoma')
    """
    text, before = unicodedata.normalize("NFC", WHITE.sub(" ", cell)), None
    while text != before:
        before, text = text, text.strip().strip(INVISIBLE)
    return text


def is_missing(cell: str, rules: CellRules | None = None) -> bool:
    """Return whether a cell holds nothing, or a word that programs write where a value is missing."""
    rules = rules or CellRules()
    text, folded = clean(cell), _fold(cell)
    if text in {clean(word) for word in rules.not_missing}:
        return False
    return folded in MISSING_WORDS | MISSING_MARKS or folded in {_fold(word) for word in rules.also_missing}


def whole_numbers(column: pl.Series) -> pl.Series:
    """Return 7.0 and 12.0 as 7 and 12 where all cells are such, which is what a gap makes of whole numbers.

    Example:
        >>> whole_numbers(pl.Series(["7.0", None, "12.0"])).to_list()
        ['7', None, '12']
    """
    found = column.drop_nulls().unique()
    if len(found) and all(WHOLE_FLOAT.fullmatch(cell) for cell in found):
        return column.str.replace(r"\.0+$", "")
    return column


def _fold(cell: str) -> str:
    return clean(cell).translate(DASHES).casefold()


def _read(column: pl.Series, name: str, rules: CellRules) -> Cells:
    column = column.cast(pl.String)
    n_by_cell = dict(column.drop_nulls().value_counts().iter_rows())
    missing = {cell for cell in n_by_cell if is_missing(cell, rules)}
    if name == "label" and any(_fold(cell) in SIGNS for cell in n_by_cell):
        missing -= {cell for cell in missing if _fold(cell) in MISSING_MARKS}
    name_by_cell = {cell: None if cell in missing else clean(cell) for cell in n_by_cell}
    notes = [*_missing_notes(name, n_by_cell, missing), *_vague_notes(name, n_by_cell)]
    values = whole_numbers(_mapped(column, name_by_cell))
    found = sorted(values.drop_nulls().unique())
    if name == "label" and rules.ids != "exact":
        same = _same_values(found)
        notes += _value_notes({cell: new for cell, new in same.items() if new != cell})
        values, found = _mapped(values, same), sorted(set(same.values()))
    alike = alike_groups(found)
    if alike and rules.ids is None:
        return Cells(values, tuple(notes), (_alike_error(name, alike),))
    if alike and rules.ids == "join":
        values = _mapped(values, {one: one_of(same) for same in alike for one in same})
    return Cells(values, (*notes, *_alike_notes(name, alike, rules)))


def _mapped(column: pl.Series, name_by_cell: Mapping[str, str | None]) -> pl.Series:
    if all(cell == name for cell, name in name_by_cell.items()):
        return column
    new = {cell: name for cell, name in name_by_cell.items() if name is not None and name != cell}
    gone = [cell for cell, name in name_by_cell.items() if name is None]
    table = pl.DataFrame({"cell": column})
    known = pl.when(pl.col("cell").is_in(gone)).then(None).otherwise(pl.col("cell"))
    return table.select(known.replace(new).alias(column.name))[column.name]


def _same_values(found: Sequence[str]) -> dict[str, str]:
    """Return labels by what they are: numbers of one value are one label, and True is 1 where there are numbers."""
    flags = {label for label in found if label.casefold() in BOOLEAN}
    numbers = {label: _number(label) for label in found if label not in flags}
    n_by_number = Counter(numbers.values())
    as_numbers = bool(flags) and bool(numbers) and set(numbers.values()) <= {"0", "1"}
    same = {label: new if n_by_number[new] > 1 or as_numbers else label for label, new in numbers.items()}
    for flag in sorted(flags):
        first = min(other for other in flags if other.casefold() == flag.casefold())
        same[flag] = BOOLEAN[flag.casefold()] if as_numbers else first
    return same


def _number(label: str) -> str:
    """Return a number without needless digits; other labels as they are."""
    if not NUMBER.fullmatch(label):
        return label
    value = Decimal(label)
    return f"{int(value)}" if value == int(value) else f"{value.normalize():f}"


# ---- What is said about it ----


PLURALS = {
    "label": "labels",
    "group": "group ids",
    "slide": "slide ids",
    "site": "sites",
    "scanner": "scanners",
    "stain": "stains",
    "magnification": "magnifications",
    "split": "parts",
}


def _some(names: Iterable[str]) -> str:
    """Return a few names as they are written, in quotes."""
    shown = [repr(name) for name in names]
    more = f" and {len(shown) - SHOWN:,} more" if len(shown) > SHOWN else ""
    return ", ".join(shown[:SHOWN]) + more


def _missing_notes(name: str, n_by_cell: Mapping[str, int], missing: set[str]) -> list[str]:
    written = sorted(cell for cell in missing if clean(cell))
    if not written:
        return []
    n = sum(n_by_cell[cell] for cell in written)
    tiles = "1 tile" if n == 1 else f"{n:,} tiles"
    first = clean(written[0])
    kept = f"if it is a name, --set 'source.not_missing=[\"{first}\"]' keeps it"
    return [f"The {name} of {tiles} is written {_some(written)}, which is read as missing; {kept}."]


def _vague_notes(name: str, n_by_cell: Mapping[str, int]) -> list[str]:
    vague = [cell for cell in sorted(n_by_cell) if _fold(cell) in VAGUE_WORDS]
    if not vague or name not in ("group", "slide"):
        return []
    n = sum(n_by_cell[cell] for cell in vague)
    word = clean(vague[0])
    return [
        f"The {name} of {n:,} tiles is {_some(vague)}, which counts as one {name}; if it means that nobody knows, "
        f"--set 'source.also_missing=[\"{word}\"]' says so."
    ]


def _value_notes(new_by_label: Mapping[str, str]) -> list[str]:
    if not new_by_label:
        return []
    pairs = [f"{label!r} is {new!r}" for label, new in sorted(new_by_label.items())]
    return [f"Labels of one value are one class: {', '.join(pairs[:SHOWN])}."]


def _alike_notes(name: str, alike: Sequence[tuple[str, ...]], rules: CellRules) -> list[str]:
    if not alike:
        return []
    what, some = PLURALS.get(name, f"{name}s"), _together(alike)
    if rules.ids == "join":
        return [f"Some {what} that look alike were joined, as asked for by ids=join: {some}."]
    return [f"Some {what} look alike and were kept apart, as asked for by ids=exact: {some}."]


def _together(alike: Sequence[tuple[str, ...]]) -> str:
    shown = [" and ".join(map(repr, same[:SHOWN])) for same in alike[:SHOWN]]
    more = f" and {len(alike) - SHOWN:,} more" if len(alike) > SHOWN else ""
    return "; ".join(shown) + more


def _alike_error(name: str, alike: Sequence[tuple[str, ...]]) -> UserError:
    what = PLURALS.get(name, f"{name}s")
    return UserError(
        f"{what} that look alike would be different {'classes' if name == 'label' else f'{name}s'}",
        value=_together(alike),
        allowed="each name written one way (spaces around it, and the forms of one Unicode character, don't count)",
        fix="write each one way, or add --set source.ids=join to make one of each, or --set source.ids=exact to keep "
        "them apart",
    )
