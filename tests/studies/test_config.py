"""Every field is reachable, typed, and a mistake is answered with the closest name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from histotune.backbones.catalog import documented_view, find_backbone
from histotune.backbones.entries import BackboneConfig
from histotune.embeddings.space import chosen_view
from histotune.images.config import ViewChoice, ViewConfig
from histotune.studies.config import ExperimentConfig, load_config, override, parse_config
from histotune.studies.recipes import RECIPES, RecipeData, find_recipe
from histotune.tools.errors import UserError, UserErrors


def config() -> ExperimentConfig:
    return find_recipe("breakhis")(RecipeData(Path("DATA"), Path("PCAM")))


def test_a_search_is_taken_by_its_name_and_then_changed() -> None:
    changed = override(config(), ["sweep.family=sgd", "sweep.sgd=common-wandb", "sweep.sgd.n_trials=7"])
    assert changed.sweep.sgd.n_trials == 7
    assert changed.sweep.sgd.space["optimizer"].values == ("AdamW", "Adam", "SGD")
    assert (changed.sweep.sgd.space["lr"].low, changed.sweep.sgd.space["lr"].high) == (1e-7, 1e-3)
    assert override(config(), ["sweep.sgd=common-wandb"]).sweep.sgd.n_trials == 100
    with pytest.raises(UserError, match="no search with a name: common-wandb"):
        override(config(), ["sweep.sgd=comon-wandb"])


def test_set_reaches_nested_fields_with_their_types() -> None:
    changed = override(
        config(),
        ["sweep.penalties=[0.1, 1]", "evaluation.outer_folds=3", "source.labels=eva4", "backbone.name=midnight"],
    )
    assert changed.sweep.penalties == (0.1, 1.0)
    assert changed.evaluation.outer_folds == 3
    assert changed.source is not None
    assert changed.source.labels == "eva4"
    assert changed.backbone.name == "midnight"


def test_set_fills_an_absent_section() -> None:
    assert config().view is None
    changed = override(config(), ["view.size_px=336"])
    assert changed.view is not None
    assert changed.view.size_px == 336


def test_one_view_field_leaves_the_others_as_documented() -> None:
    spec = replace(find_backbone(BackboneConfig()), size_px=518, interpolation="bilinear")
    assert chosen_view(config().view, spec) == documented_view(spec)
    view = chosen_view(override(config(), ["view.name=tiles", "view.target_mpp=0.5"]).view, spec)
    assert view == ViewConfig(name="tiles", size_px=518, interpolation="bilinear", target_mpp=0.5)
    saved = parse_config(json.loads(json.dumps(override(config(), ["view.pad_rgb=[0, 0, 9]"]).model_dump(mode="json"))))
    assert chosen_view(saved.view, spec) == ViewConfig(size_px=518, interpolation="bilinear", pad_rgb=(0, 0, 9))


def test_a_view_choice_has_the_fields_of_a_view() -> None:
    assert list(ViewChoice.model_fields) == list(ViewConfig.model_fields)
    for bad in ("view.target_mpp=0", "view.target_mpp=Infinity", "view.size_px=8", "view.pad_rgb=[0, 0, 256]"):
        with pytest.raises(UserError, match=bad.partition("=")[0]):
            override(config(), [bad])


@pytest.mark.parametrize(
    ("assignment", "closest"),
    [
        ("sweep.penaltys=[1]", "sweep.penalties"),
        ("sweeep.folds=3", "sweep"),
        ("evaluation.outerfolds=3", "evaluation.outer_folds"),
    ],
)
def test_unknown_field_names_the_closest(assignment: str, closest: str) -> None:
    with pytest.raises(UserError, match=f"did you mean: {closest}"):
        override(config(), [assignment])


def test_all_mistakes_are_reported_together() -> None:
    with pytest.raises(UserErrors) as caught:
        override(config(), ["sweep.penaltys=[1]", "interval.levell=0.9", "nonsense"])
    assert len(caught.value.errors) == 3


def test_values_of_the_wrong_type_or_range_name_the_field() -> None:
    with pytest.raises(UserError) as caught:
        override(config(), ["sweep.folds=1", "interval.level=high"])
    assert "sweep.folds" in str(caught.value)
    assert "interval.level" in str(caught.value)


def test_a_plain_value_has_no_fields_of_its_own() -> None:
    with pytest.raises(UserError, match="no fields of its own"):
        override(config(), ["sweep.folds.x=1"])


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.__name__)
def test_recipes_survive_a_round_trip_through_json(recipe: object) -> None:
    built = recipe(RecipeData(Path("DATA"), Path("PCAM")))  # type: ignore[operator]
    assert parse_config(json.loads(json.dumps(built.model_dump(mode="json")))) == built


@pytest.mark.parametrize("name", ["breakhis", "pcam", "midnight"])
def test_a_recipe_without_its_data_says_what_to_add(name: str) -> None:
    with pytest.raises(UserError, match="--data"):
        find_recipe(name)(RecipeData())


def test_unknown_recipe_names_the_closest() -> None:
    with pytest.raises(UserError, match="did you mean: breakhis"):
        find_recipe("breakhs")


def test_choices_ignore_folders_and_ways_of_computing() -> None:
    here = config()
    there = override(here, ["out=elsewhere", "cache=c", "source.path=OTHER", "embedding.batch_size=7"])
    assert here.choices() == there.choices()
    assert here.choices() != override(here, ["sweep.folds=4"]).choices()


def test_loading_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no config\.json"):
        load_config(tmp_path)
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match="not readable JSON"):
        load_config(tmp_path)
    (tmp_path / "config.json").write_text('{"recipe": "x", "sweeep": {}}', encoding="utf-8")
    with pytest.raises(UserError, match="sweeep"):
        load_config(tmp_path)


def test_unknown_fields_and_wrong_values_are_reported_together() -> None:
    with pytest.raises(UserError) as caught:
        override(ExperimentConfig(recipe="x"), ["sweep.fold=3", "evaluation.repeats=-1"])
    assert "sweep.fold" in str(caught.value) and "evaluation.repeats" in str(caught.value)


@pytest.mark.parametrize(
    ("assignment", "closest"),
    [("source.labels=binry", "binary"), ("source.mpp_source=nominl", "nominal"), ("tracking.wandb=ofline", "offline"),
     ("evaluation.aggregation=maen", "mean")],
)  # fmt: skip
def test_a_word_that_a_field_does_not_take_names_the_closest_and_the_fix_works(assignment: str, closest: str) -> None:
    with pytest.raises(UserError) as raised:
        override(config(), [assignment])
    error = raised.value
    assert error.closest == closest
    assert error.fix is not None
    override(config(), [error.fix.removeprefix("--set ")])


def test_no_whole_section_is_printed() -> None:
    data = config().model_dump(mode="json")
    data["view"] = ["natural"]
    data["sweep"]["sgd"] = {"n_trials": {"much": "more"}}
    with pytest.raises(UserError) as raised:
        parse_config(data)
    assert "much" not in str(raised.value)


def test_a_result_does_not_depend_on_how_much_memory_a_step_takes() -> None:
    tuned = override(config(), ["finetune.loop.epochs=3"])
    ways = ["fit=15GB", "loop.micro_batch=2", "loop.checkpointing=true", "loop.save_minutes=1"]
    other = override(tuned, [f"finetune.{way}" for way in ways])
    assert other.finetune != tuned.finetune
    assert other.choices() == tuned.choices()
    assert override(tuned, ["finetune.loop.batch_size=2"]).choices() != tuned.choices()
    assert override(tuned, ["finetune.views=2"]).choices() != tuned.choices()
