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
from histotune.heads.head import Head
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
