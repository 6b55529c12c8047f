"""eva's and THUNDER's heads against the same training written in plain torch, one head at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, f1_score
from sklearn.neighbors import KNeighborsClassifier

from histotune.heads.sgd.jobs import LearningCurve, TrainedHead, TrainJob
from histotune.heads.sgd.steps import linear_layers, shuffled_order
from histotune.published.eva import eva
from histotune.published.protocols import EvaConfig, ProtocolData, ThunderConfig
from histotune.published.thunder import best_head, thunder, thunder_jobs
from tests.heads.test_neighbours import cohort

N = 240


def data_of(n_classes: int = 3) -> ProtocolData:
    x, y = cohort(N, 0, n_classes=n_classes)
    rows = np.random.default_rng(0).permutation(N)
    return ProtocolData(x, y, n_classes, rows[:130], rows[130:180], rows[180:])


def start(job: TrainJob, n_classes: int) -> torch.nn.Linear:
    """A layer with the weights that the batched loop begins with."""
    (layer,) = linear_layers(job, 24, n_classes)
    head = torch.nn.Linear(24, len(layer.bias_O))
    with torch.no_grad():
        head.weight.copy_(torch.tensor(layer.weight_OI))
        head.bias.copy_(torch.tensor(layer.bias_O))
    return head


def eva_by_hand(data: ProtocolData, config: EvaConfig, seed: int) -> tuple[np.ndarray, int, int]:
    """One run as Lightning runs it: predictions of the best epoch, that epoch, epochs trained."""
    from histotune.published.eva import eva_settings

    binary = data.n_classes == 2
    head = start(TrainJob(eva_settings(config, one_logit=binary), 0, seed), data.n_classes)
    optimiser = torch.optim.AdamW(head.parameters(), lr=config.lr)
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimiser)
    x, y = torch.tensor(data.x_ND), torch.tensor(data.y_N)
    best, best_predicted, best_epoch, waited, steps, epoch = -1.0, np.zeros(0), 0, 0, 0, 0
    while steps < config.max_steps and waited < config.patience:
        order = data.train_rows[shuffled_order(seed, epoch, len(data.train_rows))]
        for first in range(0, len(order), config.batch_size):
            rows = order[first : first + config.batch_size]
            logit = head(x[rows])
            loss = (
                torch.nn.functional.binary_cross_entropy_with_logits(logit[:, 0], y[rows].float())
                if binary
                else torch.nn.functional.cross_entropy(logit, y[rows])
            )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            steps += 1
        scheduler.step()
        epoch += 1
        with torch.no_grad():
            decide = (lambda z: (z[:, 0] > 0).long()) if binary else (lambda z: z.argmax(1))
            score = balanced_accuracy_score(y[data.valid_rows], decide(head(x[data.valid_rows])))
            waited += 1
            if score > best:
                best, best_epoch, waited = score, epoch, 0
                best_predicted = decide(head(x[data.scored_rows])).numpy()
    return best_predicted, best_epoch, epoch


@pytest.mark.parametrize("n_classes", [2, 3])
def test_eva_equals_plain_torch(n_classes: int) -> None:
    data = data_of(n_classes)
    config = EvaConfig(runs=2, max_steps=100, batch_size=32, patience=6, lr=3e-3, seed=7)
    (arm,) = eva(data, config, "cpu")
    for number, run in enumerate(arm.runs):
        predicted, kept, trained = eva_by_hand(data, config, 7 + number)
        assert (run.probability_nK.argmax(axis=1) == predicted).all()
        assert run.chosen.startswith(f"epoch {kept} of {trained},")
        assert run.value == pytest.approx(balanced_accuracy_score(data.y_N[data.scored_rows], predicted))
    assert arm.mean == pytest.approx(np.mean([run.value for run in arm.runs]))


def test_ten_shot_draws_its_tiles_anew_and_looks_every_tenth_epoch() -> None:
    data = data_of(2)
    config = EvaConfig(runs=4, shots=10, max_steps=400, check_every=10, patience=3, min_delta=1e-4, lr=1e-2)
    (arm,) = eva(data, config, "cpu")
    epochs = [int(run.chosen.split()[1]) for run in arm.runs]
    assert all(epoch % 10 == 0 and 0 < epoch <= 400 for epoch in epochs)
    assert len({run.probability_nK.tobytes() for run in arm.runs}) == 4
    again = eva(data, config, "cpu")[0]
    assert [run.value for run in again.runs] == [run.value for run in arm.runs]


def test_a_diverged_run_has_no_score() -> None:
    (arm,) = eva(data_of(), EvaConfig(runs=2, lr=1e30, max_steps=50), "cpu")
    assert all(np.isnan(run.value) and "diverged" in run.chosen for run in arm.runs)
    assert np.isnan(arm.mean)


def test_thunder_equals_plain_torch_and_scikit_learn() -> None:
    data = data_of()
    config = ThunderConfig(epochs=12, draws=20, shots=(2,), k=(1, 5, 20))
    probe, knn, few = thunder(data, config, "cpu")
    x, y = torch.tensor(data.x_ND), torch.tensor(data.y_N)
    heads = [start(job, 3) for job in thunder_jobs(config)]
    optimiser = torch.optim.Adam(
        [{"params": head.parameters(), "lr": job.settings.lr, "weight_decay": job.settings.weight_decay}
         for head, job in zip(heads, thunder_jobs(config), strict=True)]
    )  # fmt: skip
    best, chosen, predicted = -1.0, "", np.zeros(0)
    for epoch in range(12):
        order = data.train_rows[shuffled_order(0, epoch, len(data.train_rows))]
        for first in range(0, len(order), 64):
            rows = order[first : first + 64]
            optimiser.zero_grad()
            sum(torch.nn.functional.cross_entropy(head(x[rows]), y[rows]) for head in heads).backward()
            optimiser.step()
        for head, job in zip(heads, thunder_jobs(config), strict=True):
            score = f1_score(y[data.valid_rows], head(x[data.valid_rows]).argmax(1), average="macro")
            if score > best:
                best, predicted = score, head(x[data.scored_rows]).argmax(1).numpy()
                chosen = f"lr {job.settings.lr:g}, weight decay {job.settings.weight_decay:g}, epoch {epoch + 1} of 12"
    assert probe.runs[0].chosen == chosen
    assert (probe.runs[0].probability_nK.argmax(axis=1) == predicted).all()
    train_x, train_y = data.x_ND[data.train_rows], data.y_N[data.train_rows]
    peers = [KNeighborsClassifier(k, metric="cosine").fit(train_x, train_y) for k in (1, 5, 20)]
    valid = [
        f1_score(data.y_N[data.valid_rows], peer.predict(data.x_ND[data.valid_rows]), average="macro") for peer in peers
    ]
    assert knn.runs[0].chosen == f"k = {(1, 5, 20)[int(np.argmax(valid))]}"
    assert few.name == "SimpleShot, 2 shots" and "majority vote over all draws" in few.note


def test_the_best_head_is_the_first_of_equals() -> None:
    def head(values: list[float], kept: int, diverged: bool = False) -> TrainedHead:
        return TrainedHead((), (LearningCurve("macro_f1", np.array(values)),), kept, len(values), 1, diverged)

    tie = [head([0.5, 0.9], 2), head([0.9, 0.9], 1), head([0.9, 0.1], 1), head([0.99, 1.0], 2, diverged=True)]
    assert best_head(tie) == 1
