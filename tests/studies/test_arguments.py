"""A run that is repeated from somebody's folder writes and uploads where you say, not where the folder says."""

from __future__ import annotations

from pathlib import Path

import pytest

from histotune.datasets.config import DatasetConfig
from histotune.datasets.synthetic.cohort import SyntheticConfig
from histotune.studies.arguments import build_config
from histotune.studies.config import ExperimentConfig, TrackingConfig
from histotune.tools.files import user_dir, write_json


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the test a cache and a ledger of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own-cache"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "own-state"))


def strangers(folder: Path, **fields: object) -> Path:
    """Write the folder of a stranger's run."""
    config = ExperimentConfig(recipe="tiles", source=DatasetConfig(name="tiles", path=Path("tiles.csv")), **fields)  # type: ignore[arg-type]
    folder.mkdir()
    write_json(folder / "config.json", config.model_dump(mode="json"))
    return folder


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_neither_uploads_nor_a_ledger_nor_a_cache_are_taken_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: str
) -> None:
    tracking = TrackingConfig(wandb=mode, wandb_project="theirs", wandb_entity="them")  # type: ignore[arg-type]
    run = strangers(tmp_path / "run", tracking=tracking, ledger=tmp_path / "theirs", cache=tmp_path / "c")
    caplog.clear()
    config = build_config(None, from_run=run)
    assert config.tracking == TrackingConfig()
    assert (config.ledger, config.cache) == (user_dir("state"), user_dir("cache"))
    said = [record.getMessage() for record in caplog.records if "not taken over" in record.getMessage()]
    assert len(said) == 1 and "W&B" in said[0] and str(tmp_path / "theirs") in said[0] and "--set" in said[0]


def test_what_is_asked_for_is_taken(tmp_path: Path) -> None:
    run = strangers(tmp_path / "run", tracking=TrackingConfig(wandb="online", wandb_entity="them"))
    asked = {"wandb": "offline", "cache": tmp_path / "mine", "settings": [f"ledger={tmp_path / 'ledger'}"]}
    config = build_config(None, from_run=run, **asked)
    assert (config.tracking.wandb, config.tracking.wandb_entity) == ("offline", None)
    assert (config.cache, config.ledger) == (tmp_path / "mine", tmp_path / "ledger")


def test_nothing_is_said_where_nothing_differs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = strangers(tmp_path / "run")
    config = build_config(None, from_run=run)
    assert config.source is not None and config.source.path == Path("tiles.csv")
    assert "not taken over" not in caplog.text


def test_a_synthetic_cohort_is_written_below_your_own_cache(tmp_path: Path) -> None:
    run = strangers(tmp_path / "run", cohort=SyntheticConfig(), cohort_path=tmp_path / "somewhere")
    config = build_config(None, from_run=run)
    assert config.cohort_path == user_dir("cache") / "synthetic"
    assert config.source is not None and config.source.path == config.cohort_path / "breakhis"
