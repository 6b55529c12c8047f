"""Tiles that can't be read, each with its reason, reported together or left out together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from histotune.images.decode import PixelSource

MAX_LISTED = 20  # one message names at most this many
SKIP_FIX = "mend these and run again, or leave them out with --on-bad-image skip"


@dataclass(frozen=True)
class UnreadableTile:
    """A tile and why it can't be read."""

    source: PixelSource
    error: UserError


class UnreadableTilesError(UserError):
    """Tiles that can't be read.

    Args:
        tiles: All that are known, at least one.
        complete: Whether every tile was tried; otherwise the message says that there may be more.
    """

    def __init__(self, tiles: Sequence[UnreadableTile], *, complete: bool = True) -> None:
        self.tiles = tuple(tiles)
        self.complete = complete
        super().__init__("\n".join(str(error) for error in self._errors()))

    def _errors(self) -> list[UserError]:
        errors = [tile.error for tile in self.tiles[:MAX_LISTED]]
        more = len(self.tiles) - MAX_LISTED
        if not self.complete:
            errors.append(UserError("there may be more; the check stopped here", fix=SKIP_FIX))
        elif more > 0:
            errors.append(UserError(f"and {more:,} more tiles that can't be read", fix=SKIP_FIX))
        return errors
