"""The command line as a user types it: results, and one clear message for every mistake."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import polars as pl
import pytest
from PIL import Image

from histotune.images import hashes
from histotune.images.content_index import FileState
from tests.conftest import CommandResult, write_breakhis

Histotune = Callable[..., CommandResult]
QUICK = ("--set", "sweep.penalties=[0.01,1]", "--set", "sweep.folds=3", "--set", "evaluation.outer_folds=3",
         "--set", 'evaluation.floors=["majority","untuned"]', "--set", "interval.n_resamples=200",
         "--set", "evaluation.untuned_draws=20", "--backbone", "colour-histogram")  # fmt: skip


def run_breakhis(histotune: Histotune, data: Path, out: Path, *more: object) -> CommandResult:
    return histotune("run", "breakhis", "--data", data, "--train-magnification", "100X", "--out", out, *QUICK, *more)


def assert_clear(result: CommandResult, *words: str) -> None:
    """One message, no traceback, exit code 2."""
    assert result.code == 2, result
    assert result.err.count("error:") == 1
    assert "Traceback" not in result.err
    for word in words:
        assert word in result.err, f"{word!r} not in {result.err!r}"


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom histotune.cli.main import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        "heavy = {'torch', 'numpy', 'pyarrow', 'matplotlib', 'polars', 'pydantic', 'sklearn', 'scipy'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_command_has_help(histotune: Histotune) -> None:
    listed = histotune("--help").out
    for command in ("demo", "run", "embed", "sweep", "evaluate", "predict", "report", "data", "config", "doctor"):
        assert command in listed
        assert histotune(command, "--help").code == 0


def test_run_writes_a_whole_run_folder(histotune: Histotune, breakhis: Path, pcam: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = run_breakhis(histotune, breakhis, out, "--pcam", pcam)
    assert result.code == 0, result.err
    for name in ("report.html", "scores.json", "predictions.parquet", "trials.parquet", "provenance.json",
                 "config.json", "head/head.json", "head-direct/head.json"):  # fmt: skip
        assert (out / name).is_file(), name
    scores = json.loads((out / "scores.json").read_text())
    ids = [finding["id"] for finding in scores["findings"]]
    assert ids == ["in-domain", "cross-magnification", "leak-price", "external", "direct"]
    assert all(
        score["n_tiles"] > 0 and score["n_groups"] > 0
        for finding in scores["findings"] for row in finding["rows"] for score in row["scores"]
    )  # fmt: skip
    assert "report:" in result.out
    assert "scored once under 1 choice" in result.out
    domains = {row["domain"] for row in scores["findings"][3]["rows"]}
    assert domains == {"patch_camelyon valid"}, "the test part needs --final"


def test_final_scores_the_test_part_and_is_counted(histotune: Histotune, pcam: Path, tmp_path: Path) -> None:
    for times in ("once", "2 times"):
        result = histotune("run", "pcam", "--data", pcam, "--out", tmp_path / "run", "--final", *QUICK)
        assert result.code == 0, result.err
        assert f"patch_camelyon test: scored {times} under 1 choice" in result.out


def test_scores_are_byte_identical_on_rerun_and_from_a_cold_cache(
    histotune: Histotune, breakhis: Path, tmp_path: Path
) -> None:
    run_breakhis(histotune, breakhis, tmp_path / "a", "--cache", tmp_path / "cache")
    warm = run_breakhis(histotune, breakhis, tmp_path / "b", "--cache", tmp_path / "cache")
    run_breakhis(histotune, breakhis, tmp_path / "c", "--cache", tmp_path / "other")
    first, second, third = ((tmp_path / name / "scores.json").read_bytes() for name in "abc")
    assert first == second == third
    assert "no forward pass" in warm.out


def test_scores_hold_no_time_path_host_or_version(histotune: Histotune, breakhis: Path, tmp_path: Path) -> None:
    run_breakhis(histotune, breakhis, tmp_path / "run")
    text = (tmp_path / "run" / "scores.json").read_text()
    assert str(tmp_path) not in text
    assert not re.search(r"20\d\d-\d\d-\d\d", text)
    for word in (os.uname().nodename, "torch", "numpy"):
        assert word not in text


def test_run_from_repeats_a_run(histotune: Histotune, breakhis: Path, tmp_path: Path) -> None:
    run_breakhis(histotune, breakhis, tmp_path / "a")
    again = histotune("run", "--from", tmp_path / "a", "--out", tmp_path / "b")
    assert again.code == 0, again.err
    assert (tmp_path / "a/scores.json").read_bytes() == (tmp_path / "b/scores.json").read_bytes()


def test_report_is_drawn_again_from_its_folder(histotune: Histotune, breakhis: Path, tmp_path: Path) -> None:
    run_breakhis(histotune, breakhis, tmp_path / "run")
    before = (tmp_path / "run/report.html").read_text()
    assert histotune("report", tmp_path / "run", "--out", tmp_path / "again.html").code == 0
    # The stage "report" can only be timed once the page is drawn, so it is missing from the first page.
    without_times = [re.sub(r"(?s)<section id=\"reproduce\".*", "", page) for page in
                     (before, (tmp_path / "again.html").read_text())]  # fmt: skip
    assert without_times[0] == without_times[1]


def test_embed_then_nothing_left_to_do(histotune: Histotune, breakhis: Path) -> None:
    first = histotune("embed", "breakhis", "--data", breakhis, "--backbone", "colour-histogram")
    second = histotune("embed", "breakhis", "--data", breakhis, "--backbone", "colour-histogram")
    assert "72 computed" in first.out
    assert "0 computed, 72 from the cache" in second.out
    assert "no forward pass was needed" in second.out


@pytest.mark.parametrize("family", ["logistic", "ridge"])
def test_sweep_evaluate_and_predict(
    histotune: Histotune, breakhis: Path, pcam: Path, tmp_path: Path, family: str
) -> None:
    head, quick = tmp_path / "head", ("--set", "sweep.penalties=[0.1,1]", "--set", "sweep.folds=3")
    quick += ("--set", f"sweep.family={family}")
    swept = histotune("sweep", "breakhis", "--data", breakhis, "--train-magnification", "100X", "--backbone",
                      "colour-histogram", "--out", head, *quick)  # fmt: skip
    assert swept.code == 0, swept.err
    assert "optimistic" in swept.out
    own = histotune("evaluate", head, "breakhis", "--data", breakhis)
    assert own.code == 0, own.err
    assert "LEAKY" in own.out
    other = histotune("evaluate", head, "pcam", "--data", pcam)
    assert other.code == 0, other.err
    assert "LEAKY" not in other.out
    table = tmp_path / "table.parquet"
    done = histotune("predict", head, breakhis, "--out", table)
    assert done.code == 0, done.err
    predictions = pl.read_parquet(table)
    columns = ["path", "predicted", "probability_benign", "probability_malignant", "threshold", "decision"]
    assert predictions.columns[:6] == columns
    assert predictions.height == 72
    assert predictions.select(pl.sum_horizontal(pl.col("^probability_.*$"))).to_series().to_numpy() == pytest.approx(1)


def test_predict_equals_the_heads_own_probabilities(histotune: Histotune, breakhis: Path, tmp_path: Path) -> None:
    """A head applied by `evaluate` and by `predict` says the same of the same image."""
    head = tmp_path / "head"
    histotune("sweep", "breakhis", "--data", breakhis, "--train-magnification", "100X", "--backbone",
              "colour-histogram", "--out", head)  # fmt: skip
    one = next(breakhis.rglob("*100-001.png"))
    alone = histotune("predict", head, one).out.splitlines()[1]
    among = next(line for line in histotune("predict", head, breakhis).out.splitlines() if str(one) in line)
    assert alone == among


def test_missing_folder(histotune: Histotune, tmp_path: Path) -> None:
    assert_clear(run_breakhis(histotune, tmp_path / "nowhere", tmp_path / "run"), "nowhere")
    assert not (tmp_path / "run").exists()


def test_empty_folder(histotune: Histotune, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert_clear(run_breakhis(histotune, tmp_path / "empty", tmp_path / "run"), "empty")


def test_not_breakhis(histotune: Histotune, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    Image.new("RGB", (10, 10)).save(tmp_path / "data/cat.png")
    assert_clear(run_breakhis(histotune, tmp_path / "data", tmp_path / "run"), "SOB_")


def test_truncated_png(histotune: Histotune, breakhis: Path, tmp_path: Path) -> None:
    victim = next(breakhis.rglob("*100-002.png"))
    victim.write_bytes(victim.read_bytes()[:200])
    assert_clear(run_breakhis(histotune, breakhis, tmp_path / "run"), victim.name)
    assert not (tmp_path / "run").exists()


def test_hdf5_of_different_lengths(histotune: Histotune, pcam: Path, tmp_path: Path) -> None:
    with h5py.File(pcam / "camelyonpatch_level_2_split_train_y.h5", "w") as file:
        file["y"] = np.zeros((7, 1, 1, 1), np.uint8)
    result = histotune("run", "pcam", "--data", pcam, "--out", tmp_path / "run", *QUICK)
    assert_clear(result, "7", "40")


def test_unknown_backbone_names_the_closest(histotune: Histotune, breakhis: Path, tmp_path: Path) -> None:
    result = run_breakhis(histotune, breakhis, tmp_path / "run", "--backbone", "midnigth")
    assert_clear(result, "midnigth", "did you mean: midnight")


def test_one_class_only(histotune: Histotune, breakhis: Path, tmp_path: Path) -> None:
    only = breakhis / "BreaKHis_v1/histology_slides/breast/benign"
    assert_clear(run_breakhis(histotune, only, tmp_path / "run"), "two classes", "benign")


def test_fewer_groups_than_folds(histotune: Histotune, tmp_path: Path) -> None:
    data = write_breakhis(tmp_path / "few", n_per_class=1)
    assert_clear(run_breakhis(histotune, data, tmp_path / "run"), "groups", "fix:")


def test_unknown_set_field(histotune: Histotune, breakhis: Path, tmp_path: Path) -> None:
    result = run_breakhis(histotune, breakhis, tmp_path / "run", "--set", "sweep.penaltys=[1]")
    assert_clear(result, "sweep.penaltys", "did you mean: sweep.penalties")


def test_disk_full(histotune: Histotune, breakhis: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert_clear(run_breakhis(histotune, breakhis, tmp_path / "run"), "disk is full", "fix:")
    assert not (tmp_path / "run").exists()
    assert not list(tmp_path.glob("**/*.partial"))


def test_read_only_output(
    histotune: Histotune, breakhis: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = tmp_path / "locked"
    locked.mkdir()
    real = Path.mkdir

    def refuse(self: Path, *arguments: object, **options: object) -> None:
        if locked in self.parents:
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        real(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert_clear(run_breakhis(histotune, breakhis, locked / "run"), "can't be written", "fix:")


def test_a_folder_of_other_files_is_never_replaced(histotune: Histotune, breakhis: Path, tmp_path: Path) -> None:
    out = tmp_path / "thesis"
    out.mkdir()
    (out / "chapter.txt").write_text("irreplaceable", encoding="utf-8")
    assert_clear(run_breakhis(histotune, breakhis, out), "other files")
    assert (out / "chapter.txt").read_text() == "irreplaceable"


def test_debug_shows_the_traceback(histotune: Histotune, tmp_path: Path) -> None:
    from histotune.tools.errors import UserError

    with pytest.raises(UserError):
        histotune("--debug", "run", "breakhis", "--data", tmp_path / "nowhere")


def test_config_show_prints_every_field(histotune: Histotune) -> None:
    shown = json.loads(histotune("config", "show", "breakhis", "--set", "sweep.folds=3").out)
    assert shown["sweep"]["folds"] == 3
    assert shown["interval"]["n_resamples"] == 2000


def test_describe_says_what_is_there(histotune: Histotune, breakhis: Path) -> None:
    result = histotune("data", "describe", "breakhis", "--data", breakhis)
    assert result.code == 0, result.err
    for word in ("72", "12", "100X", "400X", "benign", "malignant", "estimated"):
        assert word in result.out


def test_bad_images_stop_a_run_or_are_left_out_and_counted(
    histotune: Histotune, breakhis: Path, tmp_path: Path
) -> None:
    images = sorted(breakhis.rglob("*-100-*.png"))
    images[0].write_bytes(images[0].read_bytes()[:-700])  # a truncated image: only decoding tells
    images[5].write_bytes(b"")  # no header: listing tells
    assert_clear(run_breakhis(histotune, breakhis, tmp_path / "run"), images[5].name, "--on-bad-image skip")
    assert not (tmp_path / "run").exists()
    run = run_breakhis(histotune, breakhis, tmp_path / "run", "--on-bad-image", "skip")
    assert run.code == 0, run.err
    scores = json.loads((tmp_path / "run" / "scores.json").read_text(encoding="utf-8"))
    assert scores["datasets"][0]["n_skipped"] == 2
    assert scores["datasets"][0]["n_tiles"] == 70
    assert all("2 SKIPPED" in row["marks"] for finding in scores["findings"] for row in finding["rows"])
    notes = " ".join(scores["datasets"][0]["notes"])
    assert images[0].stem in notes and images[5].name in notes
    assert "2 SKIPPED" in run.out
    assert "2 SKIPPED" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


def test_an_unknown_way_with_bad_images(histotune: Histotune, breakhis: Path, tmp_path: Path) -> None:
    result = run_breakhis(histotune, breakhis, tmp_path / "run", "--on-bad-image", "skipp")
    assert_clear(result, "fail or skip", "did you mean: skip")


def test_predict_leaves_bad_images_without_a_prediction(histotune: Histotune, breakhis: Path, tmp_path: Path) -> None:
    assert run_breakhis(histotune, breakhis, tmp_path / "run").code == 0
    images = sorted(breakhis.rglob("*.png"))[:3]
    images[1].write_bytes(b"broken")
    table = tmp_path / "table.csv"
    assert_clear(histotune("predict", tmp_path / "run", *images, "--out", table), images[1].name)
    assert not table.exists()
    done = histotune("predict", tmp_path / "run", *images, "--out", table, "--on-bad-image", "skip")
    assert done.code == 0, done.err
    predicted = pl.read_csv(table)["predicted"].to_list()
    assert [value is None for value in predicted] == [False, True, False]


def test_sweep_and_evaluate_leave_bad_images_out(histotune: Histotune, breakhis: Path, tmp_path: Path) -> None:
    image = sorted(breakhis.rglob("*-100-*.png"))[3]
    image.write_bytes(image.read_bytes()[:-700])
    quick = ("--set", "sweep.folds=3", "--on-bad-image", "skip")
    swept = histotune("sweep", "breakhis", "--data", breakhis, "--train-magnification", "100X", "--backbone",
                      "colour-histogram", "--out", tmp_path / "head", *quick)  # fmt: skip
    assert swept.code == 0, swept.err
    assert "35 tiles of 12 cases" in swept.out
    scored = histotune("evaluate", tmp_path / "head", "breakhis", "--data", breakhis, "--on-bad-image", "skip")
    assert scored.code == 0, scored.err
    assert "1 SKIPPED" in scored.out


def test_a_file_changed_without_a_trace_is_embedded_again_with_rehash(
    histotune: Histotune, breakhis: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FileState, "of", classmethod(lambda cls, path, status: cls(path, 1, 1, 1, 1)))
    monkeypatch.setattr(hashes, "FRESH_NS", 0)  # files of this test are old enough
    embed = ("embed", "breakhis", "--data", breakhis, "--backbone", "colour-histogram", "--cache", tmp_path / "cache")
    assert "72 computed" in histotune(*embed).out
    first, second = sorted(breakhis.rglob("*.png"))[:2]
    first.write_bytes(second.read_bytes())
    assert "no forward pass was needed" in histotune(*embed).out
    Image.new("RGB", Image.open(second).size, (200, 90, 160)).save(first)
    assert "1 computed" in histotune(*embed, "--rehash").out
