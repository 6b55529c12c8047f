"""``histotune transfer`` with a head of three tissues, from images to the page."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from histotune.tools.manifest import MANIFEST_FILE, verify_folder
from tests.conftest import CommandResult

Command = Callable[..., CommandResult]
COLOURS = {"adipose": (190, 165, 200), "mucus": (150, 170, 220), "stroma": (180, 140, 195), "tumour": (160, 130, 190)}
TISSUES = ("adipose", "stroma", "tumour")
QUICK = ("--backbone", "colour-histogram", "--set", "sweep.folds=2", "--set", "sweep.penalties=[0.1]",
         "--set", "evaluation.floors=[]", "--set", "evaluation.outer_folds=3",
         "--set", "sweep.label_efficiency.draws=0")  # fmt: skip
READER = """
from histotune.datasets.dataset_spec import ClassScheme, DatasetSpec
from histotune.datasets.rows import Tile

NAMES = ("tumour", "adipose", "stroma")
SPEC = DatasetSpec(name="tiles", title="The same tiles", licence="CC0", citation="Me.",
                   schemes=(ClassScheme("tissues", NAMES, {name: name for name in NAMES}, "Another order."),))


def read(config):
    for path in sorted((config.path / "img").glob("*.png")):
        tissue, group, _ = path.stem.split("_")
        group = f"{config.path.name}-{tissue}-{group}"
        yield Tile(path, label=tissue, group=group, mpp=0.5, tile_id=f"img/{path.name}")
"""


def write_tissues(folder: Path, seed: int, tissues: tuple[str, ...] = TISSUES) -> Path:
    """Write a table of six groups of three small tiles per tissue; another seed is another laboratory."""
    rng = np.random.default_rng(seed)
    (folder / "img").mkdir(parents=True)
    lines = ["path,label,group,mpp"]
    for tissue in tissues:
        for group in range(6):
            tint = rng.normal(0, 14, 3)
            for tile in range(3):
                pixels = rng.normal(np.array(COLOURS[tissue]) + tint, 25, (40, 40, 3)).clip(0, 255).astype(np.uint8)
                name = f"img/{tissue}_{group}_{tile}.png"
                Image.fromarray(pixels).save(folder / name)
                lines.append(f"{name},{tissue},{folder.name}-{tissue}-{group},0.5")
    (folder / "tiles.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "tiles.csv"


@pytest.fixture
def run(histotune: Command, tmp_path: Path) -> Path:
    """Return the folder of a run on three tissues."""
    table = write_tissues(tmp_path / "home", 1)
    places = ("--data", table, "--out", tmp_path / "run", "--cache", tmp_path / "cache")
    result = histotune("run", "tiles", *places, *QUICK)
    assert result.code == 0, result.err
    return tmp_path / "run"


def transfer(histotune: Command, run: Path, name: str, *target: object) -> CommandResult:
    folder = run.parent
    return histotune("transfer", run, *target, "--out", folder / name, "--cache", folder / "cache", "--no-images",
                     "--set", "transfer.draws=3", "--set", "transfer.folds=3")  # fmt: skip


def found(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / "transfer.json").read_text(encoding="utf-8"))
    return loaded


def test_from_images_to_the_page(histotune: Command, run: Path, tmp_path: Path) -> None:
    result = transfer(histotune, run, "abroad", "tiles", "--data", write_tissues(tmp_path / "abroad-data", 2))
    assert result.code == 0, result.err
    told = found(tmp_path / "abroad")
    verify_folder(tmp_path / "abroad", "", "transfer.json")
    assert told["provenance"]["manifest"] == MANIFEST_FILE
    assert told["class_names"] == list(TISSUES)
    assert told["prevalence"] == [pytest.approx([1 / 3] * 3)] * 2
    assert 0.5 < told["target_scores"][0]["value"] <= told["source_scores"][0]["value"] + 0.2
    assert all(score["interval"] is not None for score in told["target_scores"])
    assert all(point["auroc"]["interval"] is not None for point in told["few_shot"])
    assert {row["predicted"] for row in told["neighbours"]} <= set(TISSUES)
    page = (tmp_path / "abroad/transfer.html").read_text(encoding="utf-8")
    for words in ("share of tumour: source, target", "adipose / stroma / tumour", "pairs of the 3 classes"):
        assert words in page
    added = histotune("report", run, "--add", tmp_path / "abroad")
    assert added.code == 0, added.err
    assert "pairs of the 3 classes" in (run / "report.html").read_text(encoding="utf-8")


def test_the_order_of_the_targets_classes_changes_nothing(histotune: Command, run: Path, tmp_path: Path) -> None:
    table = write_tissues(tmp_path / "abroad-data", 2)
    (tmp_path / "reader.py").write_text(READER, encoding="utf-8")
    for name, reader, data in (("sorted", "tiles", table), ("other", tmp_path / "reader.py", table.parent)):
        result = transfer(histotune, run, name, reader, "--data", data)
        assert result.code == 0, result.err
    one, other = (found(tmp_path / name) for name in ("sorted", "other"))
    assert one["class_names"] == other["class_names"]
    for part in ("target_scores", "gaps", "parts", "remedies", "oracles", "few_shot", "neighbours", "verdict"):
        assert one[part] == other[part], part


def test_other_tissues_are_refused_before_they_are_embedded(histotune: Command, run: Path, tmp_path: Path) -> None:
    table = write_tissues(tmp_path / "abroad-data", 2, ("adipose", "mucus", "tumour"))
    result = transfer(histotune, run, "abroad", "tiles", "--data", table)
    assert result.code == 2
    assert "lacks 'stroma' and has 'mucus', which the head does not know" in result.err
    assert "embedding" not in result.err
    assert not (tmp_path / "abroad").exists()
