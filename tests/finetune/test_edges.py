"""A best value at the end of what was tried is said, with the wider range."""

from __future__ import annotations

import json
from typing import Any

import pytest

from histotune.finetune.config import FinetuneConfig, SearchRange, TrialSettings
from histotune.finetune.edges import edge_warnings, short, wider_range
from histotune.studies.config import ExperimentConfig, override


def searched(space: dict[str, Any], **best: float) -> tuple[str, ...]:
    every: dict[str, Any] = {"lr": None, "weight_decay": None, **space}
    method = {"name": "lora"} if "rank" in space else {"name": "last-blocks"}
    config = FinetuneConfig.model_validate({"search": {"space": every}, "method": method})
    return edge_warnings(config, TrialSettings.of(config).model_copy(update=best))


def test_the_wider_range_has_the_best_value_in_its_middle() -> None:
    (words,) = searched({"lr": [1e-5, 1e-3]}, lr=1e-3)
    assert words == (
        "the best learning rate, 1e-3, is the end of the range that was tried; "
        "try --set finetune.search.space.lr=[1e-4,1e-2]"
    )
    assert "space.lr=[1e-6,1e-4]" in searched({"lr": [1e-5, 1e-3]}, lr=1e-5)[0]


@pytest.mark.parametrize(
    ("space", "best", "wider"),
    [
        ({"rank": [4, 16]}, {"rank": 16}, "rank=[8,32]"),
        ({"epochs": [5, 15]}, {"epochs": 15}, "epochs=[10,20]"),
        ({"n_blocks": [1, 3]}, {"n_blocks": 3}, "n_blocks=[2,4]"),
        ({"layer_decay": [0.5, 0.9]}, {"layer_decay": 0.89}, "layer_decay=[0.69,1]"),
        ({"weight_decay": {"low": 0.0, "high": 0.1, "log": False}}, {"weight_decay": 0.1}, "weight_decay=[0.05,0.15]"),
        ({"augmentation": {"values": [0, 0.5, 1]}}, {"augmentation": 1.0},
         """augmentation='{"values": [0,0.5,1,1.5]}'"""),
        ({"head_lr": {"values": [1e-3, 1e-4]}}, {"head_lr": 1e-4}, """head_lr='{"values": [1e-5,1e-4,1e-3]}'"""),
    ],
)  # fmt: skip
def test_every_setting_has_its_words(space: dict[str, Any], best: dict[str, float], wider: str) -> None:
    (words,) = searched(space, **best)
    assert words.endswith(f"try --set finetune.search.space.{wider}")
    assignment = words.partition("--set ")[2].replace("'", "")
    method = ["finetune.method.name=lora"] if "rank" in space else []
    changed = override(ExperimentConfig(recipe="x"), [*method, assignment])  # what is said can be typed
    assert changed.finetune is not None and changed.finetune.search is not None
    (name,) = space
    one = changed.finetune.search.space.varied()[name]
    assert one.low <= next(iter(best.values())) <= one.high


@pytest.mark.parametrize(
    ("space", "best"),
    [
        ({"lr": [1e-5, 1e-3]}, {"lr": 1e-4}),
        ({"layer_decay": [0.5, 1.0]}, {"layer_decay": 1.0}),
        ({"n_blocks": [1, 3]}, {"n_blocks": 1}),
        ({"augmentation": {"values": [0, 1]}}, {"augmentation": 0.0}),
        ({"augmentation": {"values": [1]}}, {"augmentation": 1.0}),
    ],
)
def test_inside_and_where_the_setting_itself_ends_nothing_is_said(
    space: dict[str, Any], best: dict[str, float]
) -> None:
    assert searched(space, **best) == ()


def test_learning_rates_have_ends_too() -> None:
    config = FinetuneConfig(rates=(1e-4, 3e-4, 1e-3))
    own = TrialSettings.of(config)
    (words,) = edge_warnings(config, own.model_copy(update={"lr": 1e-3}))
    assert words.endswith("is the highest that was tried; try --set finetune.rates=[1e-4,3e-4,1e-3,3.3e-3]")
    assert "the lowest" in edge_warnings(config, own.model_copy(update={"lr": 1e-4}))[0]
    assert edge_warnings(config, own.model_copy(update={"lr": 3e-4})) == ()
    assert edge_warnings(FinetuneConfig(rates=(1e-4,)), own.model_copy(update={"lr": 1e-4})) == ()


@pytest.mark.parametrize("value", [0, 1e-5, 3.1e-4, 0.011, 0.25, 12, 12000, 1.5e7])
def test_short_numbers_are_json(value: float) -> None:
    assert json.loads(short(value)) == pytest.approx(value, rel=0.05)


def test_a_range_of_whole_numbers_stays_whole() -> None:
    assert wider_range("rank", SearchRange(low=4, high=20, log=True), 20) == "[8,45]"
