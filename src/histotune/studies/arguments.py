"""From plain arguments, as the command line and the verbs take them, to a config."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from histotune.datasets.config import check_on_bad_image
from histotune.images.config import check_view_name
from histotune.studies.config import load_config, override, parse_config
from histotune.studies.recipes import RecipeData, find_recipe, recipe_names
from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from histotune.studies.config import ExperimentConfig


def build_config(recipe: str | None, **typed: Any) -> ExperimentConfig:  # noqa: ANN401  (command-line options)
    """Return a recipe's config with the command line's options and --set fields applied."""
    if typed.get("from_run") is not None:
        config = load_config(typed["from_run"])
        _check_repeat(config, recipe)
    elif recipe is None:
        raise UserError("a recipe is needed", allowed=", ".join(recipe_names()),
                        fix="histotune run breakhis --data DIR")  # fmt: skip
    else:
        config = find_recipe(recipe)(RecipeData(_folder(typed.get("data")), _folder(typed.get("pcam"))))
    config = _with_options(config, typed)
    return override(config, typed.get("settings") or [])


def _folder(path: Path | None) -> Path | None:
    return None if path is None else path.expanduser()


def _check_repeat(config: ExperimentConfig, recipe: str | None) -> None:
    """Refuse a recipe beside --from, and a run folder that would run somebody's Python file unasked."""
    code = next((data.code for data in (config.source, config.target) if data is not None and data.code), None)
    if code is None and recipe is not None:
        raise UserError("--from repeats a run, so no recipe goes with it", value=recipe)
    if code is not None and (recipe is None or Path(recipe).expanduser().absolute() != code.absolute()):
        raise UserError("this run read its data with a Python file, which only runs when you name it", value=code,
                        fix=f"histotune run {code} --from RUN")  # fmt: skip


def _with_options(config: ExperimentConfig, typed: dict[str, Any]) -> ExperimentConfig:
    """Put the named options into their fields."""
    data = config.model_dump(mode="json")
    for name in ("train_magnification", "final", "split", "allow_leaky"):
        if typed.get(name) not in (None, False):
            data["evaluation"][name] = typed[name]
    if typed.get("cluster") is not None:
        data["interval"]["cluster"] = typed["cluster"]
    for dataset in (data["source"], data["target"]):
        if dataset is not None and typed.get("on_bad_image") is not None:
            dataset["on_bad_image"] = check_on_bad_image(typed["on_bad_image"])
    if typed.get("wandb") is not None:
        data["tracking"]["wandb"] = typed["wandb"]
    if typed.get("view") is not None:
        data["view"] = {**(data["view"] or {}), "name": check_view_name(typed["view"])}
    if typed.get("backbone") is not None:
        data["backbone"] = {"name": typed["backbone"]}
    if typed.get("adapter") is not None:
        data["backbone"]["adapter"] = typed["adapter"]
    for name in ("out", "cache"):
        if typed.get(name) is not None:
            data[name] = str(typed[name])
    if typed.get("cache") is not None and data["cohort"] is not None:
        cohort = Path(typed["cache"]) / "synthetic"
        data["cohort_path"] = str(cohort)
        data["source"]["path"], data["target"]["path"] = str(cohort / "breakhis"), str(cohort / "pcam")
    return parse_config(data)
