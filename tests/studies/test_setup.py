"""A config is resolved in one place, and no room before the studies sees a whole one."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from histotune.backbones.entries import BackboneConfig
from histotune.datasets.config import DatasetConfig
from histotune.datasets.read import read_dataset
from histotune.images.config import ViewChoice
from histotune.studies.config import ExperimentConfig
from histotune.studies.setup import set_up, set_up_experiment
from histotune.tools.errors import UserError
from histotune.tools.progress import Stopwatch

PACKAGE = Path(__file__).parents[2] / "src" / "histotune"


def called_in(path: Path) -> set[str]:
    """Return the names of the functions that a file calls."""
    calls = [node.func for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    return {call.id for call in calls if isinstance(call, ast.Name)}


@pytest.mark.parametrize("name", ["find_backbone", "chosen_view"])
def test_backbone_and_view_are_looked_up_in_one_place(name: str) -> None:
    places = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py") if name in called_in(path)}
    assert places == {"studies/setup.py"}


def test_no_room_before_the_studies_takes_a_whole_config() -> None:
    named = {
        path.relative_to(PACKAGE).parts[0]
        for path in PACKAGE.rglob("*.py")
        if "ExperimentConfig" in path.read_text(encoding="utf-8")
    }
    assert named == {"studies", "cluster", "cli"}


def config_for(breakhis: Path, tmp_path: Path, **fields: object) -> ExperimentConfig:
    return ExperimentConfig(
        recipe="breakhis",
        source=DatasetConfig(name="breakhis", path=breakhis),
        backbone=BackboneConfig(name="colour-histogram"),
        cache=tmp_path / "cache",
        **fields,
    )


def test_a_setup_holds_what_is_embedded_and_how(breakhis: Path, tmp_path: Path) -> None:
    config = config_for(breakhis, tmp_path)
    setup = set_up(config, read_dataset(config.source))
    assert (setup.backbone.name, len(setup.tiles), setup.on_bad_image) == ("colour-histogram", 72, "fail")
    assert setup.request().view == setup.view
    seen = setup.with_view(ViewChoice(name="square"))
    assert (seen.view.name, seen.config.view.name) == ("square", "square")
    assert (setup.view.name, setup.config.view) == ("short-side-crop", None)
    material = setup.embed()
    assert material.tiles.tile_ids == setup.tiles.tile_ids
    assert material.view == setup.view.words


def test_an_experiment_without_data_has_nothing_to_score(tmp_path: Path) -> None:
    config = ExperimentConfig(recipe="x", backbone=BackboneConfig(name="colour-histogram"), cache=tmp_path)
    with pytest.raises(UserError, match="nothing to score"):
        set_up_experiment(config, Stopwatch())


def test_mistakes_in_the_data_and_the_backbone_are_told_together(breakhis: Path, tmp_path: Path) -> None:
    config = config_for(breakhis, tmp_path)
    config = config.model_copy(
        update={
            "backbone": BackboneConfig(name="colour-histogramm"),
            "evaluation": config.evaluation.model_copy(update={"train_magnification": "40X"}),
        }
    )
    with pytest.raises(UserError) as caught:
        set_up_experiment(config, Stopwatch())
    assert "40X" in str(caught.value)
    assert "unknown backbone" in str(caught.value)
