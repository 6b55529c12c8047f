"""UNI's tasks against the original's algorithms written out."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.neighbors import KNeighborsClassifier

from histotune.published.protocols import ProtocolData, UniConfig
from histotune.published.uni import uni, uni_logistic
from tests.heads.test_neighbours import cohort


def data_of(n: int = 240, n_classes: int = 3) -> ProtocolData:
    x, y = cohort(n, 0, n_classes=n_classes)
    rows = np.arange(n)
    return ProtocolData(x, y, n_classes, rows[: n // 2], rows[n // 2 : 3 * n // 4], rows[3 * n // 4 :])


def test_the_logistic_regression_is_a_minimum_of_the_published_objective() -> None:
    data = data_of()
    x, y = data.x_ND[data.train_rows].astype(np.float64), data.y_N[data.train_rows]
    weight, bias = uni_logistic(x, y, 3)
    w = torch.tensor(weight, requires_grad=True)
    b = torch.tensor(bias, requires_grad=True)
    loss = torch.nn.functional.cross_entropy(torch.tensor(x) @ w.T + b, torch.tensor(y))
    (loss + 100 / (24 * 3) * 0.5 * w.norm()).backward()
    assert w.grad is not None and b.grad is not None
    assert w.grad.abs().max() < 2e-3 and b.grad.abs().max() < 2e-3
    assert abs(weight.sum(axis=0)).max() < 1e-3  # of all equal solutions the shortest


def test_rows_of_the_table() -> None:
    data = data_of()
    arms = {arm.name: arm for arm in uni(data, UniConfig(draws=30, shots=(1, 4, 1000)), "cpu")}
    assert list(arms) == [
        "logistic regression",
        "kNN",
        "class prototypes",
        "SimpleShot, 1 shots",
        "SimpleShot, 4 shots",
    ]
    joined = np.concatenate([data.train_rows, data.valid_rows])
    x, y = data.x_ND.astype(np.float64), data.y_N
    mean = x[joined].mean(axis=0)
    unit = lambda rows: (x[rows] - mean) / np.linalg.norm(x[rows] - mean, axis=1, keepdims=True)  # noqa: E731
    knn = KNeighborsClassifier(20).fit(unit(joined), y[joined]).predict(unit(data.scored_rows))
    assert (arms["kNN"].runs[0].probability_nK.argmax(axis=1) == knn).all()
    prototype = np.stack([unit(joined)[y[joined] == k].mean(axis=0) for k in range(3)])
    nearest = np.linalg.norm(unit(data.scored_rows)[:, None] - prototype[None], axis=2).argmin(axis=1)
    assert (arms["class prototypes"].runs[0].probability_nK.argmax(axis=1) == nearest).all()
    four = arms["SimpleShot, 4 shots"]
    assert len(four.values) == 30 and 0 < four.sd < 0.3
    assert arms["SimpleShot, 1 shots"].mean < four.mean < arms["logistic regression"].mean + 0.1


def test_scored_tiles_never_train() -> None:
    data = data_of()
    same = ProtocolData(data.x_ND, data.y_N, 3, data.train_rows, data.scored_rows, data.scored_rows)
    x = data.x_ND.copy()
    arms = uni(same, UniConfig(draws=2, shots=()), "cpu")
    y = data.y_N.copy()
    y[data.scored_rows] = (y[data.scored_rows] + 1) % 3
    others = uni(
        ProtocolData(x, y, 3, same.train_rows, same.valid_rows, same.scored_rows), UniConfig(draws=2, shots=()), "cpu"
    )
    for one, other in zip(arms, others, strict=True):
        assert (one.runs[0].probability_nK == other.runs[0].probability_nK).all()
