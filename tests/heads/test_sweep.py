from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline

from histotune.backbones.spec import ColumnBlock
from histotune.datasets.splits.folds import assign_group_folds
from histotune.heads.config import SweepConfig
from histotune.heads.head import head_logits
from histotune.heads.sweep import sweep
from histotune.tools.errors import UserError
from tests.heads.samples import FlooredScaler, make_embeddings, make_task

CONFIG = SweepConfig(penalties=(0.01, 0.1, 1.0, 10.0), folds=4)


def sklearn_sweep(x: np.ndarray, y: np.ndarray, groups: list[str], n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Group-balanced out-of-fold log-loss per penalty, and out-of-fold log-odds, one fit at a time."""
    fold_by_group = assign_group_folds(groups, y, n_classes, CONFIG.folds, CONFIG.seed)
    fold = np.array([fold_by_group[group] for group in groups])
    losses, logits = [], []
    for penalty in CONFIG.penalties:
        p = np.empty((len(y), n_classes))
        for k in range(CONFIG.folds):
            train = fold != k
            model = LogisticRegression(C=1 / (penalty * train.sum()), tol=1e-8, max_iter=5000)
            p[~train] = make_pipeline(FlooredScaler(), model).fit(x[train], y[train]).predict_proba(x[~train])
        per_group = [
            log_loss(y[rows], p[rows], labels=range(n_classes))
            for rows in (np.array(groups) == group for group in sorted(set(groups)))
        ]
        losses.append(np.mean(per_group))
        logits.append(np.log(p) - np.log(p[:, :1]))
    return np.array(losses), np.array(logits)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("dim", [20, 150])
def test_sweep_equals_scikit_learn_one_fit_at_a_time(n_classes: int, dim: int) -> None:
    embeddings, task = make_task(n_classes=n_classes, dim=dim)
    results = sweep(embeddings, task, CONFIG)
    assert len(results) == 3
    for result, train in zip(results, task.train_sets_SN, strict=True):
        rows = np.flatnonzero(train)
        x, y = embeddings.matrix_ND[rows].astype(np.float64), task.labels_N[rows]
        losses, logits = sklearn_sweep(x, y, [task.groups[row] for row in rows], n_classes)
        np.testing.assert_allclose(result.trials["log_loss"], losses, rtol=1e-3)
        best = int(losses.argmin())
        assert result.trials["chosen"].to_list() == [p == best for p in range(4)]
        assert result.head.penalty == CONFIG.penalties[best]
        ours = result.out_of_fold_logit_NK[rows]
        np.testing.assert_allclose(ours - ours[:, :1], logits[best], atol=2e-2 * np.abs(logits[best]).max())
        assert np.isnan(result.out_of_fold_logit_NK[~train]).all()
        model = LogisticRegression(C=1 / (result.head.penalty * len(rows)), tol=1e-8, max_iter=5000)
        expected = make_pipeline(FlooredScaler(), model).fit(x, y).predict_proba(x)
        logit = head_logits(result.head, embeddings.take(rows))
        p = np.exp(logit) / np.exp(logit).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(p, expected, atol=1e-3)
        assert (result.head.n_tiles, result.head.n_groups) == (len(rows), len({task.groups[row] for row in rows}))
        assert result.n_fits == 4 * 4 + 1
        assert result.trials["converged"].all()


def test_binary_heads_hold_zeros_for_class_0() -> None:
    embeddings, task = make_task()
    head = sweep(embeddings, task, CONFIG)[0].head
    assert not head.weight_KD[0].any()
    assert head.bias_K[0] == 0
    assert head.weight_KD.shape == (2, 60)


def test_a_training_set_alone_gives_the_same_result() -> None:
    embeddings, task = make_task(dim=150)
    together = sweep(embeddings, task, CONFIG)
    for index, result in enumerate(together):
        alone = sweep(embeddings, dataclasses.replace(task, train_sets_SN=task.train_sets_SN[[index]]), CONFIG)[0]
        np.testing.assert_allclose(alone.trials["log_loss"], result.trials["log_loss"], rtol=1e-6)
        np.testing.assert_allclose(alone.head.weight_KD, result.head.weight_KD, atol=1e-6)


def test_tiles_outside_the_training_sets_change_nothing() -> None:
    embeddings, task = make_task(dim=150)
    first = dataclasses.replace(task, train_sets_SN=task.train_sets_SN[[0]])
    before = sweep(embeddings, first, CONFIG)[0]
    spoiled = embeddings.matrix_ND.copy()
    spoiled[~first.train_sets_SN[0]] = 1e6
    labels = np.where(first.train_sets_SN[0], first.labels_N, -1)
    after = sweep(make_embeddings(spoiled), dataclasses.replace(first, labels_N=labels), CONFIG)[0]
    assert after.head.head_id == before.head.head_id
    assert after.trials.equals(before.trials)


def test_sweep_is_reproducible_and_row_order_changes_nothing() -> None:
    embeddings, task = make_task()
    before = sweep(embeddings, task, CONFIG)
    assert [r.head.head_id for r in sweep(embeddings, task, CONFIG)] == [r.head.head_id for r in before]
    order = np.random.default_rng(0).permutation(len(embeddings))
    shuffled = dataclasses.replace(
        task, labels_N=task.labels_N[order], groups=tuple(task.groups[row] for row in order),
        train_sets_SN=task.train_sets_SN[:, order],
    )  # fmt: skip
    for left, right in zip(before, sweep(embeddings.take(order), shuffled, CONFIG), strict=True):
        np.testing.assert_allclose(right.trials["log_loss"], left.trials["log_loss"], rtol=1e-6)
        np.testing.assert_allclose(right.head.weight_KD, left.head.weight_KD, atol=1e-6)
        np.testing.assert_allclose(right.out_of_fold_logit_NK, left.out_of_fold_logit_NK[order], atol=1e-5)


def test_large_groups_do_not_dominate_the_choice() -> None:
    embeddings, task = make_task()
    result = sweep(embeddings, task, CONFIG)[2]
    logit = result.out_of_fold_logit_NK
    p = np.exp(logit) / np.exp(logit).sum(axis=1, keepdims=True)
    loss = pl.DataFrame({"group": task.groups, "loss": -np.log(p[np.arange(len(p)), task.labels_N])})
    per_group = loss.group_by("group").agg(pl.col("loss").mean())["loss"]
    chosen = result.trials.filter("chosen")
    assert chosen["log_loss"][0] == pytest.approx(per_group.mean(), rel=1e-9)
    assert chosen["log_loss_se"][0] == pytest.approx(per_group.std() / np.sqrt(20), rel=1e-9)


def test_image_folds_leak_where_groups_carry_the_label() -> None:
    embeddings, task = make_task(n=200, n_groups=20, dim=150, group_strength=3.0)
    grouped = sweep(embeddings, task, CONFIG)[2]
    leaky = sweep(embeddings, dataclasses.replace(task, fold_labels="image"), CONFIG)[2]
    assert leaky.trials["log_loss"].min() < 0.7 * grouped.trials["log_loss"].min()
    assert leaky.head.n_groups == grouped.head.n_groups == 20


def test_poolings_compete_and_ties_go_to_the_stronger_penalty() -> None:
    embeddings, task = make_task(dim=40)
    noise = np.random.default_rng(1).standard_normal((len(embeddings), 30))
    blocks = (ColumnBlock("cls", 0, 30), ColumnBlock("patch_mean", 30, 70))
    both = make_embeddings(np.hstack([noise, embeddings.matrix_ND]), blocks)
    config = CONFIG.model_copy(update={"poolings": (("cls",), ("patch_mean",), ("cls", "patch_mean"))})
    result = sweep(both, task, config)[2]
    assert result.trials.height == 12
    assert result.trials["pooling"].unique(maintain_order=True).to_list() == ["cls", "patch_mean", "cls+patch_mean"]
    assert result.head.pooling == ("patch_mean",)
    assert result.head.columns == tuple(range(30, 70))
    assert result.n_fits == 3 * 16 + 1
    assert result.trials.filter("chosen")["log_loss"][0] == result.trials["log_loss"].min()
    same = make_embeddings(np.zeros((len(embeddings), 5)))
    assert sweep(same, task, CONFIG)[2].head.penalty == 10.0


def test_balanced_classes_move_the_bias() -> None:
    embeddings, task = make_task(n=200)
    rare = np.flatnonzero((task.labels_N == 0) | (np.arange(200) % 3 == 0))
    part = dataclasses.replace(
        task, labels_N=task.labels_N[rare], groups=tuple(task.groups[row] for row in rare),
        train_sets_SN=np.ones((1, len(rare)), bool),
    )  # fmt: skip
    heavy = SweepConfig(penalties=(1e3,), folds=4)
    plain = sweep(embeddings.take(rare), part, heavy)[0].head
    balanced = sweep(embeddings.take(rare), part, heavy.model_copy(update={"class_weights": ("balanced",)}))[0].head
    x = embeddings.matrix_ND[rare].astype(np.float64)
    assert abs((x @ balanced.weight_KD[1] + balanced.bias_K[1]).mean()) < 0.1
    assert (x @ plain.weight_KD[1] + plain.bias_K[1]).mean() < -0.5


def test_a_fit_that_ran_out_of_iterations_is_reported() -> None:
    embeddings, task = make_task()
    trials = sweep(embeddings, task, CONFIG.model_copy(update={"max_iterations": 2}))[0].trials
    assert not trials["converged"].all()


def test_heads_and_statistics_start_without_heavy_libraries() -> None:
    code = (
        "import sys, histotune.heads.sweep, histotune.heads.head, histotune.heads.head, histotune.heads.head, "
        "histotune.statistics.scores, histotune.statistics.comparison; "
        "print([name for name in ('torch', 'sklearn', 'scipy', 'pandas', 'timm', 'pyarrow') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_can_not_be_learned_from_is_refused() -> None:
    embeddings, task = make_task()
    with pytest.raises(UserError, match="at least two classes and found 1"):
        sweep(embeddings, dataclasses.replace(task, labels_N=np.zeros(120, np.int64)), CONFIG)
    with pytest.raises(UserError, match="65 of 65 training tiles have no label"):
        sweep(embeddings, dataclasses.replace(task, labels_N=np.full(120, -1)), CONFIG)
    few = dataclasses.replace(task, groups=tuple("abc"[label] for label in task.labels_N))
    with pytest.raises(UserError, match=r"--set sweep\.folds=2"):
        sweep(embeddings, few, CONFIG)
    lone = dataclasses.replace(
        task, groups=tuple("lone" if label else group for label, group in zip(task.labels_N, task.groups, strict=True))
    )
    with pytest.raises(UserError, match="every class in at least two groups"):
        sweep(embeddings, lone, CONFIG)
    with pytest.raises(UserError, match="penalty must be positive"):
        sweep(embeddings, task, SweepConfig(penalties=(0.0,)))
    with pytest.raises(UserError, match="unknown pooling block"):
        sweep(embeddings, task, CONFIG.model_copy(update={"poolings": (("cls",),)}))
    with pytest.raises(ValueError, match="must describe the 120 embedded tiles"):
        sweep(embeddings, dataclasses.replace(task, groups=task.groups[:-1]), CONFIG)


def test_exact_fits_ask_for_a_gpu_only_where_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from histotune.heads import linear
    from histotune.heads.solver.problems import FitProblems

    asked: list[str] = []

    def find(choice: str) -> SimpleNamespace:
        asked.append(choice)
        return SimpleNamespace(kind="cuda")

    monkeypatch.setattr(linear, "find_device", find)
    small = FitProblems(np.ones((1, 50), bool), np.zeros(1, int), np.ones(1), 2)
    large = FitProblems(np.ones((1, 20_000), bool), np.zeros(1, int), np.ones(1), 2)
    assert linear.solver_device("auto", (50, 100), small) == "cpu"
    assert linear.solver_device("cpu", (20_000, 1536), large) == "cpu"
    assert asked == []
    assert linear.solver_device("auto", (20_000, 1536), large) == "cuda"
    assert linear.solver_device("cuda", (50, 100), small) == "cuda"
    assert asked == ["auto", "cuda"]


def test_a_sweep_on_the_solvers_device_gives_the_same_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    from histotune.heads import linear

    embeddings, task = make_task(n_classes=2, dim=20)
    expected = sweep(embeddings, task, CONFIG)
    monkeypatch.setattr(linear, "solver_device", lambda *_: "torch:cpu")
    for ours, theirs in zip(sweep(embeddings, task, CONFIG), expected, strict=True):
        assert ours.head.penalty == theirs.head.penalty
        np.testing.assert_allclose(ours.head.weight_KD, theirs.head.weight_KD, atol=1e-4)
        np.testing.assert_allclose(ours.trials["log_loss"], theirs.trials["log_loss"], atol=1e-5)


def test_a_gpu_that_is_not_there_is_refused() -> None:
    embeddings, task = make_task(n_classes=2, dim=20)
    with pytest.raises(UserError, match="no such device can be used here"):
        sweep(embeddings, task, CONFIG.model_copy(update={"device": "cuda"}))


@pytest.mark.parametrize(("family", "refused"), [("logistic", True), ("ridge", False)])
def test_a_missing_gpu_is_found_before_anything_is_embedded(family: str, refused: bool) -> None:
    from histotune.heads.sweep import require_device

    config = CONFIG.model_copy(update={"family": family, "device": "cuda"})
    if refused:
        with pytest.raises(UserError, match="no such device"):
            require_device(config)
    else:
        require_device(config)
