"""Scores of one protocol in one table, best first; a user's own stand among them, marked."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from histotune.statistics.metrics import LOWER_IS_BETTER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from histotune.published.published_parts import Protocol, PublishedScore


@dataclass(frozen=True)
class OwnScore:
    """A score of the user's under a published protocol.

    Attributes:
        model: The backbone that was used.
        value: The score: the mean over runs.
        protocol: How it came about; it stands only among published scores of the very same.
        seed_sd: Standard deviation over runs; NaN for a single one.
        low: Lower end of the interval over groups; NaN where there is none.
        high: Upper end of it.
        source: The run it was read from.
        caveat: What weakens it, or why there is no interval.
        weaknesses: What weakens every number of its protocol, published ones included.
    """

    model: str
    value: float
    protocol: Protocol
    seed_sd: float = math.nan
    low: float = math.nan
    high: float = math.nan
    source: str = ""
    caveat: str = ""
    weaknesses: tuple[str, ...] = ()


@dataclass(frozen=True)
class BoardRow:
    """One line of a table.

    Attributes:
        rank: Place among the published scores, from 1, equal values sharing one; for the user's own the place that it
            would take.
        model: Backbone or method.
        value: The score.
        own: Whether it is the user's.
        spread: Its standard deviation over runs and its interval, in words; empty for published scores.
        caveat: What weakens it.
        source: Where it was read.
    """

    rank: int
    model: str
    value: float
    own: bool
    spread: str
    caveat: str
    source: str


@dataclass(frozen=True)
class Board:
    """The scores of one protocol.

    Attributes:
        protocol: What all of them share.
        rows: Best first.
        weaknesses: What weakens all of them, as the user's runs of the protocol say.
    """

    protocol: Protocol
    rows: tuple[BoardRow, ...]
    weaknesses: tuple[str, ...] = ()

    @property
    def caveats(self) -> tuple[str, ...]:
        """What weakens some of its scores, each once."""
        return tuple(dict.fromkeys(row.caveat for row in self.rows if row.caveat))


def make_boards(published: Sequence[PublishedScore], own: Sequence[OwnScore] = ()) -> tuple[Board, ...]:
    """Put scores of equal protocol into one table each.

    Args:
        published: The published ones.
        own: The user's. One whose protocol nobody has published makes a table of its own.

    Returns:
        The tables, in the order in which their protocols first appear.
    """
    protocols = dict.fromkeys([*(one.protocol for one in published), *(one.protocol for one in own)])
    return tuple(_board(protocol, [one for one in published if one.protocol == protocol],
                        [one for one in own if one.protocol == protocol]) for protocol in protocols)  # fmt: skip


def _board(protocol: Protocol, published: Sequence[PublishedScore], own: Sequence[OwnScore]) -> Board:
    sign = 1 if protocol.metric in LOWER_IS_BETTER else -1
    values = [one.value for one in published]

    def rank(value: float) -> int:
        return 1 + sum(sign * other < sign * value for other in values)

    rows = [BoardRow(rank(one.value), one.model, one.value, False, "", one.caveat, one.source) for one in published]
    rows += [BoardRow(rank(one.value), one.model, one.value, True, _spread(one), one.caveat, one.source) for one in own]
    weaknesses = tuple(dict.fromkeys(text for one in own for text in one.weaknesses))
    return Board(protocol, tuple(sorted(rows, key=lambda row: (sign * row.value, row.model))), weaknesses)


def _spread(one: OwnScore) -> str:
    words = []
    if math.isfinite(one.low) and math.isfinite(one.high):
        words.append(f"[{one.low:.3f}, {one.high:.3f}]")
    if math.isfinite(one.seed_sd):
        words.append(f"SD over runs {one.seed_sd:.3f}")
    return ", ".join(words)
