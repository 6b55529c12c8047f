"""A bundle is read back as it was; a changed view or precision, or the bundle of another head, is found."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from histotune.backbones.entries import BackboneConfig
from histotune.deploy.bundle import Bundle, load_bundle, save_bundle
from histotune.heads.conformal import HeldOutTiles
from histotune.heads.distance import TrainingSample
from histotune.heads.head import Head
from histotune.heads.reference import NOT_KEPT, TrainingReference, TrainingScale
from histotune.images.config import ViewConfig
from histotune.tools.errors import UserError
from tests.damage import changed_bytes

HEAD = Head(
    np.array([[0.0, 0.0], [1.0, 2.0]]), np.array([0.0, 0.5]), ("cls",), (0, 1), ("benign", "malignant"), "tiny",
    "a" * 64, "b" * 64, 0.1, 12, 3, ("g1", "g2", "g3"), train_sha256_N32=np.ones((1, 32), np.uint8),
)  # fmt: skip
BUNDLE = Bundle(HEAD, BackboneConfig(name="tiny"), ViewConfig(size_px=224), "fp32")


def same(left: Bundle, right: Bundle) -> bool:
    """Whether two bundles say the same."""
    around = [(one.backbone, one.view, one.precision, one.head.head_id) for one in (left, right)]
    return around[0] == around[1]


def test_a_bundle_comes_back_from_its_own_folder_and_from_a_runs(tmp_path: Path) -> None:
    save_bundle(BUNDLE, tmp_path / "run" / "head")
    assert same(load_bundle(tmp_path / "run"), BUNDLE)
    assert same(load_bundle(tmp_path / "run" / "head"), BUNDLE)
    with pytest.raises(UserError, match="no head in this folder"):
        load_bundle(tmp_path)


def test_every_changed_byte_is_found_or_changes_nothing(tmp_path: Path) -> None:
    save_bundle(BUNDLE, tmp_path)
    n_tries, silent = changed_bytes(tmp_path / "bundle.json", lambda: same(load_bundle(tmp_path), BUNDLE))
    assert n_tries > 1000 and silent == []


def test_the_bundle_of_another_head_is_refused(tmp_path: Path) -> None:
    save_bundle(BUNDLE, tmp_path / "one")
    save_bundle(dataclasses.replace(BUNDLE, head=dataclasses.replace(HEAD, penalty=0.2)), tmp_path / "two")
    shutil.copy(tmp_path / "one" / "bundle.json", tmp_path / "two")
    with pytest.raises(UserError, match="another head"):
        load_bundle(tmp_path / "two")


@pytest.mark.parametrize("text", ["{", "[]", "3", "[" * 200_000, '{"backbone": {}}'])
def test_what_is_no_bundle_is_one_message(tmp_path: Path, text: str) -> None:
    save_bundle(BUNDLE, tmp_path)
    (tmp_path / "bundle.json").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="damaged"):
        load_bundle(tmp_path)


def test_a_bundle_without_checksum_beside_a_head_that_has_one_is_refused(tmp_path: Path) -> None:
    save_bundle(BUNDLE, tmp_path)
    path = tmp_path / "bundle.json"
    facts = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({k: v for k, v in facts.items() if "checksum" not in k}), encoding="utf-8")
    with pytest.raises(UserError, match="changed since it was written"):
        load_bundle(tmp_path)


# What the training says of new tiles


RNG = np.random.default_rng(0)
REFERENCE = TrainingReference(
    HeldOutTiles(
        RNG.dirichlet((1, 1), 12).astype(np.float32), np.tile([0, 1], 6).astype(np.int32),
        np.repeat(np.arange(4), 3).astype(np.int32), 4,
    ),
    TrainingSample(
        RNG.normal(size=(6, 2)).astype(np.float16), np.arange(6, dtype=np.int32), RNG.random(6).astype(np.float32), 2,
        RNG.integers(0, 256, (6, 32), dtype=np.uint8),
    ),
    TrainingScale(low_mpp=0.4, median_mpp=0.5, high_mpp=0.6, factor=1.1),
    "",
)  # fmt: skip
WITH_REFERENCE = dataclasses.replace(BUNDLE, reference=REFERENCE)


def test_what_the_training_says_comes_back_as_it_was(tmp_path: Path) -> None:
    save_bundle(WITH_REFERENCE, tmp_path)
    back = load_bundle(tmp_path).reference
    assert back.held_out is not None and back.sample is not None
    for one, other in ((back.held_out, REFERENCE.held_out), (back.sample, REFERENCE.sample)):
        for field in dataclasses.fields(one):
            assert np.array_equal(getattr(one, field.name), getattr(other, field.name)), field.name
    assert (back.scale, back.reason) == (REFERENCE.scale, "")


def test_every_changed_byte_of_it_is_found(tmp_path: Path) -> None:
    save_bundle(WITH_REFERENCE, tmp_path)

    def is_same() -> bool:
        load_bundle(tmp_path)
        return False

    n_tries, silent = changed_bytes(tmp_path / "reference.safetensors", is_same)
    assert n_tries > 500 and silent == []


def test_a_missing_or_other_file_of_it_is_refused(tmp_path: Path) -> None:
    save_bundle(WITH_REFERENCE, tmp_path / "one")
    other = dataclasses.replace(
        REFERENCE, held_out=dataclasses.replace(REFERENCE.held_out, label_n=np.ones(12, np.int32))
    )
    save_bundle(dataclasses.replace(BUNDLE, reference=other), tmp_path / "two")
    shutil.copy(tmp_path / "two" / "reference.safetensors", tmp_path / "one")
    with pytest.raises(UserError, match="has changed since it was written"):
        load_bundle(tmp_path / "one")
    (tmp_path / "one" / "reference.safetensors").unlink()
    with pytest.raises(UserError, match="is missing"):
        load_bundle(tmp_path / "one")


def test_a_head_without_it_says_why_and_an_older_file_goes(tmp_path: Path) -> None:
    save_bundle(WITH_REFERENCE, tmp_path)
    save_bundle(dataclasses.replace(BUNDLE, reference=TrainingReference(scale=REFERENCE.scale, reason="few")), tmp_path)
    back = load_bundle(tmp_path).reference
    assert (back.held_out, back.sample, back.scale, back.reason) == (None, None, REFERENCE.scale, "few")
    assert not (tmp_path / "reference.safetensors").exists()
    save_bundle(BUNDLE, tmp_path)
    assert load_bundle(tmp_path).reference.reason == NOT_KEPT


@pytest.mark.parametrize(
    "changes",
    [
        {"held_out": dataclasses.replace(REFERENCE.held_out, probability_nK=np.ones((12, 3), np.float32))},
        {"held_out": dataclasses.replace(REFERENCE.held_out, group_n=np.zeros(3, np.int32))},
        {"sample": dataclasses.replace(REFERENCE.sample, scaled_nD=np.zeros((6, 5), np.float16))},
        {"sample": dataclasses.replace(REFERENCE.sample, k=7)},
        {"sample": dataclasses.replace(REFERENCE.sample, scaled_nD=np.zeros((6, 2), np.float32))},
    ],
)
def test_numbers_that_do_not_fit_the_head_are_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    odd = dataclasses.replace(REFERENCE, **changes)  # type: ignore[arg-type]
    save_bundle(dataclasses.replace(BUNDLE, reference=odd), tmp_path)
    with pytest.raises(UserError, match="damaged"):
        load_bundle(tmp_path)
