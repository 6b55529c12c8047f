from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from histotune.heads.head import OPTIONAL_TENSORS, Calibration, Decision, HiddenLayer, head_logits
from histotune.heads.saved_head import load_head, save_head
from histotune.heads.sweep import sweep
from histotune.statistics.predictions import Interval
from histotune.tools.errors import UserError
from histotune.tools.files import hash_bytes, hash_file, hash_json
from tests.damage import changed_bytes
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


@pytest.mark.parametrize("version", [2, 3])
def test_a_head_without_a_checksum_is_read_with_a_note_and_keeps_its_id(
    head: Head, tmp_path: Path, version: int, caplog: pytest.LogCaptureFixture
) -> None:
    unknown = dict.fromkeys(OPTIONAL_TENSORS)
    head = dataclasses.replace(head, calibration=Calibration(1.7), decision=Decision(0.31), **unknown)  # type: ignore[arg-type]
    save_head(head, tmp_path)
    make_old(tmp_path, version)
    facts = json.loads((tmp_path / "head.json").read_text(encoding="utf-8"))
    old = load_head(tmp_path)
    assert "without a checksum" in caplog.text
    assert (old.temperature, old.threshold, old.decision.rule) == (1.7, 0.31, "0.5")
    assert old.head_id == facts["head_id"] != head.head_id
    np.testing.assert_array_equal(old.weight_KD, head.weight_KD)
    save_head(old, tmp_path / "again")
    assert load_head(tmp_path / "again").head_id == head.head_id, "the new format gives it the id of its content"
    edit(tmp_path, **{"temperature" if version == 2 else "calibration": None})
    with pytest.raises(UserError, match="lacks calibration"):
        load_head(tmp_path)


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("newer", [{"checksum": "0" * 64}, {"class_mapping": {"a": "b"}}])
def test_what_only_format_4_has_is_refused_beside_an_older_number(
    head: Head, tmp_path: Path, version: int, newer: dict[str, object]
) -> None:
    save_head(head, tmp_path)
    make_old(tmp_path, version)
    edit(tmp_path, **newer)
    with pytest.raises(UserError, match="only in format 4"):
        load_head(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"columns": [-1, *range(1, 60)]},
        {"columns": [1, *range(1, 60)]},
        {"columns": [True, *range(60)][:60]},
        {"class_names": ["a", "b", "a"]},
        {"class_names": ["a", "b", 3]},
        {"train_groups": "abc"},
        {"train_groups": [1, 2]},
        {"pooling": [["pooled"]]},
        {"calibration": {"temperature": 0.0}},
        {"decision": {"threshold": 1.5}},
        {"penalty": -1.0},
        {"n_tiles": -1},
        {"family": None, "familx": "logistic"},
    ],
)
def test_heads_of_earlier_formats_are_typed_and_checked(head: Head, tmp_path: Path, changes: dict[str, object]) -> None:
    save_head(head, tmp_path)
    make_old(tmp_path, 3)
    edit(tmp_path, **changes)
    with pytest.raises(UserError, match="damaged"):
        load_head(tmp_path)


def test_every_changed_byte_is_found_or_changes_nothing(head: Head, tmp_path: Path) -> None:
    two = dict.fromkeys(OPTIONAL_TENSORS, np.array([0.5, 0.25]))
    small = dataclasses.replace(head, weight_KD=head.weight_KD[:, :2], columns=(4, 7), selection=None, **two)
    save_head(small, tmp_path)
    for name in ("head.json", "head.safetensors"):
        n_tries, silent = changed_bytes(tmp_path / name, lambda: load_head(tmp_path).head_id == small.head_id)
        assert n_tries > 400 and silent == []


def test_what_decides_is_in_the_id(head: Head) -> None:
    changes: list[dict[str, object]] = [
        {"class_names": tuple(reversed(head.class_names))}, {"columns": tuple(reversed(head.columns))},
        {"train_groups": head.train_groups[1:]}, {"compatibility_key": "other"}, {"space_key": "other"},
        {"pooling": ("cls",)}, {"calibration": Calibration(2.0)}, {"decision": Decision(0.4)},
        {"decision": Decision(0.5, "youden")}, {"class_mapping": {"a": "b"}},
        {"train_sha256_N32": np.ones((1, 32), np.uint8)},
        *({name: np.ones(len(head.columns))} for name in OPTIONAL_TENSORS),
        {"bias_K": head.bias_K + 1.0}, {"weight_KD": head.weight_KD.reshape(2, -1)},
    ]  # fmt: skip
    ids = [dataclasses.replace(head, **change).head_id for change in changes]  # type: ignore[arg-type]
    assert len({head.head_id, *ids}) == len(changes) + 1


def test_the_hashes_of_the_training_tiles_and_a_scale_floor_come_back(tmp_path: Path) -> None:
    embeddings, task = make_task(n_classes=3)
    hashes = np.random.default_rng(0).integers(0, 256, (len(embeddings), 32), dtype=np.uint8)
    hashes[1] = hashes[0]
    results = sweep(dataclasses.replace(embeddings, sha256_N32=hashes), task, CONFIG)
    for result, train_N in zip(results, task.train_sets_SN, strict=True):
        expected = sorted({bytes(row) for row in hashes[train_N]})
        assert [bytes(row) for row in result.head.train_sha256_N32] == expected
    head = results[0].head
    mapped = dataclasses.replace(head, class_mapping={"B": "class0"}, scale_floor_D=np.full(len(head.columns), 0.1))
    save_head(mapped, tmp_path)
    loaded = load_head(tmp_path)
    assert (loaded.head_id, loaded.class_mapping) == (mapped.head_id, {"B": "class0"})
    np.testing.assert_array_equal(loaded.train_sha256_N32, head.train_sha256_N32)
    np.testing.assert_array_equal(loaded.scale_floor_D, mapped.scale_floor_D)
    save_head(dataclasses.replace(head, scale_floor_D=np.ones(3)), tmp_path)
    with pytest.raises(UserError, match="scale_floor_D"):
        load_head(tmp_path)


def test_hashes_follow_the_rows_that_are_taken() -> None:
    embeddings, _ = make_task()
    hashes = np.arange(len(embeddings) * 32, dtype=np.uint8).reshape(-1, 32)
    taken = dataclasses.replace(embeddings, sha256_N32=hashes).take(np.array([5, 2]))
    assert taken.sha256_N32 is not None
    np.testing.assert_array_equal(taken.sha256_N32, hashes[[5, 2]])
    assert embeddings.take(np.array([5, 2])).sha256_N32 is None


def test_saving_again_replaces_the_head_and_leaves_other_files(head: Head, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    save_head(dataclasses.replace(head, penalty=7.0), tmp_path)
    save_head(head, tmp_path)
    assert load_head(tmp_path).penalty == head.penalty
    assert sorted(path.name for path in tmp_path.iterdir()) == ["head.json", "head.safetensors", "notes.txt"]


def edit(folder: Path, **changes: object) -> None:
    """Change head.json and give it the checksum of its new content, where it has one."""
    path = folder / "head.json"
    facts = json.loads(path.read_text(encoding="utf-8"))
    facts = {k: v for k, v in {**facts, **changes}.items() if k not in changes or v is not None}
    if "checksum" in facts and "checksum" not in changes:
        facts["checksum"] = hash_json({k: v for k, v in facts.items() if k != "checksum"})
    path.write_text(json.dumps(facts), encoding="utf-8")


def make_old(folder: Path, version: int) -> None:
    """Turn a saved head into one of format 2 or 3, as earlier versions wrote it."""
    new = ("train_sha256_N32", *OPTIONAL_TENSORS)
    tensors = {k: v for k, v in load_file(folder / "head.safetensors").items() if k not in new}
    save_file(tensors, folder / "head.safetensors")
    edit(folder, checksum=None, class_mapping=None, format_version=3)
    edit(folder, weights_sha256=hash_file(folder / "head.safetensors"))
    facts = json.loads((folder / "head.json").read_text(encoding="utf-8"))
    temperature, threshold = facts["calibration"]["temperature"], facts["decision"]["threshold"]
    old_id = hash_bytes(
        *(tensors[name].tobytes() for name in ("weight_KD", "bias_K")), "\n".join(facts["pooling"]),
        facts["space_key"], repr((temperature, threshold)),
    )[:16]  # fmt: skip
    edit(folder, head_id=old_id)
    if version == 2:
        gone = dict.fromkeys(("family", "activation", "calibration", "decision", "selection"))
        edit(folder, format_version=2, temperature=temperature, threshold=threshold, **gone)


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
    (tmp_path / "head.json").write_text("[" * 200_000, encoding="utf-8")
    with pytest.raises(UserError, match="nested too deeply"):
        load_head(tmp_path)
