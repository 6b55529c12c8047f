"""``histotune matrix`` on files: a folder with a page, a table and plots; mistakes before anything is embedded."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import CommandResult, write_breakhis

Command = Callable[..., CommandResult]


def test_the_folder_holds_all_matrices(histotune: Command, tmp_path: Path) -> None:
    data = write_breakhis(tmp_path / "breakhis", n_per_class=6, n_tiles=2)
    result = histotune(
        "matrix", "breakhis", "--data", data, "--backbone", "colour-histogram", "--matched", "--out", tmp_path / "m",
        "--set", "sweep.folds=2", "--set", "evaluation.outer_folds=3", "--set", "sweep.penalties=[0.1]",
    )  # fmt: skip
    assert result.code == 0, result.err
    assert "AUROC: as the network sees it, equal training size" in result.out
    assert "AUROC: equal field of view" in result.out
    study = json.loads((tmp_path / "m/matrix.json").read_text(encoding="utf-8"))
    assert [(m["experiment"], m["training_size"]) for m in study["matrices"]] == [
        (experiment, size)
        for experiment in ("as the network sees it", "equal input_mpp", "equal field of view")
        for size in ("equal", "all data")
    ]
    rows = list(csv.DictReader((tmp_path / "m/matrix.csv").open(encoding="utf-8")))
    assert len(rows) == 6 * 3 * 2 * 3
    assert {row["n_groups"] for row in rows} == {"12"}
    page = (tmp_path / "m/matrix.html").read_text(encoding="utf-8")
    assert "What the network saw" in page
    assert page.count("<script") == 1  # the page's own
    assert (tmp_path / "m/plots/matrix-1.svg").is_file()
    assert "cross-fit: scored once" in result.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("pcam",), "at least two magnifications"),
        (("breakhis", "--split", "random-images-5-seed0"), "leak"),
    ],
)
def test_mistakes_are_found_first(
    histotune: Command, breakhis: Path, pcam: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    data = pcam if arguments[0] == "pcam" else breakhis
    result = histotune("matrix", *arguments, "--data", data, "--out", tmp_path / "m")
    assert result.code == 2
    assert message in result.err
    assert not (tmp_path / "m").exists()
