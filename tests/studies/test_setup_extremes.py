"""A thousand classes, or one positive tile, end in time with the cause named, and nothing is embedded first."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import CommandResult

Command = Callable[..., CommandResult]
LIMIT_S = 60
HISTOGRAM = ("--backbone", "colour-histogram", "--set", "evaluation.floors=[]", "--set", "sweep.folds=2",
             "--set", "evaluation.outer_folds=2", "--set", "evaluation.leak_price=false")  # fmt: skip


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with 1,000 tiles and tables of extreme labels for them."""
    folder = tmp_path_factory.mktemp("extremes")
    rng = np.random.default_rng(0)
    for number in range(1000):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    labels = {
        "classes": [f"c{number:04d}" for number in range(1000)],
        "one": ["positive" if number == 7 else "negative" for number in range(500)],
        "plain": ["ab"[number % 2] for number in range(48)],
    }
    for name, given in labels.items():
        lines = [f"{number}.png,{label},g{number}" for number, label in enumerate(given)]
        (folder / f"{name}.csv").write_text("\n".join(["path,label,group", *lines]), encoding="utf-8")
    return folder


ALL_ARE_CLASSES = ("--set", "source.max_classes=1000")


def timed(histotune: Command, *words: object) -> CommandResult:
    start_s = time.monotonic()
    done = histotune(*words)
    assert time.monotonic() - start_s < LIMIT_S
    return done


@pytest.mark.parametrize(("name", "lost"), [("classes", "c0000, c0001"), ("one", "positive")])
@pytest.mark.parametrize("command", ["sweep", "run"])
def test_what_cannot_be_learned_is_named_before_anything_is_embedded(
    histotune: Command, tables: Path, tmp_path: Path, command: str, name: str, lost: str
) -> None:
    given = (tables / f"{name}.csv", *HISTOGRAM, *ALL_ARE_CLASSES)
    done = timed(histotune, command, "tiles", "--data", *given, "--out", tmp_path / "out")
    assert done.code == 2
    assert "grouped cross-validation needs every class in at least two groups" in done.err
    assert lost in done.err
    assert "embed" not in done.err
    assert done.err.count("error:") == 1
    assert len(done.err) < 1000
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "lost"), [("classes", "Class c0000 has 1 group"), ("one", "Class positive has 1 group")]
)
def test_a_split_says_which_classes_have_too_few_groups(histotune: Command, tables: Path, name: str, lost: str) -> None:
    done = timed(histotune, "data", "split", "tiles", "--data", tables / f"{name}.csv", *ALL_ARE_CLASSES)
    assert done.code == 0
    assert lost in done.out
    assert ("980 more classes have too few groups" in done.out) == (name == "classes")


@pytest.mark.slow
def test_a_head_and_a_diagnosis_refuse_a_thousand_classes_and_take_one_positive(
    histotune: Command, tables: Path, tmp_path: Path
) -> None:
    made = histotune("run", "tiles", "--data", tables / "plain.csv", *HISTOGRAM, "--out", tmp_path / "run")
    assert made.code == 0, made.err
    for command in ("evaluate", "transfer"):
        out = ("--out", tmp_path / "diagnosis") if command == "transfer" else ()
        refused = timed(histotune, command, tmp_path / "run", "tiles", "--data", tables / "classes.csv", *out)
        assert refused.code == 2
        assert refused.err.count("error:") == 1
        assert "c0000" in refused.err
        assert "c0999" not in refused.err
        assert len(refused.err) < 1000
    read_as = ("--classes", "negative=a,positive=b")
    alone = timed(histotune, "evaluate", tmp_path / "run", "tiles", "--data", tables / "one.csv", *read_as)
    assert alone.code == 0, alone.err
    assert "class 'b' has 1 group" in alone.out
