"""The batched loop against plain torch, one trial at a time."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from histotune.heads.config import Cosine, Hold, SgdSettings, Stopping, WarmUp
from histotune.heads.sgd import jobs as data_module
from histotune.heads.sgd import train as train_module
from histotune.heads.sgd.jobs import TrainData, TrainedHead, TrainJob, TrainOptions, TrainSplit, plan_chunks
from histotune.heads.sgd.train import head_logits, train_heads
from histotune.tools.errors import UserError
from tests.heads.samples import floored
from tests.heads.sgd.peer import make_data, plain_logits, train_plainly

if TYPE_CHECKING:
    from pathlib import Path

GRID = [
    {"optimizer": optimizer, "lr": lr, "hidden_units": hidden, "weight_decay": decay}
    for optimizer in ("AdamW", "Adam", "SGD")
    for lr in (1e-6, 1e-2)
    for hidden in (0, 7)
    for decay in (0.0, 0.05)
    if decay or lr == 1e-2
]


def logits(head: TrainedHead, job: TrainJob, data: TrainData) -> np.ndarray:
    return head_logits(head, data.x_ND, job.settings.activation)


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("n_steps", [1, 100, 123])
def test_logits_equal_plain_torchs_after_so_many_steps(n_classes: int, n_steps: int) -> None:
    data = make_data(n_classes=n_classes)
    jobs = [
        TrainJob(SgdSettings(batch_size=32, max_steps=n_steps, **each), seed=number % 2)
        for number, each in enumerate(GRID)
    ]
    for job, head in zip(jobs, train_heads(data, jobs), strict=True):
        expected = plain_logits(train_plainly(data, job, n_steps), data.x_ND)
        np.testing.assert_allclose(logits(head, job, data), expected, atol=1e-4)
        assert head.n_steps == n_steps


@pytest.mark.parametrize(
    "changes",
    [
        {"label_smoothing": 0.1},
        {"class_weight": "balanced"},
        {"class_weight": "balanced", "label_smoothing": 0.2, "hidden_units": 5},
        {"optimizer": "SGD", "nesterov": True, "lr": 0.05},
        {"optimizer": "SGD", "momentum": 0.0, "lr": 0.05},
        {"betas": (0.8, 0.95), "eps": 1e-3},
        {"hidden_units": 6, "activation": "gelu", "lr": 0.02},
        {"drop_last": True},
        {"batch_size": 1000},
    ],
)
@pytest.mark.parametrize("n_classes", [2, 3])
def test_every_setting_means_what_torch_means(n_classes: int, changes: dict[str, object]) -> None:
    data = make_data(n_classes=n_classes)
    job = TrainJob(SgdSettings.model_validate({"batch_size": 32, "max_steps": 25, "lr": 1e-2} | changes))
    (head,) = train_heads(data, [job])
    np.testing.assert_allclose(
        logits(head, job, data), plain_logits(train_plainly(data, job, 25), data.x_ND), atol=1e-4
    )


def test_one_logit_is_binary_cross_entropy() -> None:
    data = make_data()
    job = TrainJob(SgdSettings(one_logit=True, lr=1e-2, max_steps=30, batch_size=32))
    (head,) = train_heads(data, [job])
    assert head.layers[0].weight_OI.shape == (1, 20)
    np.testing.assert_allclose(
        logits(head, job, data), plain_logits(train_plainly(data, job, 30), data.x_ND), atol=1e-4
    )


SCHEDULES = {
    "eva's quirk": ((Hold(),), [(torch.optim.lr_scheduler.ConstantLR, "epoch")]),
    "cosine": (
        (Cosine(final=0.1),),
        [(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=32, eta_min=0.1 * 1e-2), "step")],
    ),
    "warm-up": (
        (WarmUp(start=0.2, length=6, unit="step"),),
        [(lambda o: torch.optim.lr_scheduler.LinearLR(o, start_factor=0.2, total_iters=6), "step")],
    ),
    "both": (
        (Hold(length=3), Cosine(unit="epoch")),
        [
            (
                lambda o: torch.optim.lr_scheduler.LambdaLR(
                    o, lambda e: (1 / 3 if e < 3 else 1) * (1 + np.cos(np.pi * e / 8)) / 2
                ),
                "epoch",
            )
        ],
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_equal_torchs(name: str) -> None:
    pieces, schedulers = SCHEDULES[name]
    data = make_data()
    job = TrainJob(SgdSettings(schedule=pieces, lr=1e-2, epochs=8, batch_size=32))
    (head,) = train_heads(data, [job])
    expected = plain_logits(train_plainly(data, job, 32, schedulers), data.x_ND)
    np.testing.assert_allclose(logits(head, job, data), expected, atol=1e-4)


def test_standardisation_is_fitted_on_the_training_rows_and_folded_into_the_head() -> None:
    data = make_data(standardise=True)
    x = data.x_ND * 7 + 300
    x[:, 3], x[:, 4] = 5.0, 300 + 0.01 * data.x_ND[:, 4]
    data = dataclasses.replace(data, x_ND=x)
    train = data.splits[0].train_rows
    std = x[train].astype(np.float64).std(axis=0)
    z = ((x.astype(np.float64) - x[train].mean(axis=0)) / floored(std)).astype(np.float32)
    job = TrainJob(SgdSettings(lr=1e-2, max_steps=40, batch_size=32, hidden_units=4))
    (head,) = train_heads(data, [job])
    plain = train_plainly(dataclasses.replace(data, x_ND=z), job, 40)
    np.testing.assert_allclose(logits(head, job, data), plain_logits(plain, z), atol=1e-3)


def test_a_head_does_not_depend_on_the_ones_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_data(n_classes=3)
    rng = np.random.default_rng(5)
    jobs = [
        TrainJob(
            SgdSettings(optimizer=str(o), lr=10 ** rng.uniform(-4, -2), batch_size=int(b), epochs=int(e)), seed=int(s)
        )
        for o, b, e, s in zip(
            rng.choice(["AdamW", "Adam", "SGD"], 40),
            rng.choice([16, 32], 40),
            rng.choice([2, 5], 40),
            rng.integers(0, 3, 40),
            strict=True,
        )
    ]
    together = train_heads(data, jobs)
    order = rng.permutation(len(jobs))
    monkeypatch.setitem(data_module.CHUNK_BYTES, "cpu", 3 * 4 * 32 * 4)
    shuffled = train_heads(data, [jobs[j] for j in order])
    for place, j in enumerate(order):
        np.testing.assert_allclose(shuffled[place].layers[0].weight_OI, together[j].layers[0].weight_OI, atol=1e-5)
        assert shuffled[place].n_epochs == together[j].n_epochs == jobs[j].settings.epochs


@settings(max_examples=15)
@given(seed=st.integers(0, 1000), n_jobs=st.integers(1, 30), limit=st.integers(1, 40))
def test_every_job_is_in_exactly_one_chunk_with_jobs_that_step_alike(seed: int, n_jobs: int, limit: int) -> None:
    rng = np.random.default_rng(seed)
    base = make_data()
    data = dataclasses.replace(base, splits=(base.splits[0], TrainSplit(np.arange(10)), TrainSplit(np.arange(10, 20))))
    jobs = [
        TrainJob(
            SgdSettings(
                lr=rng.random() + 1e-9, batch_size=int(rng.choice([8, 16])), hidden_units=int(rng.choice([0, 2]))
            ),
            split=int(rng.integers(3)),
            seed=int(rng.integers(2)),
        )
        for _ in range(n_jobs)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(data_module.CHUNK_BYTES, "cpu", limit * 256)
        chunks = plan_chunks(data, jobs, "cpu")
    assert sorted(j for part in chunks for j in part.job_ST.ravel()) == list(range(n_jobs))
    for part in chunks:
        for stream in part.job_ST:
            assert len({(jobs[j].split, jobs[j].seed) for j in stream}) == 1
        shapes = {(jobs[j].settings.batch_size, jobs[j].settings.hidden_units) for j in part.job_ST.ravel()}
        assert len(shapes) == 1
        assert len({len(data.splits[jobs[j].split].train_rows) for j in part.job_ST.ravel()}) == 1


def test_rows_read_from_a_mapped_half_precision_file_equal_rows_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_data(standardise=True)
    np.save(tmp_path / "x.npy", data.x_ND.astype(np.float16))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    jobs = [TrainJob(SgdSettings(lr=1e-2, epochs=3, batch_size=32))]
    dense = train_heads(dataclasses.replace(data, x_ND=np.asarray(mapped).astype(np.float32)), jobs)
    monkeypatch.setattr(data_module, "DENSE_BYTES", 0)
    monkeypatch.setattr(data_module, "HELD_BYTES", 0)
    monkeypatch.setattr(data_module, "BLOCK_ROWS", 7)
    streamed = train_heads(dataclasses.replace(data, x_ND=mapped), jobs)
    np.testing.assert_allclose(streamed[0].layers[0].weight_OI, dense[0].layers[0].weight_OI, atol=1e-6)
    np.testing.assert_allclose(streamed[0].curve("log_loss"), dense[0].curve("log_loss"), atol=1e-6)


def test_patience_keeps_the_best_epoch_and_ends_a_trial_as_one_by_one() -> None:
    data = make_data(n=60)
    options = TrainOptions(("balanced_accuracy",), Stopping(monitor="log_loss", patience=3))
    jobs = [TrainJob(SgdSettings(lr=lr, epochs=60, batch_size=8), seed=s) for lr in (3e-2, 0.3, 1e-5) for s in (0, 1)]
    heads = train_heads(data, jobs, options)
    assert len({head.n_epochs for head in heads}) > 2
    for job, head in zip(jobs, heads, strict=True):
        (alone,) = train_heads(data, [job], options)
        curve = head.curve("log_loss")
        assert len(curve) == head.n_epochs == alone.n_epochs
        assert head.kept_epoch == 1 + int(np.argmin(curve)) == alone.kept_epoch
        assert head.n_epochs == min(head.kept_epoch + 3, 60)
        stopped = TrainJob(job.settings.model_copy(update={"epochs": head.kept_epoch}), seed=job.seed)
        (there,) = train_heads(data, [stopped])
        np.testing.assert_allclose(head.layers[0].weight_OI, there.layers[0].weight_OI, atol=1e-5)


def test_the_best_epoch_by_macro_f1_is_the_first_of_equal_ones() -> None:
    data = make_data(n_classes=3)
    options = TrainOptions(("macro_f1",), Stopping(monitor="macro_f1"))
    jobs = [TrainJob(SgdSettings(optimizer="Adam", lr=lr, epochs=15, batch_size=64)) for lr in (1e-3, 1e-2, 1e-1)]
    for head in train_heads(data, jobs, options):
        assert head.n_epochs == 15
        assert head.kept_epoch == 1 + int(np.argmax(head.curve("macro_f1")))


def test_a_diverged_trial_says_so_and_harms_nobody() -> None:
    data = make_data()
    good = [
        TrainJob(SgdSettings(optimizer="SGD", lr=1e-2, epochs=6, batch_size=32, weight_decay=0.1)) for _ in range(2)
    ]
    bad = TrainJob(SgdSettings(optimizer="SGD", lr=1e4, epochs=6, batch_size=32, weight_decay=0.1))
    first, lost, second = train_heads(data, [good[0], bad, good[1]])
    assert lost.diverged and not first.diverged and not second.diverged
    assert lost.n_epochs < 6
    assert np.isnan(lost.layers[0].weight_OI).all()
    (alone,) = train_heads(data, good[:1])
    np.testing.assert_allclose(first.layers[0].weight_OI, alone.layers[0].weight_OI, atol=1e-6)


def test_initial_weights_follow_torchs_default_distribution() -> None:
    layers = train_module.linear_layers(TrainJob(SgdSettings(hidden_units=400)), 100, 2)
    ours, torchs = layers[0].weight_OI.ravel(), torch.nn.Linear(100, 400).weight.detach().numpy().ravel()
    quantiles = np.linspace(0, 1, 21)
    np.testing.assert_allclose(np.quantile(ours, quantiles), np.quantile(torchs, quantiles), atol=3e-3)
    assert np.abs(layers[1].weight_OI).max() <= 1 / 20
    assert np.abs(layers[0].bias_O).max() <= 0.1


def test_order_and_initial_weights_can_be_given() -> None:
    data = make_data()
    job = TrainJob(SgdSettings(epochs=2, batch_size=50))
    zero = train_module.linear_layers(job, 20, 2)[0]
    zero = dataclasses.replace(zero, weight_OI=np.zeros_like(zero.weight_OI), bias_O=np.zeros_like(zero.bias_O))
    seen: list[tuple[int, int, int]] = []

    def order(seed: int, epoch: int, n: int) -> np.ndarray:
        seen.append((seed, epoch, n))
        return np.arange(n)

    (head,) = train_heads(data, [job], TrainOptions(order=order, initial=lambda _: (zero,)))
    assert seen == [(0, 0, 100), (0, 1, 100)]
    np.testing.assert_allclose(head.layers[0].weight_OI[0], -head.layers[0].weight_OI[1], atol=1e-7)


def test_one_logit_of_three_classes_is_refused() -> None:
    with pytest.raises(UserError, match="two classes"):
        train_heads(make_data(n_classes=3), [TrainJob(SgdSettings(one_logit=True))])


def test_a_monitor_without_held_out_rows_is_refused() -> None:
    data = dataclasses.replace(make_data(), splits=(TrainSplit(np.arange(50)),))
    with pytest.raises(ValueError, match="held-out"):
        train_heads(data, [TrainJob(SgdSettings())], TrainOptions(stopping=Stopping(monitor="macro_f1")))
