from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from histotune.heads.head import Calibration, Decision, HiddenLayer, head_logits, load_head, save_head
from histotune.heads.sweep import sweep
from histotune.statistics.predictions import Interval
from histotune.tools.errors import UserError
from tests.heads.samples import make_task
from tests.heads.test_sweep import CONFIG

if TYPE_CHECKING:
    from pathlib import Path

    from histotune.heads.head import Head


@pytest.fixture(scope="module")
def head() -> Head:
    embeddings, task = make_task(n_classes=3)
    return sweep(embeddings, task, CONFIG)[0].head


def test_a_saved_head_comes_back_bit_for_bit(head: Head, tmp_path: Path) -> None:
    head = dataclasses.replace(
        head,
        calibration=Calibration(1.7, Interval(1.2, 2.4, 0.95, "group jackknife"), nll_before=0.5, nll_after=0.4),
        decision=Decision(0.31, "balanced-accuracy", None, "too few groups"),
    )
    save_head(head, tmp_path / "deep" / "head")
    loaded = load_head(tmp_path / "deep" / "head")
    assert loaded.head_id == head.head_id
    for field in dataclasses.fields(head):
        left, right = getattr(head, field.name), getattr(loaded, field.name)
        assert type(left) is type(right)
        assert np.array_equal(left, right)
    embeddings, _ = make_task(n_classes=3)
    np.testing.assert_array_equal(head_logits(loaded, embeddings), head_logits(head, embeddings))


def test_a_small_mlp_comes_back_with_its_calibration(head: Head, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    layer = HiddenLayer(rng.standard_normal((7, len(head.columns))), rng.standard_normal(7), "gelu")
    scaled = Calibration(scale_K=(1.0, 0.5, 2.0), shift_K=(0.0, 0.1, -0.1))
    mlp = dataclasses.replace(head, weight_KD=rng.standard_normal((3, 7)), hidden=layer, calibration=scaled)
    save_head(mlp, tmp_path)
    loaded = load_head(tmp_path)
    assert loaded.head_id == mlp.head_id != head.head_id
    assert loaded.calibration == scaled
    embeddings, _ = make_task(n_classes=3)
    np.testing.assert_array_equal(head_logits(loaded, embeddings), head_logits(mlp, embeddings))
    edit(tmp_path, calibration={"scale_K": [1.0, 2.0], "shift_K": [0.0, 0.0]})
    with pytest.raises(UserError, match="calibration does not fit"):
        load_head(tmp_path)


def test_a_head_of_format_2_is_read(head: Head, tmp_path: Path) -> None:
    save_head(dataclasses.replace(head, calibration=Calibration(1.7), decision=Decision(0.31)), tmp_path)
    gone = dict.fromkeys(("family", "activation", "calibration", "decision", "selection"))
    edit(tmp_path, format_version=2, temperature=1.7, threshold=0.31, **gone)
    old = load_head(tmp_path)
    assert (old.temperature, old.threshold, old.decision.rule, old.family) == (1.7, 0.31, "0.5", "logistic")
    np.testing.assert_array_equal(old.weight_KD, head.weight_KD)
    edit(tmp_path, temperature=None)
    with pytest.raises(UserError, match="lacks calibration"):
        load_head(tmp_path)


def test_saving_again_replaces_the_head_and_leaves_other_files(head: Head, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    save_head(dataclasses.replace(head, penalty=7.0), tmp_path)
    save_head(head, tmp_path)
    assert load_head(tmp_path).penalty == head.penalty
    assert sorted(path.name for path in tmp_path.iterdir()) == ["head.json", "head.safetensors", "notes.txt"]


def edit(folder: Path, **changes: object) -> None:
    path = folder / "head.json"
    facts = json.loads(path.read_text(encoding="utf-8"))
    facts = {k: v for k, v in {**facts, **changes}.items() if k not in changes or v is not None}
    path.write_text(json.dumps(facts), encoding="utf-8")


def test_what_is_no_head_is_refused(head: Head, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no head"):
        load_head(tmp_path)
    save_head(head, tmp_path)
    edit(tmp_path, format="something-else")
    with pytest.raises(UserError, match="does not describe a histotune head"):
        load_head(tmp_path)
    edit(tmp_path, format="histotune-head", format_version=99)
    with pytest.raises(UserError, match="another format version: '99'"):
        load_head(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"penalty": None},
        {"columns": [1, 2]},
        {"calibration": {"temperature": 2.0}},
        {"decision": {"threshold": "high"}},
        {"activation": "relu"},
        {"class_names": ["a", "b"]},
        {"pooling": 3},
    ],
)
def test_facts_that_do_not_fit_are_refused(head: Head, tmp_path: Path, changes: dict[str, object]) -> None:
    save_head(head, tmp_path)
    edit(tmp_path, **changes)
    with pytest.raises(UserError, match="damaged"):
        load_head(tmp_path)


def test_damaged_files_are_refused(head: Head, tmp_path: Path) -> None:
    save_head(head, tmp_path)
    weights = tmp_path / "head.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-8])
    with pytest.raises(UserError, match="damaged"):
        load_head(tmp_path)
    weights.unlink()
    with pytest.raises(UserError, match="missing"):
        load_head(tmp_path)
    weights.write_bytes(whole)
    assert load_head(tmp_path).head_id == head.head_id
    (tmp_path / "head.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match="not JSON"):
        load_head(tmp_path)
