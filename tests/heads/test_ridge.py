from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from sklearn.linear_model import RidgeClassifier

from histotune.heads.solver import ridge, stream
from histotune.heads.solver.problems import FitProblems
from histotune.heads.solver.ridge import fit_ridge
from tests.heads.samples import FlooredScaler, floored
from tests.heads.test_logistic import fold_masks, make_data, problems_over

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histotune.heads.solver.problems import FitSolution

PENALTIES = np.array([1e-3, 0.1, 10.0])


def assert_is_sklearns(x: NDArray, y: NDArray, problems: FitProblems, solution: FitSolution) -> None:
    for p, (mask, penalty) in enumerate(zip(problems.mask_index_P, problems.penalty_P, strict=True)):
        weight = np.asarray(problems.mask_FN[mask], np.float64)
        rows = weight > 0
        scaler = FlooredScaler().fit(x[rows].astype(np.float64), sample_weight=weight[rows])
        model = RidgeClassifier(alpha=penalty * weight.sum(), solver="cholesky")
        model.fit(scaler.transform(x[rows].astype(np.float64)), y[rows], sample_weight=weight[rows])
        score = model.decision_function(scaler.transform(x.astype(np.float64)))
        ours = x.astype(np.float64) @ solution.weight_PKD[p].T + solution.bias_PK[p]
        np.testing.assert_allclose(ours.squeeze(), score, atol=1e-7 * max(1.0, np.abs(score).max()))
    assert (solution.gradient_norm_P < 1e-9).all()


@pytest.mark.parametrize("n_classes", [2, 4, 8])
@pytest.mark.parametrize(("n", "dim"), [(90, 150), (300, 25)], ids=["n<dim", "n>dim"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_scores_are_sklearns(n: int, dim: int, n_classes: int, dtype: type) -> None:
    x, y = make_data(n, dim, n_classes)
    x = x.astype(dtype)
    problems = problems_over(fold_masks(n, 3), n_classes, PENALTIES)
    assert_is_sklearns(x, y, problems, fit_ridge(x, y, problems))


@pytest.mark.parametrize("shared_bytes", [2**31, 0], ids=["kinds of rows", "a Gram matrix per mask"])
def test_class_and_sample_weights(shared_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ridge, "SHARED_GRAM_BYTES", shared_bytes)
    x, y = make_data(200, 20, 3)
    balanced = len(y) / np.bincount(y)[y] * fold_masks(200, 2)[0]
    uneven = np.random.default_rng(3).uniform(0.1, 4.0, 200)
    problems = problems_over(np.stack([balanced, uneven]), 3, PENALTIES)
    assert_is_sklearns(x, y, problems, fit_ridge(x, y, problems))


@pytest.mark.parametrize("kind", ["collinear", "constant", "scaled"])
def test_awkward_columns(kind: str) -> None:
    x, y = make_data(200, 20)
    x = x.astype(np.float64)
    if kind == "collinear":
        x[:, 5:10] = x[:, :5]
    elif kind == "constant":
        x[:, 3], x[:, 4] = 0.0, 7.5
    else:
        x *= np.logspace(-6, 6, 20)
    problems = problems_over(fold_masks(200, 2), penalties=PENALTIES)
    assert_is_sklearns(x, y, problems, fit_ridge(x, y, problems))


def test_sets_of_columns_blocks_and_order_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = make_data(200, 30)
    masks, sets = fold_masks(200, 2), (np.arange(12), np.r_[3, np.arange(10, 30)])
    problems = FitProblems(masks, np.tile([0, 1], 4), np.tile([0.1, 0.1, 1.0, 1.0], 2), 2, sets, np.repeat([0, 1], 4))
    together = fit_ridge(x, y, problems)
    for number, columns in enumerate(sets):
        which = problems.columns_index_P == number
        part = FitProblems(masks, problems.mask_index_P[which], problems.penalty_P[which], 2)
        alone = fit_ridge(x[:, columns], y, part)
        np.testing.assert_allclose(together.weight_PKD[which][:, :, columns], alone.weight_PKD, atol=1e-10)
    order = np.random.default_rng(1).permutation(200)
    monkeypatch.setattr(stream, "HELD_BYTES", 0)
    monkeypatch.setattr(stream, "BLOCK_ROWS", 32)
    shuffled = FitProblems(
        masks[:, order], problems.mask_index_P, problems.penalty_P, 2, sets, problems.columns_index_P
    )
    np.testing.assert_allclose(fit_ridge(x[order], y[order], shuffled).weight_PKD, together.weight_PKD, atol=1e-9)


def test_objective_is_the_documented_one() -> None:
    x, y = make_data(150, 10, 3)
    problems = problems_over(np.ones((1, 150), bool), 3, PENALTIES)
    solution = fit_ridge(x, y, problems)
    target = 2.0 * (y[:, None] == np.arange(3)) - 1.0
    for p, penalty in enumerate(PENALTIES):
        score = x.astype(np.float64) @ solution.weight_PKD[p].T + solution.bias_PK[p]
        w = solution.weight_PKD[p] * floored(x.astype(np.float64).std(axis=0))
        objective = 0.5 * ((score - target) ** 2).sum(axis=1).mean() + penalty / 2 * (w**2).sum()
        assert solution.objective_P[p] == pytest.approx(objective, rel=1e-8)


def test_what_has_no_solution_is_refused() -> None:
    x, y = make_data(20, 5)
    with pytest.raises(ValueError, match="penalty must be positive"):
        fit_ridge(x, y, problems_over(np.ones((1, 20), bool), penalties=np.array([0.0])))
