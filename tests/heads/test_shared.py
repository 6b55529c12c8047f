"""The solver of large matrices: small problems are sent through it here, on NumPy and on torch tensors."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histotune.heads.solver import logistic, shared, stream
from histotune.heads.solver.logistic import fit_batch
from histotune.heads.solver.problems import FitProblems, FitSettings, FitSolution
from histotune.heads.solver.stream import ArrayKit, RowStream
from tests.heads.samples import floored
from tests.heads.test_logistic import assert_as_good_as_sklearn, direct_objective, fold_masks, make_data, problems_over

if TYPE_CHECKING:
    from numpy.typing import NDArray

PENALTIES = np.array([1e-3, 0.03, 1.0, 100.0])
DEVICES = ["cpu", "torch:cpu"]


@pytest.fixture(autouse=True)
def everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logistic, "is_small", lambda *_: False)


def true_gradient(x: NDArray, y: NDArray, weight: NDArray, penalty: float, w: NDArray, b: NDArray) -> NDArray:
    """Gradient on standardised columns, in float64 from the raw columns and the returned weights alone."""
    rows = weight > 0
    share, x, y = weight[rows] / weight[rows].sum(), x[rows].astype(np.float64), y[rows]
    mean = share @ x
    std = np.sqrt(share @ (x - mean) ** 2)
    std = floored(np.where(std < 1e-12 * np.abs(mean), 0.0, std))
    logit = x @ w.T + b
    logit = np.hstack([np.zeros_like(logit), logit]) if len(w) == 1 else logit
    p = np.exp(logit - logit.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    p[np.arange(len(y)), y] -= 1.0
    p = p[:, 1:] if len(w) == 1 else p
    residual = p * share[:, None]
    return np.hstack([residual.T @ ((x - mean) / std) + penalty * w * std, residual.sum(axis=0)[:, None]])


def assert_solved(
    x: NDArray, y: NDArray, problems: FitProblems, solution: FitSolution, tolerance: float = 1e-6
) -> None:
    assert solution.converged_P.all()
    for p, (mask, penalty) in enumerate(zip(problems.mask_index_P, problems.penalty_P, strict=True)):
        weight = np.asarray(problems.mask_FN[mask], np.float64)
        gradient = true_gradient(x, y, weight, penalty, solution.weight_PKD[p], solution.bias_PK[p])
        size = np.linalg.norm(solution.weight_PKD[p] * floored(x[weight > 0].astype(np.float64).std(axis=0)))
        assert np.linalg.norm(gradient) <= 1.5 * tolerance * max(1.0, size)


@pytest.mark.parametrize(
    ("n", "dim", "n_classes", "device"),
    [*((n, dim, k, "cpu") for n, dim in ((150, 200), (400, 30)) for k in (2, 4, 8)), (400, 30, 2, "torch:cpu"),
     (400, 30, 4, "torch:cpu")],
)  # fmt: skip
def test_solution_has_no_gradient_and_sklearns_objective(n: int, dim: int, n_classes: int, device: str) -> None:
    x, y = make_data(n, dim, n_classes)
    problems = problems_over(fold_masks(n, 3), n_classes, PENALTIES)
    solution = fit_batch(x, y, problems, FitSettings(device=device))
    assert_solved(x, y, problems, solution)
    first = FitProblems(problems.mask_FN, problems.mask_index_P[:4], problems.penalty_P[:4], n_classes)
    start = FitSolution(*(getattr(solution, name)[:4] for name in (
        "weight_PKD", "bias_PK", "objective_P", "gradient_norm_P", "iterations_P", "converged_P", "weight_norm_P")),
        passes=solution.passes, mean_FD=solution.mean_FD, std_FD=solution.std_FD)  # fmt: skip
    assert_as_good_as_sklearn(x, y, first, start)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_storage_types(dtype: type) -> None:
    x, y = make_data(300, 40)
    x = (3 * x + 5).astype(dtype)
    problems = problems_over(fold_masks(300, 3), penalties=PENALTIES)
    solution = fit_batch(x, y, problems)
    assert_solved(x, y, problems, solution)
    mask = problems.mask_FN[0]
    ours = direct_objective(x[mask], y[mask], np.ones(mask.sum()), PENALTIES[0], solution.weight_PKD[0],
                            solution.bias_PK[0])  # fmt: skip
    assert ours == pytest.approx(solution.objective_P[0], rel=1e-7)


@pytest.mark.parametrize("kind", ["collinear", "rank-deficient", "constant", "scaled", "offset", "duplicates"])
def test_awkward_columns(kind: str) -> None:
    x, y = make_data(300, 25)
    x = x.astype(np.float64)
    if kind == "collinear":
        x[:, 5:10] = x[:, :5]
        x[:, 10] = x[:, 0] + x[:, 1]
    elif kind == "rank-deficient":
        x = x[:, :6] @ np.random.default_rng(4).standard_normal((6, 25))
    elif kind == "constant":
        x[:, 3], x[:, 4], x[:, 5] = 0.0, 7.5, 0.1
    elif kind == "scaled":
        x *= np.logspace(-25, 25, 25)  # squares leave float32
    elif kind == "offset":
        x += 1e5 * x.std(axis=0)
    else:
        x[10:20], y[10:20] = x[:10], y[:10]
    problems = problems_over(fold_masks(300, 2), penalties=np.array([1e-3, 0.1, 10.0]))
    solution = fit_batch(x, y, problems)
    assert_as_good_as_sklearn(x, y, problems, solution)
    if kind == "constant":
        assert (solution.weight_PKD[:, 0, 3:6] == 0).all()


def test_column_that_is_constant_in_one_fold_only() -> None:
    x, y = make_data(120, 30)
    masks = fold_masks(120, 2)
    x[masks[0], 7] = 2.0
    problems = problems_over(masks, penalties=np.array([0.1]))
    solution = fit_batch(x, y, problems)
    assert_as_good_as_sklearn(x, y, problems, solution)
    assert solution.weight_PKD[0, 0, 7] == 0


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize(("n", "dim"), [(80, 100), (200, 10)], ids=["n<dim", "n>dim"])
def test_separable_classes_with_tiny_penalties(n: int, dim: int, n_classes: int) -> None:
    x, y = make_data(n, dim, n_classes, signal=30.0)
    problems = problems_over(np.ones((1, n), bool), n_classes, penalties=np.array([1e-5, 1e-4]))
    solution = fit_batch(x, y, problems)
    assert_solved(x, y, problems, solution)


@pytest.mark.parametrize("n_classes", [2, 4])
def test_class_and_sample_weights(n_classes: int) -> None:
    x, y = make_data(300, 20, n_classes)
    keep = np.flatnonzero((y > 0) | (np.arange(300) % 4 == 0))
    x, y = x[keep], y[keep]
    balanced = len(y) / np.bincount(y)[y]
    uneven = np.random.default_rng(3).uniform(0.1, 4.0, len(y)) * (np.arange(len(y)) % 5 > 0)
    problems = problems_over(np.stack([balanced, uneven]), n_classes, PENALTIES)
    solution = fit_batch(x, y, problems)
    assert_as_good_as_sklearn(x, y, problems, solution)


@pytest.mark.parametrize("n_classes", [2, 4])
def test_batched_equals_one_by_one_and_any_other_batch(n_classes: int) -> None:
    x, y = make_data(240, 40, n_classes)
    problems = problems_over(fold_masks(240, 3), n_classes, PENALTIES)
    together = fit_batch(x, y, problems)
    order = np.random.default_rng(0).permutation(len(problems.penalty_P))
    part = order[:5]
    some = fit_batch(
        x, y, FitProblems(problems.mask_FN, problems.mask_index_P[part], problems.penalty_P[part], n_classes)
    )
    logits = [x @ solution.weight_PKD.transpose(0, 2, 1) + solution.bias_PK[:, None] for solution in (together, some)]
    np.testing.assert_allclose(logits[1], logits[0][part], atol=1e-4)
    alone = fit_batch(x, y, problems_over(problems.mask_FN[1:2], n_classes, PENALTIES[:1]))
    np.testing.assert_allclose(x @ alone.weight_PKD[0].T + alone.bias_PK[0], logits[0][len(PENALTIES)], atol=1e-4)
    np.testing.assert_allclose(alone.objective_P[0], together.objective_P[len(PENALTIES)], rtol=1e-9)


@settings(max_examples=8)
@given(seed=st.integers(0, 10_000), n_classes=st.sampled_from([2, 3]))
def test_row_order_changes_nothing(seed: int, n_classes: int) -> None:
    x, y = make_data(160, 20, n_classes, seed=seed)
    masks = fold_masks(160, 2, seed)
    order = np.random.default_rng(seed).permutation(160)
    penalties = np.array([0.01, 1.0])
    before = fit_batch(x, y, problems_over(masks, n_classes, penalties))
    after = fit_batch(x[order], y[order], problems_over(masks[:, order], n_classes, penalties))
    for one, two in zip(before.weight_PKD, after.weight_PKD, strict=True):
        np.testing.assert_allclose(x @ two.T, x @ one.T, atol=1e-4)


def test_sets_of_columns_are_the_fits_of_those_columns_alone() -> None:
    x, y = make_data(300, 40)
    sets = (np.arange(15), np.arange(15, 40), np.r_[np.arange(5), np.arange(20, 30)])
    masks, penalties = fold_masks(300, 2), np.array([0.01, 1.0])
    mask_index, set_index = np.tile([0, 0, 1, 1], 3), np.repeat([0, 1, 2], 4)
    solution = fit_batch(x, y, FitProblems(masks, mask_index, np.tile(penalties, 6), 2, sets, set_index))
    for number, columns in enumerate(sets):
        alone = fit_batch(x[:, columns], y, problems_over(masks, penalties=penalties))
        mine = solution.weight_PKD[set_index == number]
        np.testing.assert_allclose(mine[:, 0][:, columns], alone.weight_PKD[:, 0], atol=1e-5)
        assert np.count_nonzero(np.delete(mine, columns, axis=2)) == 0
        np.testing.assert_allclose(solution.objective_P[set_index == number], alone.objective_P, rtol=1e-9)


def test_small_problems_know_sets_of_columns_too(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = make_data(200, 30)
    sets = (np.arange(10), np.arange(5, 30))
    problems = FitProblems(np.ones((1, 200), bool), np.zeros(4, int), np.array([0.1, 1, 0.1, 1]), 2, sets,
                           np.array([0, 0, 1, 1]))  # fmt: skip
    large = fit_batch(x, y, problems)
    monkeypatch.setattr(logistic, "is_small", lambda *_: True)
    small = fit_batch(x, y, problems)
    np.testing.assert_allclose(small.weight_PKD, large.weight_PKD, atol=1e-5)
    np.testing.assert_allclose(small.objective_P, large.objective_P, rtol=1e-9)


@pytest.mark.parametrize("device", DEVICES)
def test_streamed_rows_give_the_solution_of_held_rows(
    device: str, monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    x, y = make_data(500, 20)
    path = f"{tmp_path}/x.npy"
    np.save(path, x.astype(np.float16))
    mapped = np.load(path, mmap_mode="r")
    masks = fold_masks(500, 3)
    masks[:, ::7] = False
    problems = problems_over(masks, penalties=PENALTIES)
    held = fit_batch(x.astype(np.float16), y, problems)
    for name in ("BLOCK_ROWS", "DEVICE_BLOCK_ROWS"):
        monkeypatch.setattr(stream, name, 64)
    monkeypatch.setattr(stream, "HELD_BYTES", 0)
    monkeypatch.setattr(RowStream, "_fits_device", lambda _: False)
    streamed = fit_batch(mapped, y, problems, FitSettings(device=device))
    np.testing.assert_allclose(streamed.objective_P, held.objective_P, rtol=1e-9)
    np.testing.assert_allclose(x @ streamed.weight_PKD[:, 0].T, x @ held.weight_PKD[:, 0].T, atol=1e-4)


def test_tiles_outside_every_mask_are_never_read() -> None:
    x, y = make_data(200, 20)
    masks = fold_masks(200, 3)
    masks[:, 150:] = False
    spoiled, unlabelled = x.copy(), y.copy()
    spoiled[150:] = np.nan
    unlabelled[150:] = -1
    clean = fit_batch(x[:150], y[:150], problems_over(masks[:, :150]))
    np.testing.assert_array_equal(fit_batch(spoiled, unlabelled, problems_over(masks)).weight_PKD, clean.weight_PKD)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    x, y = make_data(100, 10)
    x[3, 2] = value
    with pytest.raises(ValueError, match="not finite"):
        fit_batch(x, y, problems_over(fold_masks(100, 2)))


def test_the_gradient_is_verified_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """With float32 products worse than they say, the float64 pass finds out and goes on."""
    x, y = make_data(300, 20)
    problems = problems_over(fold_masks(300, 2), penalties=PENALTIES)
    monkeypatch.setitem(shared.ROUNDING, "float32", 1e-2)  # leave float32 far too early
    solution = fit_batch(x, y, problems)
    assert_solved(x, y, problems, solution)


def test_running_out_of_passes_is_reported() -> None:
    x, y = make_data(300, 30)
    solution = fit_batch(x, y, problems_over(np.ones((1, 300), bool)), FitSettings(max_iterations=2))
    assert not solution.converged_P[0]
    assert (solution.gradient_norm_P > 0).all()
    assert np.isfinite(solution.weight_PKD).all()


def test_means_and_deviations_are_those_of_each_mask() -> None:
    x, y = make_data(300, 12)
    x = x.astype(np.float64) * np.logspace(-8, 8, 12) + 100.0
    weight = fold_masks(300, 3) * np.random.default_rng(0).uniform(0.5, 2.0, 300)
    rows = RowStream(x, y, weight, ArrayKit())
    for mask, share in enumerate(weight / weight.sum(axis=1, keepdims=True)):
        mean = share @ x
        np.testing.assert_allclose(rows.mean_FD[mask] / rows.scale_D + rows.centre_D, mean, rtol=1e-12)
        std = np.sqrt(share @ (x - mean) ** 2)
        np.testing.assert_allclose(rows.std_FD[mask] / rows.scale_D, std, rtol=1e-6)
        for some in (np.arange(12), np.array([0, 1, 5]), np.array([11])):
            expected = floored(std[some])
            np.testing.assert_allclose(1.0 / (rows.inverse(some)[mask] * rows.scale_D[some]), expected, rtol=1e-6)
    means, deviations = rows.moments()
    np.testing.assert_allclose(means[mask], mean, rtol=1e-12)
    np.testing.assert_allclose(deviations[mask], std, rtol=1e-6)


def test_a_missing_gpu_is_named() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has one")
    x, y = make_data(60, 10)
    with pytest.raises(Exception, match="no CUDA device"):
        fit_batch(x, y, problems_over(np.ones((1, 60), bool)), FitSettings(device="cuda"))


def test_a_fit_on_the_cpu_leaves_torch_alone() -> None:
    program = (
        "import sys, numpy as np; from histotune.heads.solver import logistic as m; m.is_small = lambda *_: False;"
        "x = np.random.default_rng(0).standard_normal((60, 5)).astype(np.float16); y = np.arange(60) % 2;"
        "m.fit_batch(x, y, m.FitProblems(np.ones((1, 60), bool), np.array([0]), np.array([.1]), 2));"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], env=dict(os.environ), check=False).returncode == 0
