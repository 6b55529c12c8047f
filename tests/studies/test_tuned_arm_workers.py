"""Processes that share the state of a fine-tuning: each leaves by itself, and the last one removes what they shared."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from histotune.finetune.config import FinetuneConfig
from histotune.studies.config import ExperimentConfig
from histotune.studies.tuned_arm import tuning_worker
from histotune.tools.files import is_locked
from tests.finetune.test_search import slow

REPOSITORY = Path(__file__).parents[2]
SEARCH = {"n_trials": 8, "space": {"lr": [1e-4, 1e-2]}}
STATE = Path("cache/finetune/state")


def config_of(out: str = "run") -> ExperimentConfig:
    finetune = FinetuneConfig.model_validate({"search": SEARCH})
    return ExperimentConfig(
        recipe="tiles", finetune=finetune, cache=Path("cache"), ledger=Path("ledger"), out=Path(out)
    )


def worker(name: str) -> None:
    """Search, tell the trials, wait to be let go, and leave: what a run does, without its tiles."""
    from histotune.finetune.search import SearchPlace, TrialSearch

    config = config_of(name)
    assert config.finetune is not None and config.finetune.search is not None
    with tuning_worker(config) as own:
        Path(f"{name}.here").touch()
        wait_for(Path(f"{name}.go"))
        place = SearchPlace(STATE / "search", "all", 2)
        trials = TrialSearch(config.finetune, config.finetune.search, place).run(slow)
        Path(f"{name}.trials").write_text(repr(trials), encoding="utf-8")
        wait_for(Path(f"{name}.leave"))
        own.forget(STATE)


def started(folder: Path, name: str, dies: str = "0") -> subprocess.Popen[str]:
    places = os.pathsep.join([str(REPOSITORY / "src"), str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    code = f"from tests.studies.test_tuned_arm_workers import worker; worker({name!r})"
    return subprocess.Popen([sys.executable, "-c", code], cwd=folder, text=True, stderr=subprocess.PIPE,
                            env={**os.environ, "PYTHONPATH": places, "DIES": dies})  # fmt: skip


def wait_for(path: Path, timeout_s: float = 240.0) -> None:
    end = time.monotonic() + timeout_s
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.05)


def test_the_last_process_removes_the_state_whoever_ends_first_or_is_killed(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    state, workers = tmp_path / STATE, tmp_path / "cache" / "finetune" / "workers"
    killed, first, last = started(tmp_path, "killed", dies="1"), started(tmp_path, "first"), started(tmp_path, "last")
    for name in ("killed", "first", "last"):  # nobody searches before all have come
        wait_for(tmp_path / f"{name}.here")
    (tmp_path / "killed.go").touch()
    killed.communicate(timeout=240)
    assert killed.returncode == 9
    for name in ("first", "last"):
        (tmp_path / f"{name}.go").touch()
    (tmp_path / "first.leave").touch()
    said = first.communicate(timeout=240)[1]
    assert first.returncode == 0, said
    wait_for(tmp_path / "last.trials")
    assert (state / "search" / "all.journal").is_file()  # the other is at work on it
    assert sum(is_locked(path) for path in workers.glob("*/*.lock")) == 1
    (tmp_path / "last.leave").touch()
    said = last.communicate(timeout=240)[1]
    assert last.returncode == 0, said
    assert not state.exists() and not list(workers.glob("*/*.lock"))
    one, other = ((tmp_path / f"{name}.trials").read_text(encoding="utf-8") for name in ("first", "last"))
    assert one == other and one.count("SearchedTrial(") == 8
    lines = [line.split() for line in (tmp_path / "attempts.txt").read_text(encoding="utf-8").splitlines()]
    asked = [rate for pid, rate in lines if pid != str(killed.pid)]
    assert len(asked) == len(set(asked)) == 8  # every trial once, that of the killed process among them


def test_a_state_that_only_killed_processes_worked_on_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with tuning_worker(config_of()) as own:
        assert own.path is not None
        (own.path.parent / "killed.lock").touch()  # nobody holds it
        STATE.mkdir(parents=True)
        own.forget(STATE)
    assert not STATE.exists() and not list(Path("cache/finetune/workers").glob("*/*.lock"))


def test_run_folders_share_a_state_and_other_choices_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    other = config_of().model_copy(update={"finetune": FinetuneConfig()})
    with tuning_worker(config_of("a")) as one, tuning_worker(config_of("b")) as two, tuning_worker(other) as apart:
        assert one.path is not None and two.path is not None and apart.path is not None
        assert one.path.parent == two.path.parent != apart.path.parent
        STATE.mkdir(parents=True)
        one.forget(STATE)
        assert STATE.exists()
        apart.forget(STATE / "other")
    with tuning_worker(config_of().model_copy(update={"finetune": None})) as none:
        none.forget(STATE)
    assert none.path is None and STATE.exists()
