"""Recipes by name."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from histotune.studies.demo import demo
from histotune.studies.midnight import midnight
from histotune.studies.pcam import pcam
from histotune.studies.published import (
    eva_breakhis,
    eva_pcam,
    eva_pcam_10shot,
    thunder_breakhis,
    thunder_pcam,
    uni_breakhis,
    uni_pcam,
)
from histotune.studies.recipes import breakhis
from histotune.studies.tiles import python_file, tiles
from histotune.tools.errors import UserError, closest_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from histotune.studies.config import ExperimentConfig
    from histotune.studies.records import RecipeData

PROTOCOLS = (eva_breakhis, eva_pcam, eva_pcam_10shot, thunder_breakhis, thunder_pcam, uni_breakhis, uni_pcam)
RECIPES = (demo, breakhis, pcam, midnight, tiles, *PROTOCOLS)


def recipe_names() -> tuple[str, ...]:
    """Return the recipes' names as they are typed."""
    return tuple(recipe.__name__.replace("_", "-") for recipe in RECIPES)


def find_recipe(name: str) -> Callable[[RecipeData], ExperimentConfig]:
    """Return a recipe by its name.

    Args:
        name: Such as "breakhis", or the path of a Python file with a reader of one's own (``my_dataset.py``).

    Returns:
        The function that builds its config.

    Raises:
        UserError: Unknown name; the closest one is offered.
    """
    if name.endswith(".py"):
        return partial(python_file, Path(name).expanduser())
    by_name = dict(zip(recipe_names(), RECIPES, strict=True))
    if name not in by_name:
        raise UserError("unknown recipe", value=name, allowed=", ".join(by_name), closest=closest_name(name, by_name))
    return by_name[name]
