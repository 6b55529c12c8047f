"""Batched metrics against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn import metrics as sk

from histotune.heads.sgd.jobs import HeldOut, measure

NAMES = ("log_loss", "balanced_accuracy", "macro_f1", "accuracy", "auroc")


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), n_classes=st.integers(2, 5), coarse=st.booleans())
def test_metrics_equal_scikit_learns(seed: int, n_classes: int, coarse: bool) -> None:
    rng = np.random.default_rng(seed)
    n, heads = int(rng.integers(8, 60)), 3
    y = rng.integers(0, n_classes, n)
    y[:n_classes] = np.arange(n_classes)
    z = rng.standard_normal((heads, n_classes - 1, n)).astype(np.float32)
    z = np.round(z) if coarse else z
    held = HeldOut(torch.from_numpy(y), torch.full((n,), 1 / n), n_classes)
    values = measure(torch.from_numpy(z), held, NAMES).numpy()
    for head in range(heads):
        full = np.vstack([np.zeros(n), z[head]]).T.astype(np.float64)
        p, guess = softmax(full, axis=1), full.argmax(axis=1)
        auroc = sk.roc_auc_score(y, p[:, 1]) if n_classes == 2 else sk.roc_auc_score(y, p, multi_class="ovr")
        expected = [
            sk.log_loss(y, p, labels=range(n_classes)),
            sk.balanced_accuracy_score(y, guess),
            sk.f1_score(y, guess, average="macro", zero_division=0),
            sk.accuracy_score(y, guess),
            auroc,
        ]
        tolerance = 2e-3 if n_classes > 2 and coarse else 1e-5  # softmax in float32 may split or join ties
        np.testing.assert_allclose(values[:4, head], expected[:4], atol=1e-5)
        np.testing.assert_allclose(values[4, head], expected[4], atol=max(tolerance, 1e-5) * (30 if coarse else 1))


def test_classes_that_do_not_occur_are_left_out_and_auroc_is_undefined() -> None:
    held = HeldOut(torch.tensor([1, 1, 1]), torch.full((3,), 1 / 3), 3)
    z = torch.tensor([[[1.0, 1.0, -1.0], [0.0, 0.0, 0.0]]])
    values = measure(z, held, NAMES)
    assert values[1, 0] == pytest.approx(2 / 3)
    assert values[2, 0] == pytest.approx(sk.f1_score([1, 1, 1], [1, 1, 0], average="macro"))


def test_log_loss_uses_the_tiles_weights() -> None:
    held = HeldOut(torch.tensor([0, 1]), torch.tensor([0.25, 0.75]), 2)
    z = torch.tensor([[[0.0, 2.0]]])
    assert float(measure(z, held, ("log_loss",))[0, 0]) == pytest.approx(0.25 * np.log(2) + 0.75 * np.log1p(np.exp(-2)))
