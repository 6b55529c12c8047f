"""Trials see the tuning groups alone, are never run twice, stop early where hopeless, and are shared by processes."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from histotune.finetune import kept_training
from histotune.finetune.candidates import EpochWatcher, TrialStoppedError
from histotune.finetune.config import FinetuneConfig, LoopConfig, TrialSettings
from histotune.finetune.loop import NonFiniteLossError, Trained, TrainingTask, train
from histotune.finetune.search import EpochReporter, SearchedTrial, SearchPlace, TrialSearch, require_search
from histotune.finetune.tuning import tune_set
from histotune.finetune.workbench import TunedTiles
from histotune.tools.errors import UserError
from tests.finetune.tuning_tiles import all_of, bench_of, request_of, seen, write_groups

pytest.importorskip("optuna")
REPOSITORY = Path(__file__).parents[2]
N_EPOCHS = 4


class KilledError(BaseException):
    """Stands for SIGKILL."""


class Attempts:
    """Stands for training: the loss falls with the epochs, and is least at a rate of 1e-3."""

    def __init__(self, n_parts: int = 2, killed_at: int = -1) -> None:
        self.n_parts, self.killed_at = n_parts, killed_at
        self.settings: list[TrialSettings] = []
        self.steps: list[tuple[int, int]] = []

    def __call__(self, settings: TrialSettings, watcher: EpochWatcher) -> float:
        self.settings.append(settings)
        if len(self.settings) - 1 == self.killed_at:
            raise KilledError
        if settings.lr > 2e-2:
            raise NonFiniteLossError("the loss is not finite")
        loss = abs(math.log10(settings.lr / 1e-3))
        for part in range(self.n_parts):
            for epoch in range(1, N_EPOCHS + 1):
                self.steps.append((part, epoch))
                watcher.epoch_done(part, epoch, loss + 1.0 / epoch + 0.1 * part)
        return loss + 1.0 / N_EPOCHS


def config_of(n_trials: int = 12, **search: object) -> FinetuneConfig:
    space = {"lr": [1e-6, 1e-1], "weight_decay": None}
    data = {"loop": {"epochs": N_EPOCHS, "lr": 1e-5}, "search": {"n_trials": n_trials, "space": space, **search}}
    return FinetuneConfig.model_validate(data)


def searched(
    attempt: Attempts, folder: Path | None = None, config: FinetuneConfig | None = None
) -> tuple[SearchedTrial, ...]:
    config = config or config_of()
    assert config.search is not None
    return TrialSearch(config, config.search, SearchPlace(folder, "all", attempt.n_parts)).run(attempt)


def rates(trials: tuple[SearchedTrial, ...]) -> list[float]:
    return [one.settings.lr for one in trials]


# ---- The search by itself ----


def test_the_first_trial_is_the_config_and_the_best_lies_where_it_should() -> None:
    attempt = Attempts()
    trials = searched(attempt, config=config_of(n_trials=30))
    assert len(trials) == len(attempt.settings) == 30 and len(set(rates(trials))) == 30
    assert trials[0].settings == TrialSettings.of(config_of())
    best = min((one for one in trials if one.end == "finished"), key=lambda one: one.loss)
    assert best.settings.lr == pytest.approx(1e-3, rel=1.0) and best.loss < 0.6


def test_a_search_follows_from_its_seed() -> None:
    one, same, other = (searched(Attempts(), config=config_of(seed=seed)) for seed in (1, 1, 2))
    assert repr(one) == repr(same) and rates(one)[1:] != rates(other)[1:]


def test_hopeless_trials_stop_early_and_keep_their_last_value() -> None:
    attempt = Attempts()
    trials = searched(attempt, config=config_of(n_trials=25, prune_after=2, unpruned=3))
    stopped = [one for one in trials if one.end == "stopped"]
    assert stopped and all(one.end == "finished" for one in trials[:3] if not math.isnan(one.loss))
    for one in stopped:
        whole = abs(math.log10(one.settings.lr / 1e-3))
        assert 2 <= one.epoch <= N_EPOCHS
        assert one.loss == pytest.approx(whole + 1.0 / one.epoch, abs=0.051)  # the mean of the parts so far
    finished = [one for one in trials if one.end == "finished"]
    assert len(attempt.steps) < 2 * N_EPOCHS * len(trials)
    assert min(one.loss for one in stopped) > min(one.loss for one in finished)
    never = searched(Attempts(), config=config_of(n_trials=25, prune_after=None))
    assert not [one for one in never if one.end == "stopped"]


class Doomed:
    """A trial of Optuna's that is hopeless from the first epoch on."""

    def __init__(self) -> None:
        self.reported: list[tuple[float, int]] = []

    def report(self, value: float, step: int) -> None:
        self.reported.append((value, step))

    def should_prune(self) -> bool:
        return True


def test_parts_follow_each_other_and_after_the_last_epoch_nothing_is_stopped() -> None:
    doomed = Doomed()
    reporter = EpochReporter(doomed, most_epochs=5, last=(1, 2))
    for part, epoch, loss in ((0, 1, 0.4), (0, 2, 0.2), (1, 1, 0.8)):
        with pytest.raises(TrialStoppedError):
            reporter.epoch_done(part, epoch, loss)
    reporter.epoch_done(1, 2, 0.6)
    assert doomed.reported == [(0.4, 1), (0.2, 2), (pytest.approx(0.6), 6), (pytest.approx(0.4), 7)]


def test_a_trial_that_diverges_is_one_trial_and_no_end_of_the_search() -> None:
    trials = searched(Attempts(), config=config_of(n_trials=30))
    diverged = [one for one in trials if one.end == "diverged"]
    assert diverged and all(one.settings.lr > 2e-2 and math.isnan(one.loss) for one in diverged)


@pytest.mark.parametrize("killed_at", [0, 1, 6, 11])
def test_a_search_that_was_killed_goes_on_as_if_nothing_had_been(killed_at: int, tmp_path: Path) -> None:
    whole = searched(Attempts())
    first = Attempts(killed_at=killed_at)
    with pytest.raises(KilledError):
        searched(first, tmp_path)
    rest = Attempts()
    assert repr(searched(rest, tmp_path)) == repr(whole)
    assert rest.settings[0] == first.settings[killed_at]  # asked again, first of all
    assert len(rest.settings) == 12 - killed_at
    nothing = Attempts()
    assert repr(searched(nothing, tmp_path)) == repr(whole) and not nothing.settings


def test_a_line_that_a_killed_process_left_unfinished_is_cut_off(tmp_path: Path) -> None:
    first = Attempts(killed_at=5)
    with pytest.raises(KilledError):
        searched(first, tmp_path)
    (journal,) = tmp_path.glob("*.journal")
    journal.write_bytes(journal.read_bytes() + b'{"op_code": 4, "wor')
    assert repr(searched(Attempts(), tmp_path)) == repr(searched(Attempts()))


def test_more_trials_go_on_where_fewer_ended(tmp_path: Path) -> None:
    few = searched(Attempts(), tmp_path, config_of(n_trials=6))
    more = Attempts()
    assert repr(searched(more, tmp_path)[:6]) == repr(few) and len(more.settings) == 6


def slow(settings: TrialSettings, watcher: EpochWatcher) -> float:
    """Take long enough for another process to take its share."""
    with Path("attempts.txt").open("a", encoding="utf-8") as file:
        file.write(f"{os.getpid()} {settings.lr}\n")
    if os.environ.get("DIES") == "1":
        os._exit(9)
    time.sleep(0.1)
    return Attempts()(settings, watcher)


def worker() -> None:
    """Work on the search of this folder, as a process of its own."""
    config = config_of(n_trials=16)
    assert config.search is not None
    trials = TrialSearch(config, config.search, SearchPlace(Path("state"), "all", 2)).run(slow)
    Path(f"{os.getpid()}.txt").write_text(repr(trials), encoding="utf-8")


def started(folder: Path, dies: str = "0") -> subprocess.Popen[str]:
    places = os.pathsep.join([str(REPOSITORY / "src"), str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    code = "from tests.finetune.test_search import worker; worker()"
    return subprocess.Popen([sys.executable, "-c", code], cwd=folder, text=True, stderr=subprocess.PIPE,
                            env={**os.environ, "PYTHONPATH": places, "DIES": dies})  # fmt: skip


def test_processes_share_one_search_and_one_that_dies_is_made_up_for(tmp_path: Path) -> None:
    dead = started(tmp_path, dies="1")
    dead.communicate()
    assert dead.returncode == 9
    both = [started(tmp_path), started(tmp_path)]
    said = [one.communicate(timeout=300)[1] for one in both]
    assert [one.returncode for one in both] == [0, 0], said
    lines = [line.split() for line in (tmp_path / "attempts.txt").read_text(encoding="utf-8").splitlines()]
    asked = [rate for pid, rate in lines if pid != str(dead.pid)]
    assert len(asked) == len(set(asked)) == 16  # every trial once
    assert lines[0][1] in asked  # that of the dead process among them
    one, other = (path.read_text(encoding="utf-8") for path in tmp_path.glob("[0-9]*.txt"))
    assert one == other and one.count("SearchedTrial(") == 16  # both decide from the same table


# ---- What can't be searched ----


def test_without_optuna_the_install_line_is_told_before_anything_is_computed(
    of: TunedTiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("histotune.finetune.search.find_spec", lambda name: None)
    require_search(None)
    require_search(FinetuneConfig())
    for check in (
        lambda: require_search(config_of()),
        lambda: tune_set(bench_of(of, search={"n_trials": 2}), all_of(of), request_of()),
    ):
        with pytest.raises(UserError, match="needs the package optuna") as caught:
            check()
        assert caught.value.fix == "pip install 'histotune[search]'"


def test_processes_that_share_batches_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    with pytest.raises(UserError, match="without torchrun"):
        require_search(config_of())


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"rates": [1e-3]}, "leave one of them out"),
        ({"search": {"space": {"rank": [4, 16]}}}, "the method last-blocks does not read it"),
        ({"search": {"space": {"layer_decay": [0.5, 1.5]}}}, "search.space.layer_decay reaches 1.5"),
        ({"search": {"space": {"epochs": [0, 5]}}}, "search.space.epochs reaches 0"),
        ({"search": {"space": {"augmentation": [0, 1]}}}, "takes choices"),
        ({"search": {"space": {"lr": [1e-2, 1e-3]}}}, "low must lie below high"),
        ({"search": {"space": {"lr": [0, 1e-3]}}}, "lies above 0"),
    ],
)
def test_a_space_that_makes_no_sense_is_refused(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        FinetuneConfig.model_validate({"search": {}, **changed})


def test_settings_are_those_of_the_config_that_they_are_applied_to() -> None:
    config = FinetuneConfig.model_validate({"search": {}, "augment": {"stain": 0.1, "magnification": 1.44}})
    own = TrialSettings.of(config)
    assert own.applied(config) == config.model_copy(update={"search": None})
    changed = own.model_copy(update={"augmentation": 0.5, "epochs": 3, "rank": 2, "layer_decay": 0.5})
    applied = changed.applied(config)
    assert (applied.augment.stain, applied.augment.magnification) == (0.05, pytest.approx(1.2))
    assert (applied.loop.epochs, applied.method.rank, applied.method.layer_decay) == (3, 2, 0.5)


# ---- The search of a fine-tuning ----


@pytest.fixture(scope="module")
def of(tmp_path_factory: pytest.TempPathFactory) -> TunedTiles:
    folder = tmp_path_factory.mktemp("search")
    return seen(write_groups(folder / "tiles"), folder / "cache")


SEARCH = {
    "n_trials": 5, "prune_after": None,
    "space": {"lr": [1e-4, 1e-2], "epochs": [1, 3], "augmentation": {"values": [0, 1]}, "n_blocks": [1, 2]},
}  # fmt: skip


@pytest.mark.parametrize("inner", ["folds", "hold-out"])
def test_a_fine_tuning_is_searched_killed_and_resumed(
    of: TunedTiles, inner: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = bench_of(of, inner=inner, keep_tuned=True, search=SEARCH, augment={"stain": 0.05}, inner_folds=2, views=2)
    tasks: list[TrainingTask] = []
    killed_at = -1

    def watched(task: TrainingTask, loop: LoopConfig, *rest: object) -> Trained:
        if len(tasks) == killed_at:
            raise KilledError
        tasks.append(task)
        return train(task, loop, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(kept_training, "train", watched)
    train_N = all_of(of)
    train_N[:4] = False
    whole = tune_set(bench, train_N, request_of())
    n_whole = len(tasks)
    assert n_whole == (11 if inner == "folds" else 5)
    for task in tasks:  # trials see the training set alone
        assert train_N[task.train_rows].all() and train_N[task.tuning_rows].all()
        assert not set(task.train_rows) & set(task.tuning_rows)
    tasks.clear()
    killed_at = 3
    with pytest.raises(KilledError):
        tune_set(bench, train_N, request_of(tmp_path))
    killed_at = -1
    resumed = tune_set(bench, train_N, request_of(tmp_path))
    assert len(tasks) == n_whole
    assert repr(resumed.decided.trials) == repr(whole.decided.trials) and resumed.decided.reason == whole.decided.reason
    np.testing.assert_array_equal(resumed.logits(np.arange(8)), whole.logits(np.arange(8)))
    table = whole.decided.table()
    assert len(table) == 5 and table["chosen"].sum() == 1 and table["epochs"].n_unique() > 1
    assert table.filter(table["chosen"])["log_loss"].item() == table["log_loss"].min()


def test_stopped_trials_stay_in_the_table_with_their_last_value(of: TunedTiles, tmp_path: Path) -> None:
    space = {"lr": {"values": [3e-3, 30.0]}, "weight_decay": [1e-3, 1e-1]}
    search = {"n_trials": 8, "prune_after": 1, "unpruned": 1, "space": space}
    bench = bench_of(of, inner="hold-out", search=search, loop={"epochs": 3, "save_minutes": 1e-9})
    decided = tune_set(bench, all_of(of), request_of(tmp_path)).decided
    stopped = [one for one in decided.trials if one.end == "stopped"]
    assert stopped and all(one.epoch < 3 and one.loss > 0 and math.isnan(one.loss_se) for one in stopped)
    assert not any(one.chosen for one in stopped)
    assert len(decided.curves) == len(decided.trials) - len(stopped)
    running = [path for path in tmp_path.glob("*.safetensors") if not path.name.endswith(".done.safetensors")]
    assert not running  # a stopped training leaves no checkpoint
