"""The precision check sees what a cosine hides, and a precision that fails it is not used."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histotune.embeddings.precision import (
    MEDIAN_LIMIT,
    P99_LIMIT,
    candidates,
    choose_by_check,
    compare_precision,
    probe_error,
    spread_rows,
)
from histotune.tools.devices import ComputeDevice

NAN = float("nan")


def embeddings(n: int = 64, dim: int = 200, mean: float = 50.0) -> np.ndarray:
    return np.random.default_rng(0).normal(mean, 1.0, (n, dim))


def test_an_error_that_a_common_mean_hides_is_found() -> None:
    reference_ND = embeddings()
    wrong_ND = reference_ND + np.random.default_rng(1).normal(0, 0.3, reference_ND.shape)
    cosine = (reference_ND * wrong_ND).sum(1) / np.linalg.norm(reference_ND, axis=1) / np.linalg.norm(wrong_ND, axis=1)
    assert cosine.min() > 0.9999
    check = compare_precision("bf16", reference_ND, wrong_ND)
    assert not check.passed
    assert check.median_error == pytest.approx(0.3, rel=0.05)


def test_a_few_wrong_dimensions_fail_by_the_percentile() -> None:
    reference_ND = embeddings()
    wrong_ND = reference_ND.copy()
    wrong_ND[:, :5] += np.random.default_rng(1).normal(0, 0.2, (64, 5))
    check = compare_precision("fp16", reference_ND, wrong_ND)
    assert check.median_error == 0
    assert check.p99_error > 0.05
    assert not check.passed


def test_rounding_to_half_precision_passes_and_coarser_does_not() -> None:
    reference_ND = embeddings(mean=0.0)
    assert compare_precision("fp16", reference_ND, reference_ND.astype(np.float16)).passed
    assert not compare_precision("fp16", reference_ND, np.round(reference_ND, 1)).passed


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_values_that_are_not_finite_never_pass(wrong: float) -> None:
    reference_ND = embeddings(dim=1000)
    broken_ND = reference_ND.copy()
    broken_ND[3] = wrong
    assert not compare_precision("fp16", reference_ND, broken_ND).passed


def test_dimensions_without_spread() -> None:
    reference_ND = embeddings()
    reference_ND[:, :20] = 0.0
    assert compare_precision("bf16", reference_ND, reference_ND).passed
    wrong_ND = reference_ND.copy()
    wrong_ND[:, :20] += 1e-3
    assert compare_precision("bf16", reference_ND, wrong_ND).p99_error == np.inf


def test_an_error_in_directions_where_tiles_hardly_differ_fails_by_the_probe() -> None:
    rng = np.random.default_rng(0)
    shared_NT, own_ND = rng.normal(size=(64, 8)), rng.normal(size=(64, 200))
    reference_ND = shared_NT @ rng.normal(size=(8, 200)) + 0.02 * own_ND
    wrong_ND = reference_ND + 0.02 * rng.normal(size=(64, 200))
    check = compare_precision("bf16", reference_ND, wrong_ND)
    assert check.median_error <= MEDIAN_LIMIT
    assert check.p99_error <= P99_LIMIT
    assert not check.passed
    assert "of a probe's scores' spread (allowed 0.005)" in str(check)


def test_the_error_of_a_probe_equals_that_of_scikit_learns_ridge() -> None:
    from sklearn.linear_model import Ridge

    rng = np.random.default_rng(0)
    reference_ND = rng.normal(size=(40, 60)) * rng.uniform(0.1, 10, 60)
    other_ND = reference_ND + rng.normal(size=(40, 60)) * 0.01
    a_ND, b_ND = ((x - reference_ND.mean(0)) / reference_ND.std(0) for x in (reference_ND, other_ND))
    same = np.random.Generator(np.random.PCG64(7))
    squares = spread = 0.0
    for _ in range(32):
        train_n, held_n = np.array_split(same.permutation(40), 2)
        target_nT = same.normal(size=(20, 8))
        scores = []
        for x_ND in (a_ND, b_ND):
            centred = x_ND[train_n] - x_ND[train_n].mean(0)
            alpha = 0.001 * (centred**2).sum() / 20
            scores.append(Ridge(alpha=alpha).fit(x_ND[train_n], target_nT).predict(x_ND[held_n]) - target_nT.mean(0))
        squares += ((scores[1] - scores[0]) ** 2).sum()
        spread += ((scores[0] - scores[0].mean(0)) ** 2).sum()
    assert probe_error(reference_ND, other_ND, seed=7) == pytest.approx(np.sqrt(squares / spread), rel=1e-8)


@settings(max_examples=25)
@given(st.floats(0.01, 1000), st.floats(-1000, 1000), st.integers(0, 2**32 - 1))
def test_scale_shift_and_order_change_nothing(scale: float, shift: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    reference_ND = rng.normal(0, 1, (20, 30))
    other_ND = reference_ND + rng.normal(0, 0.02, (20, 30))
    order_N, order_D = rng.permutation(20), rng.permutation(30)
    one = compare_precision("bf16", reference_ND, other_ND)
    two = compare_precision("bf16", (reference_ND * scale + shift)[order_N][:, order_D],
                            (other_ND * scale + shift)[order_N][:, order_D])  # fmt: skip
    assert two.median_error == pytest.approx(one.median_error, rel=1e-5)
    assert two.p99_error == pytest.approx(one.p99_error, rel=1e-5)


def test_the_first_precision_that_passes_is_taken() -> None:
    reference_ND = embeddings(mean=0.0).astype(np.float32)
    answers = {"fp32": reference_ND, "bf16": np.round(reference_ND, 1), "fp16": reference_ND.astype(np.float16)}
    asked = []

    def embed_with(precision: str) -> np.ndarray:
        asked.append(precision)
        return answers[precision]

    choice = choose_by_check(("bf16", "fp16", "fp32"), embed_with, 64)
    assert choice.precision == "fp16"
    assert [check.passed for check in choice.checks] == [False, True]
    assert asked == ["fp32", "bf16", "fp16"]
    assert choose_by_check(("bf16", "fp32"), embed_with, 64).precision == "fp32"


def test_without_a_faster_precision_or_enough_tiles_nothing_is_embedded_for_the_check() -> None:
    def never(_: str) -> np.ndarray:
        raise AssertionError

    assert choose_by_check(("fp32",), never, 64).precision == "fp32"
    few = choose_by_check(("bf16", "fp32"), never, 15)
    assert few.precision == "fp32"
    assert "too few" in few.reason


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        (ComputeDevice("cpu", "", "", NAN, fast_bf16=False), ("fp32",)),
        (ComputeDevice("cpu", "", "", NAN, fast_bf16=True), ("bf16", "fp32")),
        (ComputeDevice("cuda", "T4", "7.5", 15.0, fast_bf16=False), ("fp16", "fp32")),
        (ComputeDevice("cuda", "H100", "9.0", 78.0, fast_bf16=True), ("bf16", "fp16", "fp32")),
        (ComputeDevice("cuda", "P100", "6.0", 16.0, fast_bf16=False), ("fp32",)),
    ],
)
def test_candidates_by_device(device: ComputeDevice, expected: tuple[str, ...]) -> None:
    assert candidates(device) == expected


def test_rows_of_a_check_are_spread_over_all() -> None:
    assert spread_rows(1000, 5).tolist() == [0, 250, 500, 749, 999]
    assert spread_rows(3, 5).tolist() == [0, 1, 2]
