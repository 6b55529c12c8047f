"""Classes of a data set met by those of a head: by name, never by position."""

# N tiles, K classes

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import polars as pl

from histotune.datasets.dataset_spec import known_specs
from histotune.datasets.disk import name_some
from histotune.datasets.look_alikes import look
from histotune.datasets.tileset import TileSet  # noqa: TC001  (part of a record that others introspect)
from histotune.tools.errors import UserError, closest_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

NEGATIVE = frozenset({"benign", "normal", "negative", "healthy", "nontumour", "notumour", "noncancer", "nocancer"})
POSITIVE = frozenset({"malignant", "tumour", "positive", "cancer", "cancerous", "carcinoma", "metastasis"})
"""Names that stand for the two answers of one question; compared as :func:`_spelled` writes them."""
OPTION = "--classes"
SHOWN = 20


@dataclass(frozen=True)
class ClassMatch:
    """A data set whose labels follow a head's classes.

    Attributes:
        tiles: The same tiles; labels index the head's classes, and tiles that were left out have none.
        own: The tiles as they were read.
        read_as: The data set's name -> the head's, for every name that differs; empty where all are the same.
        notes: How names that differ were read, and what was left out, one sentence each.
    """

    tiles: TileSet
    own: TileSet
    read_as: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def fingerprint(self, tile_ids: Sequence[str]) -> str:
        """Return the hash of some tiles and their labels as they were read, whatever head they are read for."""
        return self.own.where(pl.col("tile_id").is_in(list(tile_ids))).label_fingerprint

    def in_own_words(self) -> TileSet:
        """Return the tiles with the data set's own names where each stands for one class, in the head's order."""
        own = {head: name for name, head in self.read_as.items()}
        if len(own) < len(self.read_as):
            return self.tiles
        names = tuple(own.get(name, name) for name in self.tiles.class_names)
        return self.tiles if len(set(names)) < len(names) else replace(self.tiles, class_names=names)


def match_classes(
    tiles: TileSet,
    class_names: tuple[str, ...],
    stated: Mapping[str, str] | None = None,
    known: Mapping[str, str] | None = None,
) -> ClassMatch:
    """Return tiles whose labels follow the order of a head's classes, matched by name.

    Args:
        tiles: A data set; its classes may be fewer than the head's, never others.
        class_names: The head's classes.
        stated: The user's own reading: name in the data set -> name in the head; an empty name leaves its tiles out.
        known: What the head itself knows of such names; counts after the user's.

    Returns:
        The tiles, and how names that differ were read.

    Raises:
        UserError: A class that the head does not have, or a reading of names that are not there.
    """
    stated = dict(stated or {})
    _check_stated(stated, tiles, class_names)
    held = {int(label) for label in tiles.table["label"].drop_nulls().unique() if label >= 0}
    if not held:
        raise UserError(
            f"no tile of {tiles.name} has a label, and there is nothing to compare the head with",
            allowed=name_some(list(class_names), SHOWN),
            fix="label the tiles; what a head says of images without labels: histotune predict HEAD IMAGES",
        )
    target, left_out = _read(tiles.class_names, class_names, stated, known or {})
    rest = [name for label, name in enumerate(tiles.class_names) if name not in target | left_out and label in held]
    if rest or not target:
        raise _unmatched(tiles, class_names, rest, target)
    order = {label: class_names.index(target[name]) for label, name in enumerate(tiles.class_names) if name in target}
    read_as = {name: other for name, other in target.items() if name != other}
    notes = tuple(_notes(tiles, read_as, left_out))
    if tiles.class_names == class_names and not read_as and not left_out:
        return ClassMatch(tiles, tiles, notes=notes)
    label = pl.col("label").replace_strict(order, default=None, return_dtype=pl.Int32)
    matched = replace(tiles, table=tiles.table.with_columns(label), class_names=class_names)
    return ClassMatch(matched, tiles, read_as, notes)


def match_names(names: Sequence[str], class_names: Sequence[str]) -> dict[str, str]:
    """Return which of some class names each of others stands for: the same, another spelling, or the same answer.

    Example:
        >>> match_names(["tumor", "normal"], ["benign", "malignant"])
        {'tumor': 'malignant', 'normal': 'benign'}
    """
    return _read(names, class_names, {}, {})[0]


def _read(
    names: Sequence[str], class_names: Sequence[str], stated: Mapping[str, str], known: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Return which class of the head each name stands for, and which names are left out; some may be in neither."""
    left_out = {name: "" for name, other in stated.items() if not other}
    target = {name: other for name, other in stated.items() if other}
    open_names = [name for name in names if name not in stated]
    target |= {name: name for name in open_names if name in class_names}
    target |= {name: known[name] for name in open_names if name not in target and known.get(name) in class_names}
    for readings in (_spelled, _kind) if len(class_names) == len(names) == 2 else (_spelled,):
        free = [name for name in class_names if name not in target.values()]
        pairs = _pairs([name for name in open_names if name not in target], free, readings)
        target |= pairs
    return target, left_out


def _pairs(names: Sequence[str], free: Sequence[str], reading: Callable[[str], str]) -> dict[str, str]:
    """Return the pairs that are alike under a reading, where exactly one name of each side is."""
    found = {}
    for name in names:
        alike = [other for other in free if reading(other) and reading(other) == reading(name)]
        if len(alike) == 1 and sum(reading(other) == reading(name) for other in names) == 1:
            found[name] = alike[0]
    return found


def _spelled(name: str) -> str:
    """Return a name without what spellings differ in; a sign at its end counts, as in HER2- and HER2+."""
    return look(name).replace("tumor", "tumour")


def _kind(name: str) -> str:
    spelled = _spelled(name)
    return "negative" if spelled in NEGATIVE else "positive" if spelled in POSITIVE else ""


def _notes(
    tiles: TileSet,
    read_as: Mapping[str, str],
    left_out: Mapping[str, str],
) -> list[str]:
    """Return how names that differ were read, and what was left out."""
    notes = []
    if read_as:
        words = " and ".join(f"{name} is read as {other}" for name, other in read_as.items())
        notes.append(f"Classes of {tiles.name} by their names: {words}; another reading: {OPTION} NAME=CLASS,...")
    if left_out:
        labels = [label for label, name in enumerate(tiles.class_names) if name in left_out]
        n_tiles = int(tiles.table["label"].is_in(labels).sum())
        notes.append(f"{n_tiles:,} tiles of {name_some(list(left_out), SHOWN)} are left out, as asked for.")
    return notes


def _check_stated(stated: Mapping[str, str], tiles: TileSet, class_names: Sequence[str]) -> None:
    """Refuse a reading of a name that the data set does not have, or as a class that the head does not have."""
    for name, other in stated.items():
        if name not in tiles.class_names:
            raise UserError(
                f"{OPTION} reads a class that {tiles.name} does not have",
                value=name,
                allowed=name_some(list(tiles.class_names), SHOWN),
                closest=closest_name(name, tiles.class_names),
                fix=f"{OPTION} NAME-IN-THE-DATA=NAME-IN-THE-HEAD",
            )
        if other and other not in class_names:
            raise UserError(
                f"{OPTION} reads a class as one that the head does not have",
                value=other,
                allowed=name_some(list(class_names), SHOWN),
                closest=closest_name(other, class_names),
                fix=f"{OPTION} NAME-IN-THE-DATA=NAME-IN-THE-HEAD",
            )


def _unmatched(tiles: TileSet, class_names: Sequence[str], rest: Sequence[str], target: Mapping[str, str]) -> UserError:
    """Return the message that names both lists, and the option."""
    missing = [name for name in class_names if name not in target.values()]
    told = [f"lacks {_with_closest(missing, rest)}"] if missing else []
    told += [f"has {_with_closest(rest, missing)}, which the head does not know"] if rest else []
    names = list(rest) or list(tiles.class_names)
    return UserError(
        f"classes are matched by name, and {tiles.name} {' and '.join(told)}",
        value=name_some(list(tiles.class_names), SHOWN),
        allowed=name_some(list(class_names), SHOWN),
        fix=_scheme(tiles.name, class_names) or _fix(names, missing),
    )


def _fix(names: Sequence[str], missing: Sequence[str]) -> str:
    """Return the option that reads these names; it is for the user to say which is which."""
    if not missing:
        option = ",".join(f"{name}=" for name in names)
        return f"{OPTION} '{option}' leaves their tiles out; {OPTION} '{names[0]}=CLASS' reads one as a class"
    option = ",".join(f"{name}={missing[number] if number < len(missing) else ''}" for number, name in enumerate(names))
    which = ", or the other way round" if len(names) == len(missing) == 2 else ""
    return f"say what each stands for: {OPTION} '{option}'{which} (an empty name leaves its tiles out)"


def _scheme(name: str, class_names: Sequence[str]) -> str:
    """Return the setting under which the data set has the head's classes; empty where there is none."""
    spec = known_specs().get(name)
    schemes = () if spec is None else spec.schemes
    found = next((scheme.name for scheme in schemes if set(scheme.class_names) == set(class_names)), None)
    return f"--set source.labels={found}" if found else ""


def _with_closest(names: Sequence[str], others: Sequence[str]) -> str:
    """List names, each with the closest of the others."""
    closest = ((name, closest_name(name, others)) for name in names[:SHOWN])
    return ", ".join(repr(name) + (f" (closest: {near!r})" if near else "") for name, near in closest)


# ------------------------------------------------------------------------------
# A reading as the user types it


def parse_classes(value: object) -> object:
    """Return ``normal=benign,tumour=malignant`` as a mapping; anything else as it is.

    Example:
        >>> parse_classes("normal=benign, tumour=malignant")
        {'normal': 'benign', 'tumour': 'malignant'}
    """
    if not isinstance(value, str):
        return value
    found: dict[str, str] = {}
    for part in (part for part in value.split(",") if part.strip()):
        name, equals, other = (word.strip() for word in part.partition("="))
        if not equals or not name or name in found:
            raise ValueError("it takes NAME-IN-THE-DATA=NAME-IN-THE-HEAD, several with commas, each name once")
        found[name] = other
    return found
