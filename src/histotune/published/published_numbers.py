"""Published scores as they were read in their sources, each with its protocol and what weakens it."""

from __future__ import annotations

import csv
from dataclasses import dataclass, fields
from importlib import resources
from typing import TYPE_CHECKING

from histotune.tools.errors import UserError, closest_name, raise_together

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


SCORES_FILE = "published.csv"


@dataclass(frozen=True)
class Protocol:
    """What must be equal before two scores may stand in one table.

    Attributes:
        dataset: Such as ``BreakHis`` or ``PCam 10-shot``.
        protocol: Whose procedure, with its selection rule and number of runs: ``eva``, ``thunder-linear``, ...
        pooling: Column blocks of the embedding, in the source's words; empty where not stated.
        split: Part that was scored; empty where not stated.
        metric: Such as ``balanced_accuracy``.
    """

    dataset: str
    protocol: str
    pooling: str
    split: str
    metric: str

    @property
    def title(self) -> str:
        """What a table of these scores is called."""
        split = self.split or "split not stated"
        pooling = self.pooling or "pooling not stated"
        return f"{self.dataset}, {self.protocol}: {self.metric} on {split}, {pooling}"


@dataclass(frozen=True)
class PublishedScore:
    """One published number.

    Attributes:
        model: The backbone, or the method where it is no backbone.
        value: The score.
        protocol: How it came about.
        caveat: What weakens it; empty where nothing is known.
        source: Where it was read.
    """

    model: str
    value: float
    protocol: Protocol
    caveat: str
    source: str


@dataclass(frozen=True)
class Query:
    """Which scores are wanted; empty means any.

    Attributes:
        dataset: Name, or its beginning.
        protocol: Name, or its beginning: ``thunder`` finds all three.
        model: Part of the name.
        pooling: Name, or its beginning.
        split: Name, or its beginning.
        metric: Name, or its beginning.
    """

    dataset: str = ""
    protocol: str = ""
    model: str = ""
    pooling: str = ""
    split: str = ""
    metric: str = ""


def published_scores() -> tuple[PublishedScore, ...]:
    """Read the published scores that come with the package.

    Returns:
        All scores, in the order of the file.

    Example:
        >>> max(one.value for one in published_scores() if one.protocol.dataset == "BreakHis") > 0.9
        True
    """
    text = resources.files(__package__).joinpath(SCORES_FILE).read_text(encoding="utf-8")
    protocol_fields = [field.name for field in fields(Protocol)]
    return tuple(
        PublishedScore(
            row["model"],
            float(row["value"]),
            Protocol(*(row[name] for name in protocol_fields)),
            row["caveat"],
            row["source"],
        )
        for row in csv.DictReader(text.splitlines())
    )


def select(scores: Sequence[PublishedScore], query: Query) -> tuple[PublishedScore, ...]:
    """Return the scores that a query asks for."""
    raise_together(
        [error for name, wish in _wishes(query) if (error := _unknown(name, wish, _values(scores, name))) is not None]
    )
    found = tuple(
        one
        for one in scores
        if all(_meets(name, wish, value) for name, wish in _wishes(query) for value in _values([one], name))
    )
    if not found:
        raise UserError(
            "no published score meets all of these",
            value=_words(query),
            fix="leave one of them out; `histotune leaderboard` lists what there is",
        )
    return found


def _wishes(query: Query) -> list[tuple[str, str]]:
    return [(field.name, wish) for field in fields(Query) if (wish := getattr(query, field.name))]


def _words(query: Query) -> str:
    return ", ".join(f"{name} {wish}" for name, wish in _wishes(query))


def _values(scores: Iterable[PublishedScore], name: str) -> list[str]:
    found = (one.model if name == "model" else str(getattr(one.protocol, name)) for one in scores)
    return list(dict.fromkeys(found))


def _meets(name: str, wish: str, value: str) -> bool:
    """Return whether a value is what was asked for; a full name finds itself alone where others begin with it too."""
    wish, value = _plain(wish), _plain(value)
    return wish in value if name == "model" else value.startswith(wish)


def _plain(text: str) -> str:
    return text.lower().replace("-", " ").replace("_", " ")


def _unknown(name: str, wish: str, values: list[str]) -> UserError | None:
    if any(_meets(name, wish, value) for value in values):
        return None
    known = sorted(value for value in values if value)
    return UserError(
        f"no published score has this {name}", value=wish, allowed=", ".join(known), closest=closest_name(wish, known)
    )
