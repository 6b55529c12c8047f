"""SGD heads in a sweep: the same choice, honesty and record as any other family."""

from __future__ import annotations

import numpy as np
import pytest

from histotune.heads.apply import head_logits as apply_head
from histotune.heads.config import SweepConfig
from histotune.heads.families import make_family
from histotune.heads.save import load_head, save_head
from histotune.heads.sgd.config import Choice, LogUniform, SgdConfig, SgdSettings, Stopping
from histotune.heads.sgd.family import SgdFamily, SgdTrial
from histotune.heads.sgd.outcome import head_logits
from histotune.heads.sgd.records import Job, Split, TrainData
from histotune.heads.sgd.train import train_heads
from histotune.heads.sweep import sweep
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
    data = TrainData(embeddings.matrix_ND, task.labels_N, n_classes, (Split(rows),))
    (alone,) = train_heads(data, [Job(trial.training)])
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
    from histotune.heads.task import FoldPlan, training_set

    used = np.arange(len(embeddings))
    part = training_set(embeddings.tile_ids, task, (used, used), FoldPlan(3, config.seed))
    for fold in range(3):
        held = np.flatnonzero(part.fold_n == fold)
        data = TrainData(embeddings.matrix_ND, task.labels_N, 2, (Split(part.fold_train_rows(fold)),))
        z = head_logits(train_heads(data, [Job(trial.training)])[0], embeddings.matrix_ND[held])
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
    data = TrainData(embeddings.matrix_ND, task.labels_N, 2, (Split(rows),))
    found = apply_head(result.head, embeddings)[:, 1]
    matches = []
    for epochs in range(1, 41):
        (alone,) = train_heads(data, [Job(base, stop_after=epochs)])
        z = head_logits(alone, embeddings.matrix_ND)
        matches.append(np.abs(z[:, 1] - z[:, 0] - found).max() < 1e-4)
    assert sum(matches) == 1 and not matches[-1]


def test_class_weightings_cross_the_draws() -> None:
    config = sgd_sweep().model_copy(update={"class_weights": ("none", "balanced")})
    trials = SgdFamily(config).trials([("cls",), ("patch_mean",)])
    assert len(trials) == 24
    assert [t.class_weight for t in trials[:12]] == ["none"] * 6 + ["balanced"] * 6
    assert trials[0] == SgdTrial(("cls",), trials[0].training) and len(set(trials)) == 24


def test_an_interrupted_sweep_goes_on(tmp_path) -> None:  # noqa: ANN001
    from histotune.heads.families import SweepData
    from histotune.heads.task import FoldPlan, training_set

    embeddings, task = make_task()
    config, used = sgd_sweep(), np.arange(len(embeddings))
    part = training_set(embeddings.tile_ids, task, (used, used), FoldPlan(3, 0))
    data = SweepData(embeddings, used, task.labels_N, 2)
    trials = SgdFamily(config).trials([("pooled",)])
    first = SgdFamily(config, tmp_path).out_of_fold(data, [part], trials)[0]
    again = SgdFamily(config, tmp_path).out_of_fold(data, [part], trials)[0]
    np.testing.assert_array_equal(first.logit_TnK, again.logit_TnK)
    assert list(tmp_path.glob("*/chunk-*.safetensors"))
