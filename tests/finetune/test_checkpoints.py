"""A checkpoint is whole, refused or told of: never something else in silence."""

from __future__ import annotations

import errno
import json
import logging
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors import SafetensorError
from safetensors.torch import save

from histotune.finetune.checkpoints import Checkpoints, Progress, first_difference
from histotune.tools.errors import UserError
from tests.damage import changed_bytes

IDENTITY = {"finetune": {"loop": {"lr": 0.1, "seed": 0}, "views": 8}, "part": "all"}


def progress() -> Progress:
    tensors = {
        "model/weight": torch.arange(6, dtype=torch.float64).view(2, 3),
        "step/weight": torch.tensor(7.0),
        "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
        "whole": torch.tensor([3, 4]),
        "logits": torch.empty(2, 0, 3),
    }
    return Progress(2, 5, {"losses": [0.5, 1.25e-3], "best": 1, "least": None}, tensors)


def same(one: Progress | None, other: Progress) -> bool:
    """Return whether two records are equal to the last bit."""
    if one is None or (one.epoch, one.step, one.facts) != (other.epoch, other.step, other.facts):
        return False
    if one.tensors.keys() != other.tensors.keys():
        return False
    pairs = [(one.tensors[name], other.tensors[name]) for name in one.tensors]
    return all(first.dtype == second.dtype and torch.equal(first, second) for first, second in pairs)


@pytest.fixture
def kept(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "state" / "all.safetensors", IDENTITY, 0.0)


def test_what_is_saved_is_what_is_loaded(kept: Checkpoints) -> None:
    assert kept.load() is None
    kept.save(progress())
    assert same(kept.load(), progress())
    turned = Progress(0, 1, {}, {"turned": torch.arange(6.0).view(2, 3).T, "part": torch.arange(9.0)[::2]})
    kept.save(turned)
    assert same(kept.load(), turned)
    kept.remove()
    assert kept.load() is None
    kept.remove()


def test_the_file_is_plain_safetensors_with_json(kept: Checkpoints) -> None:
    kept.save(progress())
    data = kept.path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert set(header) == {"__metadata__", *progress().tensors}
    assert json.loads(header["__metadata__"]["state"])["identity"] == IDENTITY
    assert [path.name for path in kept.path.parent.iterdir()] == ["all.safetensors"]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"finetune": {"loop": {"lr": 0.2, "seed": 0}, "views": 8}, "part": "all"}, ("finetune.loop.lr", "0.1", "0.2")),
        ({"finetune": {"loop": {"lr": 0.1, "seed": 0}, "views": 1}, "part": "all"}, ("finetune.views", "8", "1")),
        ({**IDENTITY, "part": "all-refit"}, ("part", "all", "all-refit")),
        ({**IDENTITY, "extra": 1}, ("extra", "None", "1")),
    ],
)
def test_a_checkpoint_of_another_config_names_the_field(
    kept: Checkpoints, changed: dict[str, object], words: tuple[str, str, str]
) -> None:
    kept.save(progress())
    other = Checkpoints(kept.path, changed, 0.0)
    with pytest.raises(UserError) as told:
        other.load()
    assert told.value.what == f"the checkpoint is of a training with another {words[0]}"
    assert told.value.value == f"{words[1]} then, {words[2]} now"
    assert str(kept.path) in str(told.value.fix)
    assert same(kept.load(), progress())


def test_tuples_and_lists_of_a_config_are_one_and_the_same(tmp_path: Path) -> None:
    path = tmp_path / "all.safetensors"
    Checkpoints(path, {"rates": (0.1, 0.2)}, 0.0).save(progress())
    assert same(Checkpoints(path, {"rates": [0.1, 0.2]}, 0.0).load(), progress())


def test_no_changed_byte_is_believed(kept: Checkpoints, caplog: pytest.LogCaptureFixture) -> None:
    small = Progress(1, 2, {"losses": [0.5]}, {"model/w": torch.tensor([1.0, -2.0])})
    kept.save(small)
    caplog.set_level(logging.WARNING)

    def is_same() -> bool:
        caplog.clear()
        found = kept.load()
        return same(found, small) or (found is None and "training starts anew" in caplog.text)

    n_tries, silent = changed_bytes(kept.path, is_same)
    assert n_tries > 2 * len(kept.path.read_bytes())
    assert not silent
    assert same(kept.load(), small)


@pytest.mark.parametrize("n_bytes", [0, 1, 7, 8, 60, -1])
def test_a_file_that_was_cut_off_is_told_of(kept: Checkpoints, n_bytes: int, caplog: pytest.LogCaptureFixture) -> None:
    kept.save(progress())
    kept.path.write_bytes(kept.path.read_bytes()[:n_bytes])
    assert kept.load() is None
    assert "the checkpoint is damaged" in caplog.text
    assert str(kept.path) in caplog.text


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_leaves_the_last_checkpoint(kept: Checkpoints, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    kept.save(progress())

    def full(tensors: dict[str, torch.Tensor], path: Path, told: dict[str, str]) -> None:
        data = save(tensors, told)
        path.write_bytes(data[: len(data) // 2])
        # the library's own error and words: the number is lost on the way
        raise SafetensorError(f"Error while serializing: I/O error: No room (os error {code})")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(UserError) as told:
        kept.save(Progress(9, 9, {}, {"model/w": torch.zeros(3)}))
    assert told.value.what == "the disk is full; nothing was left half-written"
    assert told.value.value == kept.path
    monkeypatch.undo()
    assert same(kept.load(), progress())
    assert [path.name for path in kept.path.parent.iterdir()] == ["all.safetensors"]


MEASURED = """
import sys, torch
from pathlib import Path
from histotune.backbones.tuned_weights import _apart_in_memory
from histotune.finetune.checkpoints import Checkpoints, Progress

def bytes_of(field):
    line = next(one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith(field))
    return 1024 * int(line.split()[1])

kept = Checkpoints(Path(sys.argv[1]), {}, 0.0)
kept.save(Progress(tensors={"first": torch.ones(3)}))  # what is imported counts for nothing
parts = ("model", "best", "exp_avg", "exp_avg_sq")  # of full fine-tuning: each as large as the model
tensors = {f"{part}/{number}": torch.rand(2**20) for part in parts for number in range(8)}
before = bytes_of("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # the peak from here on
kept.save(Progress(tensors=tensors))
_apart_in_memory(tensors)
print((bytes_of("VmHWM") - before) / (8 * 4 * 2**20))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of a process is read from Linux")
def test_a_checkpoint_of_full_fine_tuning_takes_no_second_copy_of_the_model(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", MEASURED, str(tmp_path / "all.safetensors")], check=True,
                          capture_output=True, text=True)  # fmt: skip
    models = float(done.stdout)
    # older versions of safetensors make bytes of all tensors before they write: the state once more, four models
    allowed = 0.5 if hasattr(safetensors.torch, "_flatten_as_ptr") else 4.5
    assert models < allowed, f"{models:.2f} models; through bytes of the whole file it was 8.2"


def test_the_next_one_is_due_after_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    kept = Checkpoints(tmp_path / "all.safetensors", IDENTITY, 10.0)
    assert not kept.is_due
    now[0] = 110.0
    assert kept.is_due
    kept.save(progress())
    assert not kept.is_due
    now[0] = 119.9
    assert not kept.is_due


def test_the_first_difference_is_named_by_its_path() -> None:
    assert first_difference({"a": {"b": 1}, "c": 2}, {"a": {"b": 1}, "c": 3}) == ("c", 2, 3)
    assert first_difference({"a": {"b": 1}}, {"a": {"b": 1, "d": 0}}) == ("a.d", None, 0)
    assert first_difference([1], [2]) == ("config", [1], [2])
