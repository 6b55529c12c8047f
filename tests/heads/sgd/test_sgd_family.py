"""SGD heads in a sweep: the same choice, honesty and record as any other family."""

from __future__ import annotations

import numpy as np
import pytest

from histotune.heads.config import Choice, LogUniform, SgdConfig, SgdSettings, Stopping, SweepConfig
from histotune.heads.family import SweepSupport, Trial
from histotune.heads.fit_cache import FitCache
from histotune.heads.head import head_logits as apply_head
from histotune.heads.saved_head import load_head, save_head
from histotune.heads.sgd.jobs import TrainData, TrainJob, TrainSplit
from histotune.heads.sgd.sgd_family import SgdFamily
from histotune.heads.sgd.train import head_logits, train_heads
from histotune.heads.sweep import make_family, sweep
from tests.heads.samples import make_task

BASE = SgdSettings(epochs=8, batch_size=16, lr=3e-3)


def sgd_sweep(**changes: object) -> SweepConfig:
    space = {"lr": LogUniform(low=1e-4, high=3e-2), "optimizer": Choice(values=("AdamW", "SGD"))}
    sgd = {"method": "random", "n_trials": 6, "space": space, "base": BASE, "device": "cpu", **changes}
    return SweepConfig(family="sgd", folds=3, honesty="none", sgd=SgdConfig.model_validate(sgd))


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("hidden", [0, 5])
def test_a_sweep_equals_training_its_choice_by_hand(n_classes: int, hidden: int, tmp_path) -> None:  # noqa: ANN001
    embeddings, task = make_task(n_classes=n_classes)
    config = sgd_sweep(base=BASE.model_copy(update={"hidden_units": hidden}))
    results = sweep(embeddings, task, config)
    assert len(results) == 3
    trial = SgdFamily(config).trials([("pooled",)])[int(np.flatnonzero(results[0].trials["chosen"].to_numpy())[0])]
    rows = np.flatnonzero(task.train_sets_SN[0])
    data = TrainData(embeddings.matrix_ND, task.labels_N, n_classes, (TrainSplit(rows),))
    (alone,) = train_heads(data, [TrainJob(trial.training)])
    expected = head_logits(alone, embeddings.matrix_ND)
    found = apply_head(results[0].head, embeddings)
    np.testing.assert_allclose(found - found[:, :1], expected - expected[:, :1], atol=1e-4)
    assert (results[0].head.hidden is not None) == bool(hidden)
    assert results[0].trials["optimizer"].to_list() == [
        t.training.optimizer for t in SgdFamily(config).trials([("pooled",)])
    ]
    save_head(results[0].head, tmp_path)
    np.testing.assert_array_equal(apply_head(load_head(tmp_path), embeddings), found)


def test_logits_out_of_fold_come_from_heads_that_never_saw_the_group() -> None:
    embeddings, task = make_task()
    config = sgd_sweep()
    result = sweep(embeddings, task, config)[2]
    trial = SgdFamily(config).trials([("pooled",)])[int(np.flatnonzero(result.trials["chosen"].to_numpy())[0])]
    from histotune.heads.family import FoldPlan, training_set

    used = np.arange(len(embeddings))
    part = training_set(embeddings.tile_ids, task, used, used, FoldPlan(3, config.seed))
    for fold in range(3):
        held = np.flatnonzero(part.fold_n == fold)
        data = TrainData(embeddings.matrix_ND, task.labels_N, 2, (TrainSplit(part.fold_train_rows(fold)),))
        z = head_logits(train_heads(data, [TrainJob(trial.training)])[0], embeddings.matrix_ND[held])
        np.testing.assert_allclose(result.out_of_fold_logit_NK[held, 1], z[:, 1] - z[:, 0], atol=1e-4)


def test_a_diverged_trial_is_reported_and_never_chosen() -> None:
    embeddings, task = make_task()
    config = sgd_sweep(
        method="grid", space={"lr": Choice(values=(1e-2, 1e7))},
        base=SgdSettings(optimizer="SGD", epochs=8, batch_size=16, weight_decay=0.1),
    )  # fmt: skip
    result = sweep(embeddings, task, config)[0]
    assert result.trials["diverged"].to_list() == [False, True]
    assert result.trials["chosen"].to_list() == [True, False]
    assert not np.isfinite(result.trials["log_loss"][1])


def test_with_a_monitor_the_refit_trains_for_the_median_of_the_folds_best_epochs() -> None:
    embeddings, task = make_task()
    base = BASE.model_copy(update={"epochs": 40, "lr": 0.05})
    config = sgd_sweep(method="grid", space={}, base=base, stopping=Stopping(monitor="log_loss", patience=4))
    family = make_family(config)
    assert isinstance(family, SgdFamily)
    result = sweep(embeddings, task, config)[0]
    rows = np.flatnonzero(task.train_sets_SN[0])
    data = TrainData(embeddings.matrix_ND, task.labels_N, 2, (TrainSplit(rows),))
    found = apply_head(result.head, embeddings)[:, 1]
    matches = []
    for epochs in range(1, 41):
        (alone,) = train_heads(data, [TrainJob(base, stop_after=epochs)])
        z = head_logits(alone, embeddings.matrix_ND)
        matches.append(np.abs(z[:, 1] - z[:, 0] - found).max() < 1e-4)
    assert sum(matches) == 1 and not matches[-1]


def test_class_weightings_cross_the_draws() -> None:
    config = sgd_sweep().model_copy(update={"class_weights": ("none", "balanced")})
    trials = SgdFamily(config).trials([("cls",), ("patch_mean",)])
    assert len(trials) == 24
    assert [t.class_weight for t in trials[:12]] == ["none"] * 6 + ["balanced"] * 6
    assert trials[0] == Trial(("cls",), "none", trials[0].strength, trials[0].training)
    assert len(set(trials)) == 24


def test_an_interrupted_sweep_goes_on_after_the_last_chunk(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ANN001
    from histotune.heads.sgd import sgd_family

    embeddings, task = make_task()
    monkeypatch.setattr(sgd_family, "CHUNK_JOBS", 8)
    whole = sweep(embeddings, task, sgd_sweep())
    original, trained = sgd_family.train_heads, []

    def killed_at_the_third(data: TrainData, jobs: list[TrainJob], options: object) -> object:
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(len(jobs))
        return original(data, jobs, options)

    monkeypatch.setattr(sgd_family, "train_heads", killed_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        sweep(embeddings, task, sgd_sweep(), SweepSupport(FitCache.at(tmp_path)))
    seen = []

    def counting(data: TrainData, jobs: list[TrainJob], options: object) -> object:
        seen.append(len(jobs))
        return original(data, jobs, options)

    monkeypatch.setattr(sgd_family, "train_heads", counting)
    resumed = sweep(embeddings, task, sgd_sweep(), SweepSupport(FitCache.at(tmp_path)))
    n_chunks = len(seen)
    for one, other in zip(whole, resumed, strict=True):
        np.testing.assert_array_equal(one.head.weight_KD, other.head.weight_KD)
        np.testing.assert_array_equal(one.out_of_fold_logit_NK, other.out_of_fold_logit_NK)
    again = sweep(embeddings, task, sgd_sweep(), SweepSupport(FitCache.at(tmp_path)))
    assert len(seen) == n_chunks
    assert [one.head.head_id for one in again] == [one.head.head_id for one in whole]
    changed = sgd_sweep(base=BASE.model_copy(update={"label_smoothing": 0.1}))
    sweep(embeddings, task, changed, SweepSupport(FitCache.at(tmp_path)))
    assert len(seen) > n_chunks


@pytest.mark.parametrize("hidden", [0, 5])
def test_kept_heads_are_the_trained_ones_whole(hidden: int, tmp_path) -> None:  # noqa: ANN001
    from histotune.heads.sgd.jobs import TrainOptions
    from histotune.heads.sgd.sgd_family import train_or_resume

    embeddings, task = make_task()
    split = TrainSplit(np.arange(0, len(embeddings), 2), np.arange(1, len(embeddings), 2))
    data = TrainData(embeddings.matrix_ND, task.labels_N, 2, (split,))
    jobs = [TrainJob(BASE.model_copy(update={"hidden_units": hidden, "lr": lr})) for lr in (1e-3, 1e-2)]
    options = TrainOptions(stopping=Stopping(monitor="log_loss"))
    expected = train_heads(data, jobs, options)
    for _ in range(2):
        for one, other in zip(train_or_resume(data, jobs, options, FitCache.at(tmp_path)), expected, strict=True):
            assert (one.kept_epoch, one.n_epochs, one.n_steps, one.diverged) == (
                other.kept_epoch, other.n_epochs, other.n_steps, other.diverged)  # fmt: skip
            assert [curve.metric for curve in one.curves] == [curve.metric for curve in other.curves]
            for a, b in zip(one.curves, other.curves, strict=True):
                np.testing.assert_array_equal(a.value_E, b.value_E)
            for a, b in zip(one.layers, other.layers, strict=True):
                np.testing.assert_array_equal(a.weight_OI, b.weight_OI)
                np.testing.assert_array_equal(a.bias_O, b.bias_O)


def test_whoever_watches_hears_of_finished_poolings() -> None:
    embeddings, task = make_task()
    heard = []
    sweep(embeddings, task, sgd_sweep(), SweepSupport(watch=heard.append))
    assert heard and heard[-1].n_done == heard[-1].n_trials == 6
