"""`histotune export` and `histotune push` as a user types them: whole folders or none, one message or a result."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from histotune.deploy.folded_head import FoldedHead, fold_head
from histotune.heads.head import Head
from tests.conftest import CommandResult, write_breakhis

Histotune = Callable[..., CommandResult]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished run on made-up tiles."""
    import histotune as ht

    folder = tmp_path_factory.mktemp("run")
    data = write_breakhis(folder / "data", magnifications=(100,))
    settings = {"sweep.penalties": [0.01, 1], "sweep.folds": 2, "evaluation.outer_folds": 3,
                "interval.n_resamples": 200, "evaluation.floors": ["majority"], "backbone.name": "lite0"}  # fmt: skip
    ht.run("breakhis", data=data, train_magnification="100X", out=folder / "run", cache=folder / "cache", set=settings)
    return folder / "run"


def names_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_run_is_exported_with_its_scores(histotune: Histotune, run_folder: Path, tmp_path: Path) -> None:
    done = histotune("export", run_folder, "--format", "transformers", "--out", tmp_path / "out")
    assert done.code == 0, done.err
    assert "opened again: probabilities differ from the head's by at most" in done.out
    files = {"README.md", "NOTICE.txt", "config.json", "model.safetensors", "histotune_export.json"}
    assert names_in(tmp_path / "out") == files
    card = ModelCard.load(tmp_path / "out" / "README.md")
    metrics = {result.metric_type: result for result in card.data.eval_results}
    assert "auroc" in metrics and metrics["auroc"].metric_args["n_groups"] == 12
    scores = json.loads((run_folder / "scores.json").read_text(encoding="utf-8"))
    (probe,) = [row for row in scores["findings"][0]["rows"] if row["arm"] == "probe"]
    stated = {score["name"]: score["value"] for score in probe["scores"]}
    assert metrics["auroc"].metric_value == pytest.approx(stated["auroc"], abs=1e-6)
    assert str(run_folder.parent) not in "".join(
        (tmp_path / "out" / name).read_text(encoding="utf-8") for name in files - {"model.safetensors"}
    )
    shown = histotune("push", tmp_path / "out", "me/head")
    assert shown.code == 0 and "model.safetensors" in shown.out and "Apache-2.0" in shown.out


def test_a_head_folder_inside_a_run_has_its_scores_too(histotune: Histotune, run_folder: Path, tmp_path: Path) -> None:
    done = histotune("export", run_folder / "head", "--format", "folder", "--head-only", "--out", tmp_path / "out")
    assert done.code == 0, done.err
    assert ModelCard.load(tmp_path / "out" / "README.md").data.eval_results
    assert not any(name.startswith("backbone/") for name in names_in(tmp_path / "out"))


def test_an_earlier_export_is_replaced_when_that_is_said_and_nothing_else_ever(
    histotune: Histotune, run_folder: Path, tmp_path: Path
) -> None:
    command = ("export", run_folder, "--format", "folder", "--head-only", "--out", tmp_path / "out")
    assert histotune(*command).code == 0
    again = histotune(*command)
    assert again.code == 2 and "an earlier export lies there" in again.err and "--overwrite" in again.err
    assert histotune(*command, "--overwrite").code == 0
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine", encoding="utf-8")
    other = histotune(*command[:-1], tmp_path / "other", "--overwrite")
    assert other.code == 2 and "not replaced" in other.err
    assert (tmp_path / "other" / "thesis.txt").read_text(encoding="utf-8") == "mine"
    head = histotune(*command[:-1], run_folder / "head", "--overwrite")
    assert head.code == 2 and (run_folder / "head" / "head.safetensors").is_file()


def test_an_export_that_fails_half_way_leaves_nothing(
    histotune: Histotune, run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("export", run_folder, "--format", "folder", "--out", tmp_path / "out")
    assert histotune(*command, "--head-only").code == 0
    before = names_in(tmp_path / "out")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("histotune.deploy.card.write_card", full)
    failed = histotune(*command, "--overwrite")
    assert failed.code == 2 and "the disk is full" in failed.err
    assert names_in(tmp_path / "out") == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".out")] == []


@pytest.mark.parametrize("options", [("transformers",), ("folder",), ("wsinfer", "--tile-px", "96", "--mpp", "0.5")])
def test_files_that_say_something_else_are_not_kept(
    histotune: Histotune, run_folder: Path, tmp_path: Path, options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_calibration(head: Head, total_dim: int) -> FoldedHead:
        folded = fold_head(head, total_dim)
        return replace(folded, weight_KD=folded.weight_KD * 1.1)

    monkeypatch.setattr("histotune.deploy.export.fold_head", without_calibration)
    done = histotune("export", run_folder, "--format", *options, "--out", tmp_path / "out")
    assert done.code == 2 and "say something else than the head" in done.err
    assert not (tmp_path / "out").exists()


def test_a_processor_that_sees_something_else_is_refused(
    histotune: Histotune, run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from histotune.deploy import export_transformers

    real = export_transformers.timm_view
    monkeypatch.setattr(export_transformers, "timm_view", lambda job: {**real(job), "interpolation": "nearest"})
    done = histotune("export", run_folder, "--format", "transformers", "--out", tmp_path / "out")
    assert done.code == 2 and "does not see what this head's view shows" in done.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--format", "onxx"), "did you mean: onnx?"),
        (("--format", "onnx", "--head-only"), "no place for a head alone"),
        (("--format", "wsinfer", "--tile-px", "96"), "--mpp 0.972"),
        (("--format", "wsinfer", "--tile-px", "0", "--mpp", "0.5"), "14 to 8192 px"),
        (("--format", "onnx", "--mpp", "nan"), "no image has this scale"),
    ],
)
def test_mistakes_are_one_message(
    histotune: Histotune, run_folder: Path, tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    done = histotune("export", run_folder, *options, "--out", tmp_path / "out")
    assert done.code == 2 and words in done.err and "Traceback" not in done.err
    assert not (tmp_path / "out").exists()


def test_a_folder_without_a_head_is_one_message(histotune: Histotune, tmp_path: Path) -> None:
    done = histotune("export", tmp_path, "--format", "onnx", "--out", tmp_path / "out")
    assert done.code == 2 and "no head in this folder" in done.err


@pytest.mark.parametrize("command", ["export", "push"])
def test_help_shows_an_example(histotune: Histotune, command: str) -> None:
    done = histotune(command, "--help")
    assert done.code == 0 and f"histotune {command} " in done.out
