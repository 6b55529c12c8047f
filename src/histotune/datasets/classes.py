"""Class names from the labels that were found: in a fixed order, the positive class of two last."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from histotune.datasets.disk import name_some
from histotune.tools.errors import UserError, closest_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from histotune.datasets.catalog import DatasetSpec

POSITIVE_NAMES = ("tumor", "tumour", "malignant", "cancer", "positive", "1", "true")


@dataclass(frozen=True)
class Classes:
    """Names by label index, and how the order was chosen.

    Attributes:
        names: Sorted; of two classes the positive one is last, index 1.
        note: A sentence on the choice of the positive class; "" where there are not two classes.
    """

    names: tuple[str, ...]
    note: str

    def index(self, label: str | None) -> int | None:
        """Return the index of a label, None where there is none."""
        return None if label is None else self.names.index(label)


def order_classes(labels: Iterable[str], positive: str | None) -> Classes:
    """Put the classes found in order.

    Args:
        labels: Every label that occurs.
        positive: The user's choice of the positive class; None looks for a known name (tumor, malignant, ...).

    Returns:
        Names sorted (whole numbers by value), the positive one of two last.

    Raises:
        UserError: Labels that differ only in case, or a positive class that is not one of two.

    Example:
        >>> order_classes(["tumor", "normal"], None).names
        ('normal', 'tumor')
    """
    names = sorted(set(labels), key=lambda name: (0, int(name), name) if name.isdecimal() else (1, 0, name))
    _refuse_look_alikes(names)
    if positive is not None:
        _check_positive(names, positive)
    if len(names) != 2:
        return Classes(tuple(names), "")
    known = [name for name in names if name.casefold() in POSITIVE_NAMES]
    if positive is not None:
        chosen, why = positive, "as asked for"
    elif len(known) == 1:
        chosen, why = known[0], "going by its name"
    else:
        chosen, why = names[1], "the later name"
    other = next(name for name in names if name != chosen)
    note = f"Class 1, the positive one, is {chosen} ({why}); another: --set source.positive_class={other}."
    return Classes((other, chosen), note)


def scheme_classes(spec: DatasetSpec, labels: Sequence[str | None]) -> tuple[Classes, list[str | None], list[str]]:
    """Map a data set's own labels to the classes of its first scheme.

    Args:
        spec: With at least one scheme.
        labels: Label per tile as the data set writes it; None where unlabelled.

    Returns:
        The classes; the class name per tile, None where unlabelled or left out; notes on what was left out.
    """
    scheme = spec.schemes[0]
    mapped = [None if label is None else scheme.class_by_source.get(label) for label in labels]
    dropped = Counter(label for label, name in zip(labels, mapped, strict=True) if label is not None and name is None)
    kinds = ", ".join(f"{label} {n:,}" for label, n in sorted(dropped.items()))
    notes = [f"Labels {scheme.name} leave out {dropped.total():,} tiles ({kinds})."] if dropped else []
    return Classes(scheme.class_names, ""), mapped, notes


def _refuse_look_alikes(names: Sequence[str]) -> None:
    by_lower: dict[str, list[str]] = {}
    for name in names:
        by_lower.setdefault(name.casefold(), []).append(name)
    twins = [" and ".join(map(repr, same)) for same in by_lower.values() if len(same) > 1]
    if twins:
        raise UserError("labels that differ only in upper and lower case would be different classes",
                        value=name_some(twins, 5), fix="write each class one way")  # fmt: skip


def _check_positive(names: Sequence[str], positive: str) -> None:
    if positive not in names:
        raise UserError("no tile has the label that should be the positive class", value=positive,
                        allowed=", ".join(names) or "no tile is labelled",
                        closest=closest_name(positive, names))  # fmt: skip
    if len(names) != 2:
        raise UserError(f"a positive class is one of two, and there are {len(names)}", value=positive,
                        allowed=", ".join(names), fix="leave --set source.positive_class out")  # fmt: skip
