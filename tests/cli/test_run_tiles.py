"""A user's own tiles and readers, from the command line to the report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from tests.conftest import CommandResult
from tests.datasets.fakes import encoded, write_image_parquet
from tests.datasets.test_pcam_copies_kaggle import image_id

Histotune = Callable[..., CommandResult]
QUICK = ("--set", "sweep.penalties=[0.01,1]", "--set", "sweep.folds=3", "--set", "evaluation.outer_folds=3",
         "--set", 'evaluation.floors=["majority"]', "--set", "interval.n_resamples=200",
         "--backbone", "colour-histogram")  # fmt: skip
RNG = np.random.default_rng(0)


def pixels(label: int) -> np.ndarray:
    """Return a small tile; class 1 is a little darker on average."""
    level = RNG.normal(160 - 20 * label, 15)
    return RNG.normal(level, 20, (24, 32, 3)).clip(0, 255).astype(np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return class folders: 12 groups of 3 tiles, the group in the file name."""
    for label, name in enumerate(("benign", "malignant")):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(18):
            path = tmp_path / "data" / name / f"{name[0]}{number // 3}_{number}.png"
            Image.fromarray(pixels(label)).save(path)
    return tmp_path / "data"


@pytest.fixture
def table(folder: Path) -> Path:
    """Return a table of the same tiles with their groups, and one unlabelled row."""
    lines = ["path,label,group"]
    for path in sorted(folder.rglob("*.png")):
        lines.append(f"{path.relative_to(folder)},{path.parent.name},{path.stem.partition('_')[0]}")
    Image.fromarray(pixels(0)).save(folder / "extra.png")
    lines.append("extra.png,,e")
    (folder / "tiles.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "tiles.csv"


def scores(run: Path) -> dict[str, dict[str, object]]:
    """Return the findings of a run by id."""
    return {finding["id"]: finding for finding in json.loads((run / "scores.json").read_text())["findings"]}


def marks(run: Path) -> set[str]:
    return {mark for row in scores(run)["in-domain"]["rows"] for mark in row["marks"]}  # type: ignore[attr-defined]


def test_a_table_with_groups_is_cross_fitted_by_group(histotune: Histotune, table: Path, tmp_path: Path) -> None:
    result = histotune("run", "tiles", "--data", table, "--out", tmp_path / "run", *QUICK)
    assert result.code == 0, result.err
    assert marks(tmp_path / "run") == set()
    probe = scores(tmp_path / "run")["in-domain"]["rows"][0]["scores"][0]  # type: ignore[index]
    assert (probe["n_tiles"], probe["n_groups"]) == (36, 12)
    low, high = (probe["interval"][end] for end in ("low", "high"))
    assert low <= probe["value"] <= high
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "AUROC: probe − other" in page and "Balanced accuracy, probe less majority class" in page
    assert "swaps" in page


def test_folders_without_groups_are_marked_leaky_and_get_no_interval(
    histotune: Histotune, folder: Path, tmp_path: Path
) -> None:
    result = histotune("run", "tiles", "--data", folder, "--out", tmp_path / "run", *QUICK)
    assert result.code == 0, result.err
    assert marks(tmp_path / "run") == {"LEAKY"}
    probe = scores(tmp_path / "run")["in-domain"]["rows"][0]["scores"][0]  # type: ignore[index]
    assert probe["interval"] is None
    assert "group" in probe["reason"]
    assert set(scores(tmp_path / "run")) == {"in-domain"}, "without groups there is no leak to price"
    asked = histotune("run", "tiles", "--data", folder, "--out", tmp_path / "asked", "--cluster", "tile", *QUICK)
    assert asked.code == 0, asked.err
    assert marks(tmp_path / "asked") == {"LEAKY", "TOO NARROW"}


def test_a_pattern_gives_folders_their_groups(histotune: Histotune, folder: Path, tmp_path: Path) -> None:
    pattern = ("--set", "source.group_pattern=^(?P<group>[^_]+)_")
    described = histotune("data", "describe", "tiles", "--data", folder, *pattern)
    assert "36 tiles, 12 groups" in described.out
    result = histotune("run", "tiles", "--data", folder, "--out", tmp_path / "run", *pattern, *QUICK)
    assert result.code == 0, result.err
    assert marks(tmp_path / "run") == set()


def test_embed_sweep_evaluate(histotune: Histotune, table: Path, tmp_path: Path) -> None:
    backbone = ("--backbone", "colour-histogram")
    assert "37 computed" in histotune("embed", "tiles", "--data", table, *backbone).out
    swept = histotune("sweep", "tiles", "--data", table, "--out", tmp_path / "head", *backbone,
                      "--set", "sweep.penalties=[0.1,1]", "--set", "sweep.folds=3")  # fmt: skip
    assert swept.code == 0, swept.err
    assert "36 tiles of 12 groups" in swept.out
    own = histotune("evaluate", tmp_path / "head", "tiles", "--data", table)
    assert own.code == 0, own.err
    assert "LEAKY" in own.out


def test_a_table_without_labels_can_be_embedded_and_nothing_else(
    histotune: Histotune, table: Path, tmp_path: Path
) -> None:
    paths = [line.partition(",")[0] for line in table.read_text().splitlines()]
    table.write_text("\n".join(paths) + "\n", encoding="utf-8")
    assert histotune("embed", "tiles", "--data", table, "--backbone", "colour-histogram").code == 0
    result = histotune("run", "tiles", "--data", table, "--out", tmp_path / "run", *QUICK)
    assert result.code == 2
    assert "at least two classes" in result.err


READER = """
from histotune.datasets.dataset_spec import DatasetSpec
from histotune.datasets.rows import Tile

SPEC = DatasetSpec(name="mine", title="My tiles", licence="CC0", citation="Me.", caveats=("Made up.",))


def read(config):
    for path in sorted(config.path.rglob("*_*.png")):
        yield Tile(path, label=path.parent.name, group=path.stem.split("_")[0])
"""


def test_a_python_file_reads_anything_else(histotune: Histotune, folder: Path, tmp_path: Path) -> None:
    code = tmp_path / "my_reader.py"
    code.write_text(READER, encoding="utf-8")
    described = histotune("data", "describe", code, "--data", folder)
    for words in ("My tiles", "36 tiles, 12 groups", "Made up.", "Licence: CC0"):
        assert words in described.out
    result = histotune("run", code, "--data", folder, "--out", tmp_path / "run", *QUICK)
    assert result.code == 0, result.err
    refused = histotune("run", "--from", tmp_path / "run", "--out", tmp_path / "again")
    assert refused.code == 2
    assert "only runs when you name it" in refused.err
    again = histotune("run", code, "--from", tmp_path / "run", "--out", tmp_path / "again")
    assert again.code == 0, again.err
    assert (tmp_path / "run/scores.json").read_bytes() == (tmp_path / "again/scores.json").read_bytes()
    code.write_text(READER + "# changed\n", encoding="utf-8")
    changed = histotune("run", code, "--from", tmp_path / "run", "--out", tmp_path / "again")
    assert "not the one that the settings were made with" in changed.err


def test_an_error_in_the_python_file_is_one_message(histotune: Histotune, folder: Path, tmp_path: Path) -> None:
    code = tmp_path / "my_reader.py"
    code.write_text(READER.replace('"_")[0]', '"_")[9]'), encoding="utf-8")
    result = histotune("data", "describe", code, "--data", folder)
    assert result.code == 2
    assert "Traceback" not in result.err
    assert "IndexError" in result.err
    assert f"{code}, line 10" in result.err
    assert "can't be read" in histotune("data", "describe", tmp_path / "none.py", "--data", folder).err
    assert "add --data" in histotune("data", "describe", code).err


def test_kaggles_copy_is_studied_by_single_patches(histotune: Histotune, tmp_path: Path) -> None:
    (tmp_path / "kaggle" / "train").mkdir(parents=True)
    lines = ["id,label"]
    for number in range(30):
        tile = np.full((96, 96, 3), 150 - 40 * (number % 2) + number, np.uint8)
        (tmp_path / "kaggle" / "train" / f"{image_id(number)}.tif").write_bytes(encoded(tile, "TIFF"))
        lines.append(f"{image_id(number)},{number % 2}")
    (tmp_path / "kaggle" / "train_labels.csv").write_text("\n".join(lines), encoding="utf-8")
    result = histotune("run", "pcam", "--data", tmp_path / "kaggle", "--out", tmp_path / "run", *QUICK)
    assert result.code == 0, result.err
    assert marks(tmp_path / "run") == {"LEAKY"}


def test_the_parquet_copy_runs_on_its_official_parts(histotune: Histotune, tmp_path: Path) -> None:
    for part in ("train", "valid"):
        tiles = [np.full((96, 96, 3), 150 - 40 * (number % 2) + number, np.uint8) for number in range(20)]
        labels = [bool(number % 2) for number in range(20)]
        path = tmp_path / "hub" / "data" / f"{part}-00000-of-00001.parquet"
        write_image_parquet(path, [encoded(tile) for tile in tiles], labels, row_group_size=7)
    result = histotune("run", "pcam", "--data", tmp_path / "hub", "--out", tmp_path / "run", *QUICK)
    assert result.code == 0, result.err
    direct = scores(tmp_path / "run")["direct"]["rows"][0]  # type: ignore[index]
    assert direct["domain"] == "patch_camelyon valid"
    assert direct["scores"][0]["value"] == 1.0


def test_bad_tiles_of_ones_own_are_left_out_and_counted(histotune: Histotune, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, level in (("normal", 170), ("tumour", 120)):
        (tmp_path / "tiles" / name).mkdir(parents=True)
        for case in range(6):
            for tile in range(3):
                pixels = rng.normal(level, 25, (40, 40, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(tmp_path / "tiles" / name / f"{name}{case}_{tile}.png")
    empty, cut = tmp_path / "tiles/normal/normal0_0.png", tmp_path / "tiles/tumour/tumour3_1.png"
    empty.write_bytes(b"")
    cut.write_bytes(cut.read_bytes()[:-100])
    command = ("run", "tiles", "--data", tmp_path / "tiles", "--set", "source.group_pattern=^(?P<group>[^_]+)_",
               "--backbone", "colour-histogram", "--set", "sweep.folds=3", "--set", "evaluation.outer_folds=3",
               "--set", 'evaluation.floors=["majority"]', "--out", tmp_path / "run")  # fmt: skip
    refused = histotune(*command)
    assert refused.code == 2 and "normal0_0.png" in refused.err and "--on-bad-image skip" in refused.err
    done = histotune(*command, "--on-bad-image", "skip")
    assert done.code == 0, done.err
    scores = json.loads((tmp_path / "run" / "scores.json").read_text(encoding="utf-8"))
    assert (scores["datasets"][0]["n_skipped"], scores["datasets"][0]["n_tiles"]) == (2, 34)
    assert "2 SKIPPED" in done.out


@pytest.fixture
def sited(folder: Path) -> Path:
    """The tiles with two sites, one of them unknown for a group; a scanner for each site; one stain for all."""
    lines = ["path,label,group,site,scanner,stain"]
    for path in sorted(folder.rglob("*.png")):
        group = path.stem.partition("_")[0]
        site = "" if group == "b5" else "Graz" if int(group[1]) < 5 else "Lyon"
        lines.append(f"{path.relative_to(folder)},{path.parent.name},{group},{site},scan-{site or 'x'},H&E")
    (folder / "tiles.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "tiles.csv"


def test_scores_by_site_and_scanner_stand_in_report_and_terminal(
    histotune: Histotune, sited: Path, tmp_path: Path
) -> None:
    done = histotune("run", "tiles", "--data", sited, "--out", tmp_path / "run", *QUICK)
    assert done.code == 0, done.err
    found = scores(tmp_path / "run")["in-domain"]
    by_unit, by_site, by_scanner = found["parts"]  # type: ignore[misc]
    assert by_unit["column"] == "unit"
    assert (by_site["column"], by_scanner["column"]) == ("site", "scanner")  # one stain makes no table
    assert [row["domain"] for row in by_site["rows"]] == ["Graz", "Lyon", "unknown"]
    graz, lyon, unknown = ({score["name"]: score for score in row["scores"]} for row in by_site["rows"])
    assert [(part["accuracy"]["n_tiles"], part["accuracy"]["n_groups"]) for part in (graz, lyon, unknown)] == [
        (30, 10), (3, 1), (3, 1)
    ]  # fmt: skip
    predictions = pl.read_parquet(tmp_path / "run" / "predictions.parquet").filter(pl.col("arm") == "probe")
    inside = predictions.filter((pl.col("finding") == "cross-magnification")
                                & pl.col("group_id").str.slice(-1).cast(pl.Int64).lt(5))  # fmt: skip
    right = inside["probability"].arr.get(1).ge(inside["threshold"]).cast(pl.Int32) == inside["y_true"]
    assert graz["accuracy"]["value"] == pytest.approx(right.mean())
    assert graz["auroc"]["interval"]["low"] <= graz["auroc"]["value"] <= graz["auroc"]["interval"]["high"]
    assert lyon["auroc"]["value"] is None and lyon["auroc"]["reason"]
    assert [table["column"] for table in found["robustness"]] == ["site", "scanner"]  # type: ignore[attr-defined]
    ((index,),) = (row["scores"] for row in found["robustness"][0]["rows"])  # type: ignore[index]
    assert index["value"] is None and "no two classes are both found at two sites" in index["reason"]
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "<h3>Class or site: robustness index</h3>" in page and "Map of embeddings, 36 tiles" in page
    assert "<h3>By site</h3>" in page and "<h3>By stain</h3>" not in page and "the site&#39;s doing" in page
    assert histotune("report", tmp_path / "run", "--out", tmp_path / "again.html").code == 0
    again = (tmp_path / "again.html").read_text(encoding="utf-8")
    assert again.partition('<section id="reproduce">')[0] == page.partition('<section id="reproduce">')[0]
    told = histotune("evaluate", tmp_path / "run" / "head", "tiles", "--data", sited)
    assert told.code == 0, told.err
    words = " ".join(told.out.split())
    assert "By site" in words and "By scanner" in words and "By stain" not in words and "not estimable" in words
    assert "Class or site, robustness index on tiles: not estimable: no two classes" in words


def test_tiles_without_sites_have_no_such_table(histotune: Histotune, table: Path, tmp_path: Path) -> None:
    assert histotune("run", "tiles", "--data", table, "--out", tmp_path / "run", *QUICK).code == 0
    inside = scores(tmp_path / "run")["in-domain"]
    assert [part["column"] for part in inside["parts"]] == ["unit"] and inside["robustness"] == []  # type: ignore[attr-defined]
    assert "By site" not in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
