"""``histotune evaluate`` from files: classes by name, tiles that trained the head, the table of predictions."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from tests.conftest import CommandResult

Histotune = Callable[..., CommandResult]
QUICK = ("--backbone", "colour-histogram", "--set", "sweep.penalties=[0.1,1]", "--set", "sweep.folds=2")
FEW = ("--set", "evaluation.outer_folds=2", "--set", 'evaluation.floors=["majority"]', "--set",
       "evaluation.leak_price=false", "--set", "evaluation.permutations=0", "--set",
       "sweep.label_efficiency.draws=0")  # fmt: skip
CASES = [(label, group) for label in range(3) for group in range(5)]


def write_cohort(folder: Path, names: Sequence[str], seed: int = 0, prefix: str = "g") -> Path:
    """Write a table of 5 groups of 3 tiles per class; another seed is another laboratory."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    lines = ["path,label,group"]
    for label, group in CASES[: 5 * len(names)]:
        tint = rng.normal(0, 8, 3)
        for tile in range(3):
            level = np.array([190, 120 + 40 * label, 200 - 30 * label]) + tint
            name = f"{label}_{group}_{tile}.png"
            Image.fromarray(rng.normal(level, 25, (24, 32, 3)).clip(0, 255).astype(np.uint8)).save(folder / name)
            lines.append(f"{name},{names[label]},{prefix}{label}{group}")
    (folder / "tiles.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "tiles.csv"


def changed(table: Path, name: str, change: Callable[[list[str]], list[str]]) -> Path:
    """Write the table of the same tiles with other cells."""
    header, *lines = table.read_text(encoding="utf-8").splitlines()
    rows = [",".join(change(line.split(","))) for line in lines]
    path = table.with_name(name)
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def swept(histotune: Histotune, table: Path, folder: Path, *more: str) -> Path:
    result = histotune("sweep", "tiles", "--data", table, "--out", folder, *QUICK, *more)
    assert result.code == 0, result.err
    return folder


def table_of(histotune: Histotune, head: Path, table: Path, *more: str) -> tuple[pl.DataFrame, str]:
    out = head.parent / "predictions.parquet"
    result = histotune("evaluate", head, "tiles", "--data", table, "--out", out, *more)
    assert result.code == 0, result.err
    return pl.read_parquet(out, glob=False), result.out


def numbers(out: str) -> list[str]:
    """Return the lines of the table's rows."""
    return [line for line in out.splitlines() if line.startswith("tiles ") and "scored" not in line]


def test_the_order_of_classes_changes_no_number(histotune: Histotune, tmp_path: Path) -> None:
    home = write_cohort(tmp_path / "home", ("MSS", "MSI"))
    abroad = write_cohort(tmp_path / "abroad", ("MSS", "MSI"), 1, "h")
    head = swept(histotune, home, tmp_path / "head", "--set", "source.positive_class=MSI")
    one, shown = table_of(histotune, head, abroad, "--set", "source.positive_class=MSI")
    other, again = table_of(histotune, head, abroad, "--set", "source.positive_class=MSS")
    assert one.equals(other)
    assert numbers(shown) == numbers(again)
    turned = swept(histotune, home, tmp_path / "turned", "--set", "source.positive_class=MSS")
    auroc = numbers(table_of(histotune, turned, abroad)[1])[0].split()[1]
    assert auroc == numbers(shown)[0].split()[1]


def test_known_pairs_and_stated_names(histotune: Histotune, tmp_path: Path) -> None:
    head = swept(histotune, write_cohort(tmp_path / "home", ("benign", "malignant")), tmp_path / "head")
    abroad = write_cohort(tmp_path / "abroad", ("benign", "malignant"), 1, "h")
    expected, shown = table_of(histotune, head, abroad)
    known = {"benign": "normal", "malignant": "tumor"}
    table = changed(abroad, "other.csv", lambda row: [row[0], known[row[1]], row[2]])
    found, told = table_of(histotune, head, table)
    assert found.equals(expected) and numbers(told) == numbers(shown)
    assert "normal is read as benign and tumor is read as malignant" in told
    odd = {"benign": "low", "malignant": "high"}
    table = changed(abroad, "odd.csv", lambda row: [row[0], odd[row[1]], row[2]])
    refused = histotune("evaluate", head, "tiles", "--data", table)
    assert refused.code == 2
    assert all(words in refused.err for words in ("'high, low'", "benign, malignant", "--classes"))
    stated, told = table_of(histotune, head, table, "--classes", "low=benign,high=malignant")
    assert stated.equals(expected) and "low is read as benign" in told
    again, _ = table_of(histotune, head, table, "--set", "evaluation.classes=low=benign,high=malignant")
    assert again.equals(expected)


def test_a_missing_class_is_scored_over_those_present(histotune: Histotune, tmp_path: Path) -> None:
    head = swept(histotune, write_cohort(tmp_path / "home", ("adenosis", "ductal", "mucinous")), tmp_path / "head")
    abroad = write_cohort(tmp_path / "abroad", ("ductal", "mucinous"), 1, "h")
    found, told = table_of(histotune, head, abroad)
    assert set(found["label"]) == {"ductal", "mucinous"}
    assert {f"probability_{name}" for name in ("adenosis", "ductal", "mucinous")} <= set(found.columns)
    assert "Scored over the classes that have tiles (ductal, mucinous)" in told
    p = found["probability_mucinous"] / (found["probability_mucinous"] + found["probability_ductal"])
    positive = found["label"] == "mucinous"
    wins = [(x > y) + 0.5 * (x == y) for x in p.filter(positive) for y in p.filter(~positive)]
    assert f"{np.mean(wins):.3f}" == numbers(told)[0].split()[1]
    right = found.group_by("label").agg((pl.col("label") == pl.col("predicted")).mean().alias("recall"))
    assert f"{right['recall'].mean():.3f}" in numbers(told)[0]
    alone = changed(abroad, "alone.csv", lambda row: [row[0], "mucinous", row[2]])
    result = histotune("evaluate", head, "tiles", "--data", alone)
    assert result.code == 0, result.err


@pytest.mark.parametrize("spelling", ["{:d}", "{:d}.0", "{:03d}", "case-{:d}", ""])
def test_the_files_that_trained_a_head_are_recognised_under_any_id(
    histotune: Histotune, tmp_path: Path, spelling: str
) -> None:
    home = write_cohort(tmp_path / "home", ("benign", "malignant"), prefix="")
    head = swept(histotune, home, tmp_path / "head")
    shutil.copytree(tmp_path / "home", tmp_path / "copy")
    for path in (tmp_path / "copy").glob("*.png"):
        path.rename(path.with_name(f"renamed_{path.name}"))

    def respelt(row: list[str]) -> list[str]:
        return [f"renamed_{row[0]}", row[1], spelling.format(int(row[2])) if spelling else ""]

    found, told = table_of(histotune, head, changed(tmp_path / "copy" / "tiles.csv", "again.csv", respelt))
    assert set(found["seen"]) == {"content"}
    assert "LEAKY" in numbers(told)[0]
    assert "30 of 30 scored tiles" in told


def test_clean_rows_stay_clean_and_seen_tiles_can_be_left_out(histotune: Histotune, tmp_path: Path) -> None:
    home = write_cohort(tmp_path / "home", ("benign", "malignant"))
    head = swept(histotune, home, tmp_path / "head")
    abroad = write_cohort(tmp_path / "abroad", ("benign", "malignant"), 1, "h")
    lines = abroad.read_text(encoding="utf-8").splitlines()
    rows = [f"{line},{'100X' if number % 2 else '400X'}" for number, line in enumerate(lines[1:])]
    rows[0] = f"{lines[1].rsplit(',', 1)[0]},g00,400X"  # one tile of a case that trained the head
    mixed = abroad.with_name("mixed.csv")
    mixed.write_text("\n".join([f"{lines[0]},magnification", *rows]) + "\n", encoding="utf-8")
    found, told = table_of(histotune, head, mixed)
    assert {row.split()[1]: "LEAKY" in row for row in numbers(told)} == {"100X": False, "400X": True}
    assert "1 of 30 scored tiles, of 1 group (g00)" in told and "--exclude-seen" in told
    assert found.filter(pl.col("seen") != "")["group"].to_list() == ["g00"]
    rest, told = table_of(histotune, head, mixed, "--exclude-seen")
    assert "LEAKY" not in told and "Left out: 1 of 30" in told
    assert rest.height == found.height - 1
    assert rest.equals(found.filter(pl.col("seen") == ""))
    own = histotune("evaluate", head, "tiles", "--data", home, "--exclude-seen")
    assert own.code == 2 and "every one of these tiles trained this head" in own.err


def test_of_unknown_groups_it_is_said_that_it_cant_be_told(histotune: Histotune, tmp_path: Path) -> None:
    head = swept(histotune, write_cohort(tmp_path / "home", ("benign", "malignant")), tmp_path / "head")
    abroad = write_cohort(tmp_path / "abroad", ("benign", "malignant"), 1)
    found, told = table_of(histotune, head, changed(abroad, "unknown.csv", lambda row: [*row[:2], ""]))
    assert set(found["seen"]) == {"can't be told"}
    assert "LEAKY" not in told
    assert "30 of 30 scored tiles are of a group that trained this head can't be told" in told


def test_a_name_that_no_table_has_is_refused_before_anything_is_read(histotune: Histotune, tmp_path: Path) -> None:
    result = histotune("evaluate", tmp_path / "head", "tiles", "--data", tmp_path, "--out", tmp_path / "p.json")
    assert result.code == 2 and "--out" in result.err


def run_with(histotune: Histotune, home: Path, target: Path, out: Path, *more: str) -> CommandResult:
    second = ("--set", f'target={{"name":"tiles","path":"{target}"}}')
    return histotune("run", "tiles", "--data", home, "--out", out, *QUICK, *FEW, *second, *more)


def external_of(run: Path) -> dict[str, list[dict[str, object]]]:
    saved = json.loads((run / "scores.json").read_text(encoding="utf-8"))
    return next(one for one in saved["findings"] if one["id"] == "external")  # type: ignore[no-any-return]


def values_of(finding: dict[str, list[dict[str, object]]]) -> list[object]:
    return [score["value"] for row in finding["rows"] for score in row["scores"]]  # type: ignore[attr-defined]


def test_a_run_carries_its_head_to_classes_by_name(histotune: Histotune, tmp_path: Path) -> None:
    home = write_cohort(tmp_path / "home", ("benign", "malignant"))
    abroad = write_cohort(tmp_path / "abroad", ("normal", "tumour"), 1, "h")
    split = changed(abroad, "split.csv", lambda row: [*row, "train" if row[2][-1] in "012" else "valid"])
    split.write_text(split.read_text(encoding="utf-8").replace("path,label,group", "path,label,group,split"))
    for positive in ("tumour", "normal"):
        result = run_with(histotune, home, split, tmp_path / positive, "--set", f"target.positive_class={positive}")
        assert result.code == 0, result.err
        saved = json.loads((tmp_path / positive / "scores.json").read_text(encoding="utf-8"))
        assert saved["datasets"][1]["class_names"] == ["normal", "tumour"]
    expected = external_of(tmp_path / "tumour")
    assert expected["rows"] == external_of(tmp_path / "normal")["rows"]
    assert "normal is read as benign and tumour is read as malignant" in expected["protocol"]
    odd = changed(split, "odd.csv", lambda row: [row[0], {"normal": "low", "tumour": "high"}[row[1]], *row[2:]])
    refused = run_with(histotune, home, odd, tmp_path / "odd")
    assert refused.code == 2 and "matched by name" in refused.err
    result = run_with(histotune, home, odd, tmp_path / "odd", "--classes", "low=benign,high=malignant")
    assert result.code == 0, result.err
    assert values_of(external_of(tmp_path / "odd")) == values_of(expected)
    again = histotune("run", "--from", tmp_path / "odd", "--out", tmp_path / "repeated")
    assert again.code == 0, again.err
    idle = histotune("run", "tiles", "--data", home, "--out", tmp_path / "idle", *QUICK, *FEW, "--classes", "a=benign")
    assert idle.code == 2 and "second data set" in idle.err


def test_a_run_marks_external_tiles_that_trained_it_and_scores_the_classes_present(
    histotune: Histotune, tmp_path: Path
) -> None:
    home = write_cohort(tmp_path / "home", ("adenosis", "ductal", "mucinous"))
    abroad = write_cohort(tmp_path / "abroad", ("mucinous", "ductal"), 1, "h")
    shutil.copy(home.parent / "1_0_0.png", abroad.parent / "0_0_0.png")  # a tile that trained the head
    split = changed(abroad, "split.csv", lambda row: [*row, "train" if row[2][-1] in "12" else "valid"])
    split.write_text(split.read_text(encoding="utf-8").replace("path,label,group", "path,label,group,split"))
    result = run_with(histotune, home, split, tmp_path / "run")
    assert result.code == 0, result.err
    external = external_of(tmp_path / "run")
    assert all("LEAKY" in row["marks"] for row in external["rows"])  # type: ignore[operator]
    assert any("by their content" in str(note) for note in external["notes"])
    assert any("Scored over the classes that have tiles (ductal, mucinous)" in str(note) for note in external["notes"])
    scores = {score["name"]: score["value"] for score in external["rows"][0]["scores"]}  # type: ignore[attr-defined]
    assert 0 <= scores["auroc"] <= 1 and 0 <= scores["balanced_accuracy"] <= 1


def test_decisions_are_printed_saved_and_on_the_page(histotune: Histotune, tmp_path: Path) -> None:
    home = write_cohort(tmp_path / "home", ("adenosis", "ductal", "mucinous"))
    run = tmp_path / "run"
    result = histotune("run", "tiles", "--data", home, "--out", run, *QUICK, *FEW)
    assert result.code == 0, result.err
    saved = json.loads((run / "scores.json").read_text(encoding="utf-8"))
    decisions = saved["findings"][0]["rows"][0]["decisions"]
    table = pl.read_parquet(run / "predictions.parquet", glob=False).filter(arm="probe")
    said = table["probability"].arr.arg_max()
    expected = [[int(((table["y_true"] == true) & (said == one)).sum()) for one in range(3)] for true in range(3)]
    assert decisions["counts"] == expected
    assert [rates["name"] for rates in decisions["rates"]] == ["adenosis", "ductal", "mucinous"]
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "tells 3 classes apart" in result.out
    assert "Decisions" not in result.out, "a run ends with one small table"
    _, told = table_of(histotune, run, home)
    for words in ("Decisions, tiles", "Sensitivity", "Specificity", "the most probable class is said"):
        assert words in page
        assert words in " ".join(told.split())
    assert "said ductal" in told and "Decisions, tiles LEAKY" in told
    latex = tmp_path / "tables.tex"
    assert histotune("report", run, "--latex", latex).code == 0
    assert "said ductal" in latex.read_text(encoding="utf-8")


def test_a_tile_far_outside_of_training_is_named(histotune: Histotune, tmp_path: Path) -> None:
    home = write_cohort(tmp_path / "home", ("benign", "malignant"))
    head = swept(histotune, home, tmp_path / "head")
    abroad = write_cohort(tmp_path / "abroad", ("benign", "malignant"), 1, "h")
    Image.new("RGB", (32, 24), (0, 255, 0)).save(abroad.parent / "0_0_0.png")
    _, told = table_of(histotune, head, abroad)
    assert "1 of 30 scored tiles lies far outside of what trained this head" in told and "(0_0_0.png)" in told
    predicted = histotune("predict", head, abroad.parent / "0_0_0.png")
    assert predicted.code == 0 and "far outside" in predicted.err
