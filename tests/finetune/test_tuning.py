"""Tuning groups judge and never train; what they bear out is returned, and nothing is trained twice."""

# N tiles, n tuning tiles, K classes, E epochs

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from histotune.embeddings.space import Embeddings
from histotune.finetune import candidates, kept_training, tuning
from histotune.finetune.checkpoints import Checkpoints
from histotune.finetune.config import LoopConfig
from histotune.finetune.loop import NonFiniteLossError, Trained, TrainingTask, tile_logits, train
from histotune.finetune.tuning import TunedSet, find_probes, tune_set, tuning_parts
from histotune.finetune.workbench import TunedTiles
from histotune.heads.calibrate import CrossFitted, calibrate
from histotune.heads.family import SweepTask
from histotune.heads.head import SweepResult, calibrated_logits, head_logits
from histotune.heads.sweep import sweep
from histotune.images.config import AugmentConfig
from histotune.tools.errors import UserError
from tests.finetune.tuning_tiles import all_of, bench_of, relabelled, request_of, seen, write_groups

INNER = ["folds", "hold-out"]


@pytest.fixture(scope="module")
def of(tmp_path_factory: pytest.TempPathFactory) -> TunedTiles:
    folder = tmp_path_factory.mktemp("tuning")
    return seen(write_groups(folder / "tiles"), folder / "cache")


@dataclass
class Trainings:
    """Stands for ``train``: trains, and remembers on what; ends the process before the call of a number."""

    killed_at: int = -1
    diverging: tuple[float, ...] = ()
    tasks: list[TrainingTask] = field(default_factory=list)
    starts: list[np.ndarray] = field(default_factory=list)
    stops: list[int | None] = field(default_factory=list)

    def __call__(
        self,
        task: TrainingTask,
        loop: LoopConfig,
        criterion: Callable[[np.ndarray], float] | None,
        kept: Checkpoints | None,
        stop_after: int | None,
    ) -> Trained:
        if len(self.tasks) == self.killed_at:
            raise KilledError
        if loop.lr in self.diverging:
            raise NonFiniteLossError("the loss is not finite", value=float("nan"))
        self.tasks.append(task)
        self.stops.append(stop_after)
        self.starts.append(tile_logits(task.model, task.inputs, np.arange(len(task.labels_N))))
        return train(task, loop, criterion, kept, stop_after)


class KilledError(BaseException):
    """Stands for SIGKILL: nothing after it may clean up."""


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Trainings]:
    def watched(killed_at: int = -1, diverging: tuple[float, ...] = ()) -> Trainings:
        found = Trainings(killed_at, diverging)
        monkeypatch.setattr(kept_training, "train", found)
        return found

    return watched


def groups_of(of: TunedTiles, rows: np.ndarray) -> set[str]:
    return set(of.tiles.table["group_id"].gather(rows))


def assert_equal(one: TunedSet, other: TunedSet) -> None:
    """Compare what two runs return to the last bit."""
    mine, theirs = one.decided, other.decided
    assert (mine.verdict, mine.epoch, mine.gain, mine.gain_se, mine.reason, mine.trials) == (
        theirs.verdict, theirs.epoch, theirs.gain, theirs.gain_se, theirs.reason, theirs.trials
    )  # fmt: skip
    for curve, same in zip(mine.curves, theirs.curves, strict=True):
        np.testing.assert_array_equal(curve.logit_EnK, same.logit_EnK)
    if one.start is not None:
        rows = np.arange(8)
        np.testing.assert_array_equal(one.logits(rows), other.logits(rows))


# ---- Who trains and who judges ----


@pytest.mark.parametrize("inner", INNER)
def test_tuning_groups_never_train_and_never_meet_the_probe_that_they_judge(
    of: TunedTiles, inner: str, trainings: Callable[..., Trainings], monkeypatch: pytest.MonkeyPatch
) -> None:
    found, probed = trainings(), []

    def swept(embeddings: Embeddings, task: SweepTask, *rest: object) -> tuple[SweepResult, ...]:
        probed.extend(task.train_sets_SN)
        return sweep(embeddings, task, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(tuning, "sweep", swept)
    train_N = all_of(of)
    train_N[:8] = False
    tune_set(bench_of(of, inner=inner), train_N, request_of())
    inside = groups_of(of, np.flatnonzero(train_N))
    np.testing.assert_array_equal(probed[0], train_N)
    judged = [groups_of(of, task.tuning_rows) for task in found.tasks]
    for task, probe_N in zip(found.tasks, probed[1:], strict=True):
        training, tuned = groups_of(of, task.train_rows), groups_of(of, task.tuning_rows)
        assert tuned and training | tuned == inside and not training & tuned
        assert groups_of(of, np.flatnonzero(probe_N)) == training
    assert len(judged) == (4 if inner == "folds" else 1)
    if inner == "folds":
        assert set.union(*judged) == inside and sum(map(len, judged)) == len(inside)


@pytest.mark.parametrize(("share", "n_groups"), [(0.25, 6), (0.4, 10), (0.75, 18), (0.01, 1)])
def test_a_hold_out_takes_the_share_of_groups_that_was_asked_for(of: TunedTiles, share: float, n_groups: int) -> None:
    (part,), why_not = tuning_parts(bench_of(of, inner="hold-out", tuning_share=share), all_of(of))
    assert len(groups_of(of, part.rows)) == n_groups and not why_not
    if n_groups > 1:  # of both classes alike
        assert of.tiles.labels_N[part.rows].mean() == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(
    ("changed", "n_parts"),
    [
        ({}, 4),
        ({"prefix": {"storage": "off"}}, 1),
        ({"method": {"name": "lora", "rank": 2}}, 1),
        ({"method": {"name": "lora", "rank": 2, "n_blocks": 1}}, 4),
        ({"method": {"name": "last-blocks", "n_blocks": 3}}, 1),
        ({"method": {"name": "full"}}, 1),
    ],
)
def test_folds_are_taken_where_the_output_of_frozen_blocks_is_kept(
    of: TunedTiles, changed: dict[str, Any], n_parts: int
) -> None:
    parts, _ = tuning_parts(bench_of(of, **changed), all_of(of))
    assert len(parts) == n_parts


def test_where_a_class_would_be_missing_the_probe_is_all_there_is(of: TunedTiles) -> None:
    labels = {f"case {number:02d}": 2 if number == 0 else number % 2 for number in range(24)}
    three = relabelled(of, labels)
    assert tuning_parts(bench_of(three), all_of(three)) == ((), "without the tuning groups a class would be missing")
    one = np.array([group == "case 03" for group in of.tiles.table["group_id"]])
    assert tuning_parts(bench_of(of), one) == ((), "one group can't train and judge at once")


def test_where_the_rest_is_too_small_for_a_probe_the_reason_is_told(
    of: TunedTiles, trainings: Callable[..., Trainings]
) -> None:
    found = trainings()
    few = np.array([group in ("case 00", "case 01", "case 02", "case 03") for group in of.tiles.table["group_id"]])
    tuned = tune_set(bench_of(of), few, request_of())
    assert not found.tasks and tuned.start is None and tuned.decided.verdict == "kept"
    assert tuned.decided.reason.startswith(
        "probe kept: not fine-tuned, since without the tuning groups there is no probe: "
    )
    assert np.isnan(tuned.decided.gain) and tuned.decided.table().is_empty()
    with pytest.raises(ValueError, match="no model was tuned"):
        tuned.logits(np.arange(2))
    with pytest.raises(UserError):
        find_probes(bench_of(of), [few & (of.tiles.labels_N == 0)], request_of())


# ---- What is returned ----


def test_with_few_tuning_groups_the_last_epoch_is_taken_and_that_is_said(of: TunedTiles) -> None:
    bench = bench_of(of, inner="hold-out", least_groups=7, keep_tuned=True, loop={"epochs": 3})
    decided = tune_set(bench, all_of(of), request_of()).decided
    assert (decided.epoch, decided.n_groups) == (3, 6)
    assert "6 tuning groups; fewer than 7 of them, so the last epoch is taken" in decided.reason


@pytest.mark.parametrize("inner", INNER)
def test_the_probe_is_kept_unless_it_is_clearly_beaten(of: TunedTiles, inner: str) -> None:
    decided = tune_set(bench_of(of, inner=inner, standard_errors=1e9), all_of(of), request_of()).decided
    assert decided.verdict == "kept" and decided.reason.startswith("probe kept: log-loss ")
    kept = tune_set(bench_of(of, inner=inner, standard_errors=1e9, keep_tuned=True), all_of(of), request_of())
    assert kept.decided.verdict == "tuned" and kept.start is not None
    assert kept.decided.reason.endswith("returned all the same, as asked for")
    assert (kept.decided.gain, kept.decided.gain_se) == (decided.gain, decided.gain_se)


@pytest.mark.parametrize(("rate", "n_epochs"), [(1e-3, 3), (0.3, 3), (0.05, 6)])  # 6: chosen by the mean of two
def test_a_hold_out_returns_the_weights_that_its_groups_judged(of: TunedTiles, rate: float, n_epochs: int) -> None:
    loop = {"head_lr": rate, "epochs": n_epochs}
    bench = bench_of(of, inner="hold-out", keep_tuned=True, least_groups=4, rates=[rate, 2 * rate], loop=loop)
    tuned = tune_set(bench, all_of(of), request_of())
    (part,), _ = tuning_parts(bench, all_of(of))
    curve = next(one for one in tuned.decided.curves if one.settings == tuned.decided.settings)
    if rate == 0.3:  # every epoch is worse than the start, which is never returned as fine-tuned
        assert curve.loss_EG.mean(axis=1).argmin() == 0
    assert tuned.decided.epoch >= 1
    np.testing.assert_allclose(tuned.logits(part.rows), curve.logit_EnK[tuned.decided.epoch], rtol=1e-4, atol=1e-4)


def test_folds_retrain_from_the_probe_of_all_groups_up_to_the_chosen_epoch(
    of: TunedTiles, trainings: Callable[..., Trainings]
) -> None:
    found = trainings()
    bench = bench_of(of, inner="folds", keep_tuned=True, rates=[3e-3, 1e-3])
    tuned = tune_set(bench, all_of(of), request_of())
    *tried, last = found.tasks
    assert len(tried) == 8
    np.testing.assert_array_equal(np.sort(last.train_rows), np.arange(len(of.tiles)))
    assert len(last.tuning_rows) == 0 and found.stops == [None] * 8 + [tuned.decided.epoch]
    probe = tuned.probe.head
    wanted_NK = calibrated_logits(probe.calibration, head_logits(probe, of.embeddings))
    np.testing.assert_allclose(found.starts[-1], wanted_NK, atol=2e-3)


@pytest.mark.parametrize("inner", INNER)
def test_calibration_and_threshold_come_from_tiles_that_were_held_out(
    of: TunedTiles, inner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[CrossFitted] = []
    monkeypatch.setattr(tuning, "calibrate", lambda one, kind: (found.append(one), calibrate(one, kind))[1])
    bench = bench_of(of, inner=inner)
    decided = tune_set(bench, all_of(of), request_of()).decided
    parts, _ = tuning_parts(bench, all_of(of))
    rows, (one,) = np.concatenate([part.rows for part in parts]), found
    curve = decided.curves[0]
    np.testing.assert_array_equal(one.logit_nK, curve.logit_EnK[decided.epoch])
    np.testing.assert_array_equal(one.y_n, of.tiles.labels_N[rows])
    sides = [set(one.group_n[one.fold_n == fold]) for fold in np.unique(one.fold_n)]
    assert sum(map(len, sides)) == one.n_groups  # no group in two of the folds that calibrate
    if inner == "folds":
        np.testing.assert_array_equal(one.fold_n, np.repeat(np.arange(4), [len(part.rows) for part in parts]))
    assert decided.calibration == calibrate(one, "temperature")
    assert decided.decision.rule == ("balanced-accuracy" if inner == "folds" else "0.5")  # 3 groups per class


# ---- The same again ----


def test_the_order_of_the_tile_set_changes_nothing(of: TunedTiles, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    order = rng.permutation(len(of.tiles))
    tiles = replace(of.tiles, table=of.tiles.table[order])
    shuffled = seen(tiles, of.cache)
    one, other = (
        tune_set(bench_of(data, inner="folds", keep_tuned=True), all_of(data), request_of()) for data in (of, shuffled)
    )
    assert other.decided.epoch == one.decided.epoch
    assert other.decided.gain == pytest.approx(one.decided.gain, abs=1e-4)
    np.testing.assert_allclose(other.logits(np.argsort(order)), one.logits(np.arange(len(order))), atol=1e-3)


@pytest.mark.parametrize("inner", INNER)
def test_a_run_that_was_killed_repeats_no_finished_training(
    of: TunedTiles, inner: str, trainings: Callable[..., Trainings], tmp_path: Path
) -> None:
    bench = bench_of(of, inner=inner, keep_tuned=True, rates=[1e-3, 3e-3, 1e-2])
    whole = trainings()
    wanted = tune_set(bench, all_of(of), request_of())
    n_wanted = len(whole.tasks)
    assert n_wanted == (13 if inner == "folds" else 3)
    killed = trainings(killed_at=2)
    with pytest.raises(KilledError):
        tune_set(bench, all_of(of), request_of(tmp_path))
    rest = trainings()
    assert_equal(tune_set(bench, all_of(of), request_of(tmp_path)), wanted)
    assert (len(killed.tasks), len(rest.tasks)) == (2, n_wanted - 2)
    nothing = trainings()
    assert_equal(tune_set(bench, all_of(of), request_of(tmp_path)), wanted)
    assert not nothing.tasks


def test_a_hold_out_keeps_the_weights_of_its_best_candidate_alone(of: TunedTiles, tmp_path: Path) -> None:
    bench = bench_of(of, inner="hold-out", keep_tuned=True, rates=[1e-3, 3e-3, 1e-2])
    tune_set(bench, all_of(of), request_of(tmp_path))
    sizes = sorted(path.stat().st_size for path in tmp_path.glob("*.done.safetensors"))
    assert len(sizes) == 3 and sizes[1] < 10_000 < sizes[2]


def test_another_split_goes_on_from_nothing_that_this_one_left(
    of: TunedTiles, trainings: Callable[..., Trainings], tmp_path: Path
) -> None:
    bench = bench_of(of, inner="hold-out", keep_tuned=True)
    fewer = all_of(of)
    fewer[:4] = False
    wanted = tune_set(bench, fewer, request_of())
    found = trainings()
    tune_set(bench, all_of(of), request_of(tmp_path))
    assert_equal(tune_set(bench, fewer, request_of(tmp_path)), wanted)
    assert [len(task.train_rows) + len(task.tuning_rows) for task in found.tasks] == [48, 44]


def test_a_record_of_another_training_is_refused(of: TunedTiles, tmp_path: Path) -> None:
    tune_set(bench_of(of, inner="hold-out"), all_of(of), request_of(tmp_path))
    with pytest.raises(UserError, match=r"training with another finetune\.tuning_share"):
        tune_set(bench_of(of, inner="hold-out", tuning_share=0.26), all_of(of), request_of(tmp_path))


# ---- Candidates ----


def test_a_rate_whose_loss_is_not_finite_is_left_out_if_there_are_others(
    of: TunedTiles, trainings: Callable[..., Trainings], caplog: pytest.LogCaptureFixture
) -> None:
    trainings(diverging=(1.0,))
    decided = tune_set(bench_of(of, inner="hold-out", rates=[1e-3, 1.0]), all_of(of), request_of()).decided
    table = decided.table()
    assert table["end"].to_list() == ["finished", "diverged"] and table["chosen"].to_list() == [True, False]
    assert table["lr"].to_list() == [1e-3, 1.0] and table["log_loss"].is_nan().to_list() == [False, True]
    assert "the learning rate 1 is left out" in caplog.text
    assert decided.edges == (
        "the best learning rate, 1e-3, is the lowest that was tried; try --set finetune.rates=[1e-6,1e-3,1]",
    )
    trainings(diverging=(1.0, 2.0))
    with pytest.raises(UserError, match="the loss of every trial is not finite"):
        tune_set(bench_of(of, inner="hold-out", rates=[2.0, 1.0]), all_of(of), request_of())
    with pytest.raises(NonFiniteLossError):
        tune_set(bench_of(of, inner="hold-out", loop={"lr": 1.0}), all_of(of), request_of())


def test_the_table_names_the_loss_by_which_was_chosen(of: TunedTiles) -> None:
    decided = tune_set(bench_of(of, inner="folds", rates=[1e-3, 3e-3]), all_of(of), request_of()).decided
    chosen = decided.table().row(by_predicate=pl.col("chosen"), named=True)
    curve = next(one for one in decided.curves if one.settings == decided.settings)
    assert (chosen["lr"], chosen["epoch"]) == (decided.rate, decided.epoch)
    assert chosen["log_loss"] == curve.loss_EG[decided.epoch].mean() == decided.table()["log_loss"].min()


def test_labels_dealt_at_random_return_the_probe(of: TunedTiles, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    verdicts = []
    for seed in range(5):
        labels = np.random.default_rng(seed).permutation(np.arange(24) % 2)
        null = relabelled(of, {f"case {number:02d}": int(label) for number, label in enumerate(labels)})
        bench = bench_of(null, inner="folds", rates=[1e-3, 3e-3, 1e-2], loop={"epochs": 3})
        verdicts.append(tune_set(bench, all_of(null), request_of()).decided.verdict)
    assert verdicts.count("tuned") <= 1  # one standard error by itself lets one in six through


def test_candidates_of_one_search_share_what_is_kept(of: TunedTiles) -> None:
    bench = bench_of(of)
    other = bench.with_config(bench.config.model_copy(update={"keep_tuned": True}))
    varied = bench.with_config(bench.config.model_copy(update={"augment": AugmentConfig()}))
    assert bench.with_config(bench.config) is bench
    assert other._tokens is bench._tokens and varied._tokens is not bench._tokens
    assert candidates.rows_by_id(bench, all_of(of)).tolist() == list(range(48))
