from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression

from histotune.heads.solver.coordinates import GramCoordinates, SharedCoordinates, make_coordinates
from histotune.heads.solver.logistic import fit_batch
from histotune.heads.solver.problems import FitProblems, FitSettings, FitSolution
from tests.heads.samples import FlooredScaler, floored

if TYPE_CHECKING:
    from numpy.typing import NDArray

PENALTIES = np.array([1e-4, 1e-2, 1.0, 100.0])


def make_data(n: int, dim: int, n_classes: int = 2, seed: int = 0, signal: float = 1.0):  # noqa: ANN201
    rng = np.random.default_rng(seed)
    y = rng.integers(0, n_classes, n)
    latent = rng.standard_normal((n, 12))
    latent[np.arange(n), y] += signal
    x = latent @ rng.standard_normal((12, dim)) + 0.3 * rng.standard_normal((n, dim))
    return x.astype(np.float32), y


def problems_over(masks: NDArray, n_classes: int = 2, penalties: NDArray = PENALTIES) -> FitProblems:
    index = np.repeat(np.arange(len(masks)), len(penalties))
    return FitProblems(masks, index, np.tile(penalties, len(masks)), n_classes)


def fold_masks(n: int, n_folds: int, seed: int = 1) -> NDArray:
    fold = np.random.default_rng(seed).permutation(n) % n_folds
    return np.stack([fold != k for k in range(n_folds)])


def sklearn_fit(x: NDArray, y: NDArray, weight: NDArray, penalty: float):  # noqa: ANN201
    """Objective and raw-column weights of scikit-learn on the same standardised features."""
    rows = weight > 0
    x, y, weight = x[rows].astype(np.float64), y[rows], weight[rows]
    scaler = FlooredScaler().fit(x, sample_weight=weight)
    z = scaler.transform(x)
    share = weight / weight.sum()
    model = LogisticRegression(C=1 / (penalty * len(z)), tol=1e-8, max_iter=20_000)
    model.fit(z, y, sample_weight=share * len(z))
    logit = model.decision_function(z)
    if logit.ndim == 1:
        loss = np.logaddexp(0, -(2 * y - 1) * logit)
    else:
        loss = logsumexp(logit, axis=1) - logit[np.arange(len(y)), y]
    objective = share @ loss + penalty / 2 * (model.coef_**2).sum()
    return objective, model.coef_ / scaler.scale_, logit


def assert_as_good_as_sklearn(x: NDArray, y: NDArray, problems: FitProblems, solution: FitSolution) -> None:
    assert solution.converged_P.all()
    for p, (mask, penalty) in enumerate(zip(problems.mask_index_P, problems.penalty_P, strict=True)):
        weight = np.asarray(problems.mask_FN[mask], np.float64)
        objective, _, logit = sklearn_fit(x, y, weight, penalty)
        # weakly penalised separable classes stop scikit-learn early, so ours may lie a little lower
        assert -1e-3 * objective <= solution.objective_P[p] - objective <= 1e-5 * objective
        ours = x[weight > 0].astype(np.float64) @ solution.weight_PKD[p].T + solution.bias_PK[p]
        scale = max(1.0, np.abs(logit).max())
        np.testing.assert_allclose(ours.squeeze(), logit, atol=5e-3 * scale)


def direct_objective(x: NDArray, y: NDArray, weight: NDArray, penalty: float, w: NDArray, b: NDArray) -> float:
    """The documented objective, computed from raw-column weights."""
    share = weight / weight.sum()
    x = x.astype(np.float64)
    mean = share @ x
    std = floored(np.sqrt(share @ (x - mean) ** 2))
    logit = x @ w.T + b
    if len(w) == 1:
        logit = np.hstack([np.zeros_like(logit), logit])
    loss = logsumexp(logit, axis=1) - logit[np.arange(len(y)), y]
    return float(share @ loss + penalty / 2 * ((w * std) ** 2).sum())


@pytest.mark.parametrize("n_classes", [2, 3, 4])
@pytest.mark.parametrize(("n", "dim"), [(60, 200), (400, 30)], ids=["n<dim", "n>dim"])
def test_objective_equals_sklearns(n: int, dim: int, n_classes: int) -> None:
    x, y = make_data(n, dim, n_classes)
    problems = problems_over(fold_masks(n, 3), n_classes)
    assert_as_good_as_sklearn(x, y, problems, fit_batch(x, y, problems))


def test_reported_objective_is_that_of_the_returned_weights() -> None:
    for n, dim, n_classes in ((50, 120, 2), (300, 20, 3)):
        x, y = make_data(n, dim, n_classes)
        problems = problems_over(fold_masks(n, 2), n_classes)
        solution = fit_batch(x, y, problems)
        for p, mask in enumerate(problems.mask_index_P):
            rows = problems.mask_FN[mask]
            ours = direct_objective(x[rows], y[rows], np.ones(rows.sum()), problems.penalty_P[p],
                                    solution.weight_PKD[p], solution.bias_PK[p])  # fmt: skip
            assert ours == pytest.approx(solution.objective_P[p], rel=1e-7)


@pytest.mark.parametrize("kind", ["collinear", "constant", "scaled", "duplicates"])
@pytest.mark.parametrize(("n", "dim"), [(50, 90), (300, 25)], ids=["n<dim", "n>dim"])
def test_awkward_columns(n: int, dim: int, kind: str) -> None:
    x, y = make_data(n, dim)
    x = x.astype(np.float64)
    if kind == "collinear":
        x[:, 5:10] = x[:, :5]
        x[:, 10] = x[:, 0] + x[:, 1]
    elif kind == "constant":
        x[:, 3], x[:, 4], x[:, 5] = 0.0, 7.5, 0.1
    elif kind == "scaled":
        x *= np.logspace(-6, 6, dim)
        x[:, :4] += 1e3 * x[:, :4].std(axis=0)
    else:
        x[10:20], y[10:20] = x[:10], y[:10]
    problems = problems_over(fold_masks(n, 2), penalties=np.array([1e-3, 0.1, 10.0]))
    assert_as_good_as_sklearn(x, y, problems, fit_batch(x, y, problems))


def test_column_that_is_constant_in_one_fold_only() -> None:
    x, y = make_data(40, 90)
    masks = fold_masks(40, 2)
    x[masks[0], 7] = 2.0
    problems = problems_over(masks, penalties=np.array([0.1]))
    solution = fit_batch(x, y, problems)
    assert_as_good_as_sklearn(x, y, problems, solution)
    assert solution.weight_PKD[0, 0, 7] == 0


@pytest.mark.parametrize(("n", "dim"), [(40, 100), (200, 10)], ids=["n<dim", "n>dim"])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_separable_classes_with_tiny_penalties(n: int, dim: int, n_classes: int) -> None:
    x, y = make_data(n, dim, n_classes, signal=30.0)
    problems = problems_over(np.ones((1, n), bool), n_classes, penalties=np.array([1e-6, 1e-5, 1e-4]))
    assert_as_good_as_sklearn(x, y, problems, fit_batch(x, y, problems))


@pytest.mark.parametrize(("n", "dim"), [(60, 150), (300, 20)], ids=["n<dim", "n>dim"])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_real_sample_weights_such_as_balanced_classes(n: int, dim: int, n_classes: int) -> None:
    x, y = make_data(n, dim, n_classes)
    keep = np.flatnonzero((y > 0) | (np.arange(n) % 4 == 0))
    x, y = x[keep], y[keep]
    balanced = len(y) / np.bincount(y)[y]
    uneven = np.random.default_rng(3).uniform(0.1, 4.0, len(y)) * (np.arange(len(y)) % 5 > 0)
    problems = problems_over(np.stack([balanced, uneven]), n_classes)
    assert_as_good_as_sklearn(x, y, problems, fit_batch(x, y, problems))


@pytest.mark.parametrize(("n", "dim"), [(60, 150), (300, 20)], ids=["n<dim", "n>dim"])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_batched_equals_one_by_one(n: int, dim: int, n_classes: int) -> None:
    x, y = make_data(n, dim, n_classes)
    problems = problems_over(fold_masks(n, 3), n_classes)
    shuffled = np.random.default_rng(0).permutation(len(problems.penalty_P))  # masks interleaved
    problems = FitProblems(problems.mask_FN, problems.mask_index_P[shuffled], problems.penalty_P[shuffled], n_classes)
    together = fit_batch(x, y, problems)
    for p, (mask, penalty) in enumerate(zip(problems.mask_index_P, problems.penalty_P, strict=True)):
        alone = fit_batch(x, y, problems_over(problems.mask_FN[mask : mask + 1], n_classes, np.array([penalty])))
        assert alone.objective_P[0] == pytest.approx(together.objective_P[p], rel=1e-9)
        scale = np.abs(alone.weight_PKD[0]).max()
        np.testing.assert_allclose(together.weight_PKD[p], alone.weight_PKD[0], atol=1e-5 * scale)


@pytest.mark.parametrize(("n", "dim"), [(60, 150), (300, 20)], ids=["n<dim", "n>dim"])
def test_row_order_changes_nothing(n: int, dim: int) -> None:
    x, y = make_data(n, dim)
    masks = fold_masks(n, 3)
    order = np.random.default_rng(5).permutation(n)
    before = fit_batch(x, y, problems_over(masks))
    after = fit_batch(x[order], y[order], problems_over(masks[:, order]))
    logits_before = x.astype(np.float64) @ before.weight_PKD[:, 0].T + before.bias_PK[:, 0]
    logits_after = x.astype(np.float64) @ after.weight_PKD[:, 0].T + after.bias_PK[:, 0]
    np.testing.assert_allclose(logits_after, logits_before, atol=1e-6 * np.abs(logits_before).max())


def test_gram_and_shared_coordinates_give_one_solution() -> None:
    x, y = make_data(90, 90)
    masks = fold_masks(90, 3)
    weights = masks / masks.sum(axis=1, keepdims=True)
    problems = problems_over(masks, penalties=np.array([0.01, 1.0]))
    found = []
    for kind in (GramCoordinates, SharedCoordinates):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("histotune.heads.solver.logistic.make_coordinates", lambda *_, kind=kind: kind(x, y, weights))
            found.append(fit_batch(x, y, problems))
    np.testing.assert_allclose(found[0].objective_P, found[1].objective_P, rtol=1e-9)
    scale = np.abs(found[0].weight_PKD).max()
    np.testing.assert_allclose(found[0].weight_PKD, found[1].weight_PKD, atol=1e-5 * scale)


def test_the_cheaper_coordinates_are_chosen() -> None:
    x, y = make_data(80, 100)
    assert isinstance(make_coordinates(x, y, np.ones((2, 80))), GramCoordinates)
    assert isinstance(make_coordinates(x[:, :30], y, np.ones((2, 80))), SharedCoordinates)


def test_tiles_outside_every_mask_are_ignored() -> None:
    x, y = make_data(80, 120)
    masks = fold_masks(80, 3)
    masks[:, 60:] = False
    spoiled, unlabelled = x.copy(), y.copy()
    spoiled[60:] *= 50
    unlabelled[60:] = -1
    clean = fit_batch(x[:60], y[:60], problems_over(masks[:, :60]))
    np.testing.assert_array_equal(fit_batch(spoiled, unlabelled, problems_over(masks)).weight_PKD, clean.weight_PKD)


def test_running_out_of_iterations_is_reported() -> None:
    x, y = make_data(60, 100)
    solution = fit_batch(x, y, problems_over(np.ones((1, 60), bool)), FitSettings(max_iterations=2))
    assert not solution.converged_P[0]
    assert (solution.iterations_P <= 2).all()
    assert np.isfinite(solution.weight_PKD).all()


def test_what_has_no_solution_is_refused() -> None:
    x, y = make_data(20, 5)
    every = np.ones((1, 20), bool)
    with pytest.raises(ValueError, match="penalty must be positive"):
        fit_batch(x, y, problems_over(every, penalties=np.array([0.0])))
    with pytest.raises(ValueError, match="needs tiles"):
        fit_batch(x, y, problems_over(np.zeros((1, 20), bool)))
    with pytest.raises(ValueError, match=r"labels must lie in 0\.\.1"):
        fit_batch(x, np.full(20, -1), problems_over(every))
    x[3, 2] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        fit_batch(x, y, problems_over(every))


def test_columns_that_are_zero_in_one_fold_and_rare_elsewhere() -> None:
    """Histogram bins: their mean in a fold is a difference of rounded terms, which must not pass for a tiny spread."""
    rng = np.random.default_rng(0)
    x = np.where(rng.random((150, 40)) < 0.02, rng.random((150, 40)) * 1e-3, 0.0).astype(np.float32)
    x[:, 0] = rng.random(150)
    y = rng.integers(0, 2, 150)
    problems = problems_over(fold_masks(150, 5))
    solution = fit_batch(x, y, problems)
    assert solution.converged_P.all()
    assert np.abs(solution.weight_PKD).max() < 1e7
    assert_as_good_as_sklearn(x, y, problems, solution)
