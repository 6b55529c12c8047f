"""What a recipe is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class RecipeData:
    """Where the user's files are.

    Attributes:
        data: Folder of the recipe's own data set; None where the recipe needs none.
        pcam: Folder of PatchCamelyon as a second data set; None skips external validation and direct training.
    """

    data: Path | None = None
    pcam: Path | None = None
