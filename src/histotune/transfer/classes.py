"""Classes of a head and of a target: two by their order, several by their names."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import polars as pl

from histotune.datasets.read import known_specs
from histotune.tools.errors import UserError, closest_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from histotune.datasets.tileset import TileSet

    Int = NDArray[np.int64]


def match_classes(tiles: TileSet, class_names: tuple[str, ...]) -> TileSet:
    """Return tiles whose labels follow the order of a head's classes.

    Args:
        tiles: The target.
        class_names: The head's classes. Class 1 of two is read as class 1 of the target, whatever the names; several
            are matched by name.

    Returns:
        The tiles; recoded where the order differs.

    Raises:
        UserError: The target has another number of classes, or others.
    """
    if len(class_names) == 2:
        if len(tiles.class_names) != 2:
            raise UserError("a head of two classes needs a target of two classes",
                            value=", ".join(tiles.class_names), allowed=" and ".join(class_names),
                            fix=_scheme(tiles.name, class_names)
                            or "label the target with two classes, or train a head on its classes")  # fmt: skip
        return tiles
    missing, extra = _without(class_names, tiles.class_names), _without(tiles.class_names, class_names)
    if missing or extra:
        told = [f"lacks {_with_closest(missing, extra)}"] if missing else []
        told += [f"has {_with_closest(extra, missing)}, which the head does not know"] if extra else []
        raise UserError(
            f"a head of {len(class_names)} classes needs a target of the same classes, matched by name, and "
            f"{tiles.name} {' and '.join(told)}",
            value=", ".join(tiles.class_names), allowed=", ".join(class_names),
            fix=_scheme(tiles.name, class_names)
            or "give the target's classes the head's names and leave out the others, or train a head on the classes "
            "that both hold",
        )  # fmt: skip
    if tiles.class_names == class_names:
        return tiles
    order = {label: class_names.index(name) for label, name in enumerate(tiles.class_names)}
    label = pl.col("label").replace_strict(order, return_dtype=pl.Int32)
    return replace(tiles, table=tiles.table.with_columns(label), class_names=class_names)


def check_every_class(y_N: Int, class_names: Sequence[str], domain: str) -> None:
    """Refuse tiles that lack a class.

    Args:
        y_N: Labels.
        class_names: Names by label.
        domain: Whose tiles.

    Raises:
        UserError: With the missing classes.
    """
    missing = [name for label, name in enumerate(class_names) if not (y_N == label).any()]
    if missing:
        how_many = "one class" if len(missing) == 1 else f"{len(missing)} classes"
        raise UserError(f"{domain} holds no tile of {how_many}, and the diagnosis ranks every class",
                        value=", ".join(missing),
                        fix="diagnose on tiles of every class, or train a head on the classes that both data sets "
                            "hold")  # fmt: skip


def _scheme(name: str, class_names: Sequence[str]) -> str:
    """Return the setting under which the data set has the head's classes; empty where there is none."""
    spec = known_specs().get(name)
    schemes = () if spec is None else spec.schemes
    found = next((scheme.name for scheme in schemes if set(scheme.class_names) == set(class_names)), None)
    return f"--set source.labels={found}" if found else ""


def _without(names: Sequence[str], others: Sequence[str]) -> list[str]:
    return [name for name in names if name not in others]


def _with_closest(names: Sequence[str], others: Sequence[str]) -> str:
    """List names, each with the closest of the others."""
    closest = ((name, closest_name(name, others)) for name in names)
    return ", ".join(repr(name) + (f" (closest: {near!r})" if near else "") for name, near in closest)
