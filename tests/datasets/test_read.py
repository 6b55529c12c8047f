"""The one door: every configured name has a reader and facts."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
from pydantic import ValidationError

from histotune.datasets.config import DatasetConfig, DatasetName
from histotune.datasets.dataset_spec import choose_scale, known_specs
from histotune.datasets.read import dataset_spec, read_dataset
from histotune.tools.errors import UserError


def test_every_configurable_data_set_can_be_read() -> None:
    assert {*known_specs(), "python"} == set(get_args(DatasetName)), "python brings its own facts"


@pytest.mark.parametrize("name", known_specs())
def test_facts_are_complete(name: str) -> None:
    spec = dataset_spec(name)
    assert spec.name == name
    assert all((spec.title, spec.licence, spec.citation, spec.caveats, spec.group))
    assert spec.url.startswith("https://") or name == "tiles"
    for scale in spec.scales:
        assert scale.factor >= 1
        assert scale.why.endswith(".")
        assert min(scale.mpp_by_magnification.values()) > 0
    for scheme in spec.schemes:
        assert set(scheme.class_by_source.values()) == set(scheme.class_names)


def test_ratios_of_the_estimated_scale_are_those_of_the_magnifications() -> None:
    mpp = next(s for s in dataset_spec("breakhis").scales if s.source == "estimated").mpp_by_magnification
    assert [mpp["400X"] * ratio for ratio in (1, 2, 4, 10)] == [mpp["400X"], mpp["200X"], mpp["100X"], mpp["40X"]]


def test_an_unknown_data_set_names_the_closest() -> None:
    with pytest.raises(UserError) as caught:
        dataset_spec("breakhiss")
    assert "did you mean: breakhis?" in str(caught.value)
    assert "allowed: breakhis, patch_camelyon, tiles" in str(caught.value)


def test_an_unknown_class_scheme_names_the_allowed() -> None:
    with pytest.raises(UserError, match="allowed: binary, eva4, all8"):
        dataset_spec("breakhis").scheme("six")


def test_a_missing_candidate_scale_is_said() -> None:
    config = DatasetConfig(name="patch_camelyon", path=Path("x"), mpp_source="estimated")
    scale = choose_scale(dataset_spec("patch_camelyon"), config)
    assert (scale.source, scale.factor) == ("nominal", 1.0)
    assert scale.note.startswith("Scale: nominal (PatchCamelyon has no estimated scale). ")


@pytest.mark.parametrize("name", known_specs())
def test_missing_and_empty_folders(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="this folder does not exist"):
        read_dataset(DatasetConfig.model_validate({"name": name, "path": tmp_path / "nowhere"}))
    with pytest.raises(UserError, match="this folder holds no files"):
        read_dataset(DatasetConfig.model_validate({"name": name, "path": tmp_path}))


@pytest.mark.parametrize(
    ("name", "setting"),
    [("breakhis", {"slides_from": "x"}), ("breakhis", {"group_pattern": "(?P<group>.)"}), ("tiles", {"code": "a.py"}),
     ("patch_camelyon", {"positive_class": "tumour"})],
)  # fmt: skip
def test_a_setting_that_would_be_ignored_is_refused(name: str, setting: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="does nothing for"):
        DatasetConfig.model_validate({"name": name, "path": "x", **setting})


@pytest.mark.parametrize("pattern", ["(", "no group", "(?P<case>.)", "(?P<group>.)(?P<other>.)"])
def test_a_group_pattern_is_checked_before_anything_is_read(pattern: str) -> None:
    with pytest.raises(ValidationError, match=r"regular expression|one named group"):
        DatasetConfig(name="tiles", path=Path("x"), group_pattern=pattern)
