"""Checkpoints as training scripts leave them: under prefixes, beside other things, or pointing elsewhere."""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from histotune.backbones.checkpoint import read_tensors, without_prefix
from histotune.tools.errors import UserError

WANTED = {"blocks.0.weight": torch.ones(2), "norm.bias": torch.zeros(3)}


def saved(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


@pytest.mark.parametrize(
    "prefix", ["teacher.", "module.", "model.", "backbone.", "encoder.", "module.teacher.backbone.", "_orig_mod.", ""]
)
@pytest.mark.parametrize("holder", ["state_dict", "model", "teacher", ""])
def test_a_prefix_that_all_names_share_is_left_out(tmp_path: Path, prefix: str, holder: str) -> None:
    named = {f"{prefix}{name}": value for name, value in WANTED.items()}
    path = saved(tmp_path / "weights.pth", {holder: named, "epoch": 3} if holder else named)
    found = without_prefix(read_tensors((path,)), WANTED, path)
    assert found.keys() == WANTED.keys()
    assert all(torch.equal(found[name], value) for name, value in WANTED.items())


def test_of_a_student_and_its_teacher_the_teacher_is_read(tmp_path: Path) -> None:
    both = {f"student.{name}": value + 1 for name, value in WANTED.items()}
    both |= {f"teacher.{name}": value for name, value in WANTED.items()}
    found = without_prefix(both, WANTED, tmp_path)
    assert torch.equal(found["norm.bias"], torch.zeros(3))


def test_two_networks_that_fit_alike_are_not_guessed_between(tmp_path: Path) -> None:
    both = {f"{side}.{name}": value for side in ("left", "right") for name, value in WANTED.items()}
    with pytest.raises(UserError, match=r"2 networks in this checkpoint fit.*\n.*left\., right\."):
        without_prefix(both, WANTED, tmp_path)


def test_names_that_fit_stay_whatever_else_lies_beside_them(tmp_path: Path) -> None:
    extra = {**WANTED, "ema.norm.bias": torch.ones(3)}
    assert without_prefix(extra, WANTED, tmp_path) is extra


def test_what_lies_beside_tensors_is_named_and_the_conversion_offered_works(tmp_path: Path) -> None:
    path = saved(tmp_path / "it's a.pth", {"teacher": WANTED, "args": argparse.Namespace(lr=1), "epoch": 9})
    with pytest.raises(UserError) as caught:
        read_tensors((path,))
    assert "argparse.Namespace" in caught.value.what and "weights_only" in caught.value.what
    command = str(caught.value.fix).partition("python -c")[2]
    done = subprocess.run([sys.executable, "-c", *shlex.split(command)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = read_tensors((tmp_path / "it's a.safetensors",))
    assert found.keys() == WANTED.keys()


class Call:
    """Would run a command when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("true",)


def test_a_file_that_would_call_something_gets_no_advice_to_run_it(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pth", {"model": WANTED, "args": Call()})
    with pytest.raises(UserError, match=r"would call posix\.system") as caught:
        read_tensors((path,))
    assert "weights_only=False" not in str(caught.value)


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [1, 2], {"model": {"epoch": 1}}])
def test_a_file_without_tensors_is_one_message(tmp_path: Path, content: object) -> None:
    with pytest.raises(UserError, match="holds no tensors"):
        read_tensors((saved(tmp_path / "x.pth", content),))
