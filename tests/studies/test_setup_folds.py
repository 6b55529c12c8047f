"""Too few groups for the folds asked for are told before anything is embedded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import CommandResult

Histotune = Callable[..., CommandResult]
PATTERN = "source.group_pattern=^(?P<group>[^_]+)_"


def tiles(folder: Path, groups: dict[str, tuple[str, ...]]) -> Path:
    """Write two tiles for every group of every class."""
    rng = np.random.default_rng(0)
    for name, of_class in groups.items():
        (folder / name).mkdir(parents=True)
        for group in of_class:
            for number in range(2):
                pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / name / f"{group}_{number}.png")
    return folder


@pytest.fixture
def nothing_embeds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every embedding fail, so that what is told has been found before."""
    for place in ("histotune.studies.setup.embed", "histotune.studies.setup.embed_material"):
        monkeypatch.setattr(place, None)


def place(data: Path, out: Path) -> tuple[object, ...]:
    return "--data", data, "--backbone", "colour-histogram", "--out", out / "o"


FEW = {"a": ("p0", "p1", "p2"), "b": ("p3", "p4", "p5")}
LONELY = {"a": tuple(f"p{n}" for n in range(9)), "b": ("q0",)}
ENOUGH = {"a": tuple(f"p{n}" for n in range(6)), "b": tuple(f"q{n}" for n in range(6))}
CASES = [
    (("run",), FEW, ("sweep.folds=5",), "folds need at least as many groups"),
    (("sweep",), FEW, ("sweep.folds=7",), "7 folds need at least as many groups"),
    (("sweep",), LONELY, ("sweep.folds=3",), "every class in at least two groups"),
    (("sweep",), FEW, ("sweep.folds=3", "sweep.label_efficiency.draws=2", "sweep.label_efficiency.sizes=[4]"),
     "at least two sizes"),
    (("run",), FEW, ("sweep.folds=2", "evaluation.outer_folds=3", "sweep.label_efficiency.draws=2",
                     "sweep.label_efficiency.sizes=[2]"), "at least two sizes"),
]  # fmt: skip


@pytest.mark.parametrize(("command", "groups", "settings", "said"), CASES)
@pytest.mark.usefixtures("nothing_embeds")
def test_too_few_groups(
    histotune: Histotune,
    tmp_path: Path,
    command: tuple[str, ...],
    groups: dict[str, tuple[str, ...]],
    settings: tuple[str, ...],
    said: str,
) -> None:
    data = tiles(tmp_path / "data", groups)
    options = [word for one in (PATTERN, *settings) for word in ("--set", one)]
    result = histotune(*command, "tiles", *place(data, tmp_path), *options)
    assert result.code == 2, result.err
    assert said in result.err
    assert not (tmp_path / "o").exists()


@pytest.mark.usefixtures("nothing_embeds")
def test_the_train_part_of_a_target_is_looked_at_too(histotune: Histotune, pcam: Path, tmp_path: Path) -> None:
    result = histotune("run", "pcam", "--data", pcam, "--backbone", "colour-histogram", "--out", tmp_path / "o",
                       "--set", "sweep.folds=11")  # fmt: skip
    assert result.code == 2
    assert "11 folds need at least as many groups, and this training set holds 10" in result.err


@pytest.mark.parametrize("honesty", ["none", "nested"])
def test_enough_groups_are_let_through(histotune: Histotune, tmp_path: Path, honesty: str) -> None:
    data = tiles(tmp_path / "data", ENOUGH)
    options = ("--set", PATTERN, "--set", "sweep.folds=2", "--set", f"sweep.honesty={honesty}")
    result = histotune("sweep", "tiles", *place(data, tmp_path), *options)
    assert result.code == 0, result.err


@pytest.mark.usefixtures("nothing_embeds")
def test_nested_folds_that_lose_a_class_are_told_before(histotune: Histotune, tmp_path: Path) -> None:
    data = tiles(tmp_path / "data", {"a": tuple(f"p{n}" for n in range(8)), "b": ("q0", "q1")})
    options = ("--set", PATTERN, "--set", "sweep.folds=2", "--set", "sweep.honesty=nested")
    result = histotune("sweep", "tiles", *place(data, tmp_path), *options)
    assert result.code == 2
    assert "every class in at least two groups" in result.err
