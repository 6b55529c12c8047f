"""A scale of the user's own, for all tiles or per magnification, with or without an uncertainty."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from histotune.datasets.config import DatasetConfig
from histotune.datasets.dataset_spec import choose_scale
from histotune.datasets.read import dataset_spec
from histotune.studies.config import ExperimentConfig, override
from histotune.tools.errors import UserError

MAPPING = {"40X": 2.2, "100X": 0.88, "200X": 0.44, "400X": 0.22}


def breakhis(**settings: object) -> DatasetConfig:
    return DatasetConfig.model_validate({"name": "breakhis", "path": "x", **settings})


def test_a_scale_per_magnification_is_the_users() -> None:
    scale = choose_scale(dataset_spec("breakhis"), breakhis(mpp_by_magnification=MAPPING))
    assert (scale.source, scale.factor) == ("user", 1.0)
    assert scale.mpp_by_magnification == MAPPING
    assert "0.22 um/px at 400X" in scale.note


@pytest.mark.parametrize("given", [{"mpp_by_magnification": MAPPING}, {"mpp": 0.22}])
def test_with_an_uncertainty_it_is_an_estimate(given: dict[str, object]) -> None:
    scale = choose_scale(dataset_spec("breakhis"), breakhis(**given, mpp_factor=1.4))
    assert (scale.source, scale.factor) == ("estimated", 1.4)
    assert scale.mpp_by_magnification["400X"] == 0.22
    assert "within a factor of 1.4" in scale.note


def test_magnifications_must_match_the_data_set() -> None:
    spec = dataset_spec("breakhis")
    with pytest.raises(UserError, match="leaves magnifications out: '200X, 400X'"):
        choose_scale(spec, breakhis(mpp_by_magnification={"40X": 2.2, "100X": 0.9}))
    with pytest.raises(UserError, match="did you mean: 200X"):
        choose_scale(spec, breakhis(mpp_by_magnification={**MAPPING, "20X": 1}))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mpp": 0.2, "mpp_by_magnification": MAPPING}, "both give a scale"),
        ({"mpp_factor": 1.2}, "belongs to mpp or mpp_by_magnification"),
        ({"mpp_by_magnification": {"40X": -1}}, "greater than 0"),
        ({"mpp_by_magnification": {}}, "at least 1 item"),
        ({"mpp": 1.0, "mpp_factor": 0.5}, "greater than or equal to 1"),
    ],
)
def test_contradictions_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        breakhis(**settings)


def test_the_printed_options_set_it() -> None:
    config = ExperimentConfig(recipe="x", source=breakhis())
    options = ['source.mpp_by_magnification={"40X":2.2,"100X":0.88,"200X":0.44,"400X":0.22}', "source.mpp_factor=1.4"]
    changed = override(config, options).source
    assert changed is not None
    assert (changed.mpp_by_magnification, changed.mpp_factor) == (MAPPING, 1.4)
