"""Commands leave every trial in the table, plots beside the head, and a W&B run only where it is asked for."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import polars as pl
import pytest

from histotune.cli.studies import with_wandb_mode
from histotune.studies.tracking import read_trials, record_trials, trials_folder
from tests.cli.test_run import assert_clear, run_breakhis
from tests.conftest import CommandResult

Histotune = Callable[..., CommandResult]


def sweep_breakhis(histotune: Histotune, data: Path, out: Path, *more: object) -> CommandResult:
    return histotune("sweep", "breakhis", "--data", data, "--train-magnification", "100X", "--out", out, "--backbone",
                     "colour-histogram", "--set", "sweep.penalties=[0.01,1]", "--set", "sweep.folds=3",
                     *more)  # fmt: skip


def test_a_sweep_is_recorded_and_its_plot_opens_by_itself(histotune: Histotune, breakhis: Path, tmp_path: Path) -> None:
    for number in range(2):
        done = sweep_breakhis(histotune, breakhis, tmp_path / f"head{number}", "--set",
                              'sweep.class_weights=["none","balanced"]')  # fmt: skip
        assert done.code == 0, done.err
    table = read_trials(tmp_path / "xdg-state" / "histotune")
    assert len(table) == 8
    assert table["run_id"].n_unique() == 2
    assert table["chosen"].sum() == 2
    kept = pl.read_parquet(tmp_path / "head0" / "trials.parquet")
    assert table.filter(table["folder"] == str(tmp_path / "head0"))["score"].to_list() == kept["log_loss"].to_list()
    assert "optimistic" in done.out and "classes" not in done.err
    root = ElementTree.fromstring((tmp_path / "head0" / "plots" / "penalty.svg").read_text(encoding="utf-8"))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    texts = {one.text for one in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"pooled, classes as they are", "pooled, classes balanced"} <= texts or len(
        [text for text in texts if text and "classes" in text]
    ) == 2  # a line per weighting, named in the key
    listed = histotune("trials", "--backbone", "colour-histogram", "--top", 3)
    assert listed.code == 0, listed.err
    assert "8 trials of 2 runs" in listed.out and listed.out.count("chosen, optimistic") == 2
    assert_clear(histotune("trials", "--backbone", "colour-histogran"), "did you mean: colour-histogram")


def test_a_run_records_the_floors_and_the_outer_folds_too(histotune: Histotune, breakhis: Path, tmp_path: Path) -> None:
    done = run_breakhis(histotune, breakhis, tmp_path / "run")
    assert done.code == 0, done.err
    table = read_trials(tmp_path / "xdg-state" / "histotune")
    assert set(table["training_set"]) == {"all", "outer fold 0", "outer fold 1", "outer fold 2"}
    assert set(table["arm"]) == {"probe", "probe, random image split"}
    assert table.group_by("arm", "training_set").agg(pl.col("chosen").sum())["chosen"].to_list() == [1] * 8
    assert len(table) == 2 * 8
    assert (table["split_hash"].str.len_chars() > 0).all()
    assert (tmp_path / "run" / "plots" / "penalty.svg").is_file()
    again = run_breakhis(histotune, breakhis, tmp_path / "again")
    assert again.code == 0
    assert (tmp_path / "run/scores.json").read_bytes() == (tmp_path / "again/scores.json").read_bytes()


def test_no_sweep_yet_says_so(histotune: Histotune) -> None:
    assert "no sweep has been recorded" in histotune("trials").out


@pytest.mark.parametrize("mode", [[], ["online"]])
def test_wandb_without_the_package_stops_before_anything_is_done(
    histotune: Histotune, breakhis: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: list[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "wandb" else find(name, *more))
    done = sweep_breakhis(histotune, breakhis, tmp_path / "head", "--wandb", *mode)
    assert_clear(done, 'pip install "histotune[wandb]"')
    assert not (tmp_path / "head").exists()


def test_wandb_alone_means_offline() -> None:
    assert with_wandb_mode(["histotune", "run", "--wandb"]) == ["histotune", "run", "--wandb", "offline"]
    assert with_wandb_mode(["x", "--wandb", "--out", "y"]) == ["x", "--wandb", "offline", "--out", "y"]
    assert with_wandb_mode(["x", "--wandb", "online", "y"]) == ["x", "--wandb", "online", "y"]
    assert with_wandb_mode(["x", "y"]) == ["x", "y"]


def test_a_sweep_on_wandb_stays_offline(histotune: Histotune, breakhis: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec("wandb") is None:
        pytest.skip('wandb is not installed: pip install "histotune[wandb]"')
    done = sweep_breakhis(histotune, breakhis, tmp_path / "head", "--wandb")
    assert done.code == 0, done.err
    assert "nothing was uploaded" in done.out
    assert len(list((tmp_path / "xdg-state/histotune/wandb").glob("offline-run-*/*.wandb"))) == 1


def test_curves_follow_what_a_family_varies() -> None:
    from types import SimpleNamespace

    import numpy as np

    from histotune.studies.tracking import _curves, refit_curves

    solved = pl.DataFrame({"pooling": ["cls"] * 3, "penalty": [1.0, 0.1, 10.0], "log_loss": [0.5, None, 0.7]})
    (curve,) = _curves("breakhis 100X", solved)
    assert (curve.x_name, curve.points) == ("penalty", ((1.0, 0.5), (10.0, 0.7)))
    trained = pl.DataFrame(
        {"pooling": ["cls"] * 3, "penalty": [0.0] * 3, "lr": [1e-3, 1e-4, 1e-2], "optimizer": ["adam", "adam", "sgd"],
         "log_loss": [0.5, 0.6, float("nan")]}  # the last diverged
    )  # fmt: skip
    adam, sgd = _curves("breakhis 100X", trained)
    assert (adam.name, adam.x_name, adam.points) == ("breakhis 100X: cls, adam", "lr", ((1e-4, 0.6), (1e-3, 0.5)))
    assert sgd.points == ()
    chosen = SimpleNamespace(refit_loss_E=np.array([0.9, 0.4, np.nan]))
    (loss,) = refit_curves("breakhis 100X", chosen)  # type: ignore[arg-type]
    assert loss.points == ((1.0, 0.9), (2.0, 0.4))
    assert refit_curves("breakhis 100X", SimpleNamespace(refit_loss_E=None)) == ()  # type: ignore[arg-type]


def test_what_killed_runs_left_in_the_table_goes_with_the_next_run(tmp_path: Path) -> None:
    folder = trials_folder(tmp_path)
    folder.mkdir(parents=True)
    (folder / ".20261130T114058-c31d9dfe.parquet.t3__myxn.partial").write_bytes(b"half")
    (folder / ".mine.partial").write_bytes(b"kept")
    record_trials(tmp_path, pl.DataFrame({"run_id": ["later"], "diverged": [False], "score": [0.5]}))
    hidden, kept = sorted(path.name for path in folder.iterdir())
    assert hidden == ".mine.partial"
    assert re.fullmatch(r"later\.[0-9a-f]{16}\.parquet", kept)
