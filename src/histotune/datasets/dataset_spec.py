"""What is known about a data set before a file is read: licence, labels, candidate scales, caveats."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping  # noqa: TC003  (the records are rebuilt from specs.toml)
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

from pydantic import TypeAdapter

from histotune.datasets.disk import SYNTHETIC_NOTE
from histotune.datasets.tileset import LabelRegion, MppSource, TileSet
from histotune.tools.errors import UserError, closest_name

if TYPE_CHECKING:
    from collections.abc import Iterable

    import polars as pl

    from histotune.datasets.config import DatasetConfig


@dataclass(frozen=True)
class CandidateScale:
    """One reading of how large a pixel is.

    Attributes:
        source: ``nominal`` (from the optics or the documentation) or ``estimated`` (measured in the images).
        mpp_by_magnification: Magnification label -> um/px; the key "" speaks for tiles without a magnification.
        factor: Multiplicative uncertainty, 1 = exact: the truth is taken to lie between mpp / factor and
            mpp * factor.
        why: Where the numbers come from, one sentence.
    """

    source: MppSource
    mpp_by_magnification: Mapping[str, float]
    factor: float
    why: str


@dataclass(frozen=True)
class ClassScheme:
    """One way to label a data set.

    Attributes:
        name: As in ``DatasetConfig.labels``.
        class_names: Names by label index; in binary schemes index 1 is the positive class.
        class_by_source: The data set's own label -> class name; own labels that are missing here are dropped.
        why: What the scheme is for, one sentence.
    """

    name: str
    class_names: tuple[str, ...]
    class_by_source: Mapping[str, str]
    why: str

    def index(self, source_label: str) -> int | None:
        """Return the label index of one of the data set's own labels, or None where the scheme leaves it out."""
        name = self.class_by_source.get(source_label)
        return None if name is None else self.class_names.index(name)


@dataclass(frozen=True)
class DatasetSpec:
    """Everything about a data set that its files do not say.

    Attributes:
        name: Short name, as in ``DatasetConfig.name``.
        title: Full name, for people.
        licence: Licence of the images.
        citation: How to cite them.
        url: Where they come from; "" where nobody else can get them.
        stain: Stain of every tile; "" where each tile has its own, or it is unknown.
        scales: Candidate scales, the default one first; none where the pixel size is unknown.
        schemes: Class schemes, the default one first; none where the classes are the labels found.
        group: What a group is, in words.
        group_word: What messages call a group, such as "case" or "slide".
        label_region: What a label speaks about where it is not the whole tile.
        caveats: What a reader of any result on this data must know, one sentence each.
    """

    name: str
    title: str
    licence: str
    citation: str
    url: str = ""
    stain: str = ""
    scales: tuple[CandidateScale, ...] = ()
    schemes: tuple[ClassScheme, ...] = ()
    group: str = "the group given for each tile"
    group_word: str = "group"
    label_region: LabelRegion | None = None
    caveats: tuple[str, ...] = ()

    def scheme(self, name: str) -> ClassScheme:
        """Return a class scheme by name.

        Args:
            name: As in ``DatasetConfig.labels``.

        Returns:
            The scheme.

        Raises:
            UserError: The data set has no such scheme.
        """
        by_name = {scheme.name: scheme for scheme in self.schemes}
        if name not in by_name:
            raise UserError(
                f"{self.title} can't be labelled this way",
                value=name,
                allowed=", ".join(by_name),
                closest=closest_name(name, by_name),
            )
        return by_name[name]


@cache
def known_specs() -> dict[str, DatasetSpec]:
    """Return what is known about every data set that has a reader here.

    Returns:
        Licence, classes and candidate scales, by the data set's name.

    Example:
        >>> sorted(known_specs())
        ['breakhis', 'patch_camelyon', 'tiles']
    """
    text = resources.files(__package__).joinpath("specs.toml").read_text(encoding="utf-8")
    return TypeAdapter(dict[str, DatasetSpec]).validate_python(tomllib.loads(text))


def group_word(data_set: str) -> str:
    """Return what messages call a group of a data set, or of a domain such as "breakhis 100X".

    Example:
        >>> group_word("patch_camelyon test"), group_word("mine")
        ('slide', 'group')
    """
    known = known_specs().get(data_set.split(" ", 1)[0])
    return "group" if known is None else known.group_word


def group_words(data_set: str, n_groups: int) -> str:
    """Return a number of groups as messages say it, in the word that fits the data set.

    Args:
        data_set: Name of a data set, or a domain such as "breakhis 100X".
        n_groups: How many; 0 stands for groups that nobody knows.

    Returns:
        The number with the word; of one's own data sets they are groups.

    Example:
        >>> group_words("breakhis 100X", 24), group_words("patch_camelyon test", 1), group_words("mine", 0)
        ('24 cases', '1 slide', 'unknown groups')
    """
    word = group_word(data_set)
    return f"unknown {word}s" if not n_groups else f"{n_groups:,} {word}{'' if n_groups == 1 else 's'}"


def tiles_of(
    spec: DatasetSpec, table: pl.DataFrame, class_names: tuple[str, ...], notes: Iterable[str], *, synthetic: bool
) -> TileSet:
    """Return what a reader found as a tile set, with what is known about the data set."""
    return TileSet(
        name=spec.name,
        table=table,
        class_names=class_names,
        licence=spec.licence,
        citation=spec.citation,
        label_region=spec.label_region,
        synthetic=synthetic,
        notes=(*((SYNTHETIC_NOTE,) if synthetic else ()), *notes),
    )


@dataclass(frozen=True)
class ChosenScale:
    """The scale a reader writes into the table, and the sentence that says so.

    Attributes:
        source: ``nominal``, ``estimated`` or ``user``.
        mpp_by_magnification: Magnification label -> um/px.
        factor: Multiplicative uncertainty.
        note: For the tile set's notes.
    """

    source: MppSource
    mpp_by_magnification: Mapping[str, float]
    factor: float
    note: str


def choose_scale(spec: DatasetSpec, config: DatasetConfig) -> ChosenScale:
    """Pick the scale that fills the ``mpp`` columns."""
    magnifications = sorted({name for scale in spec.scales for name in scale.mpp_by_magnification})
    given = config.mpp_by_magnification
    if config.mpp is not None:
        given = dict.fromkeys(magnifications, config.mpp)
    if given is not None:
        _check_magnifications(spec, given, magnifications)
        return _given_scale(config, given)
    candidates = {scale.source: scale for scale in spec.scales}
    scale = candidates.get(config.mpp_source, spec.scales[0])
    lacking = "" if config.mpp_source in candidates else f" ({spec.title} has no {config.mpp_source} scale)"
    return ChosenScale(
        scale.source, scale.mpp_by_magnification, scale.factor, f"Scale: {scale.source}{lacking}. {scale.why}"
    )


def _given_scale(config: DatasetConfig, given: Mapping[str, float]) -> ChosenScale:
    values = scale_in_words(config.mpp, given)
    if config.mpp_factor == 1:
        return ChosenScale("user", given, 1.0, f"Scale: {values}, as given by the user.")
    note = f"Scale: {values}, an estimate given by the user, within a factor of {config.mpp_factor:g}."
    return ChosenScale("estimated", given, config.mpp_factor, note)


def scale_in_words(mpp: float | None, by_magnification: Mapping[str, float]) -> str:
    """Return a given scale as messages name it: one for every tile, or one per magnification."""
    if mpp is not None:
        return f"{mpp:g} um/px for every tile"
    return ", ".join(f"{value:g} um/px at {name}" for name, value in by_magnification.items())


def _check_magnifications(spec: DatasetSpec, given: Mapping[str, float], magnifications: list[str]) -> None:
    """Refuse a scale per magnification that does not speak of exactly the data set's magnifications."""
    wrong = [name for name in given if name not in magnifications]
    missing = [name for name in magnifications if name not in given]
    if not wrong and not missing:
        return
    labels = ", ".join(name or "(no label)" for name in magnifications)
    if wrong:
        what, value = f"{spec.title} has no such magnification", ", ".join(wrong)
    else:
        what, value = (
            "mpp_by_magnification leaves magnifications out",
            ", ".join(name or "(no label)" for name in missing),
        )
    raise UserError(
        what,
        value=value,
        allowed=labels,
        closest=closest_name(wrong[0], magnifications) if wrong else None,
        fix=f"give all of: {labels}, or one scale for every tile with mpp",
    )
