"""A folded head's softmax is the head's own calibrated probability."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from histotune.deploy.folded_head import fold_head
from histotune.deploy.pixel_model import torch_head
from histotune.heads.head import Calibration, Head, HiddenLayer, class_probabilities, column_logits
from histotune.tools.errors import UserError


def made(n_classes: int, activation: str | None, vector: bool, rng: np.random.Generator) -> Head:
    columns = (3, 0, 5)
    hidden = None
    if activation:
        hidden = HiddenLayer(rng.normal(size=(4, 3)), rng.normal(size=4), activation)  # type: ignore[arg-type]
    scales = tuple(rng.uniform(0.5, 2, n_classes).tolist()) if vector else ()
    shifts = tuple(rng.normal(size=n_classes).tolist()) if vector else ()
    return Head(
        rng.normal(size=(n_classes, 4 if activation else 3)), rng.normal(size=n_classes), ("b",), columns,
        tuple("abcd"[:n_classes]), "x", "s", "c", 0.1, hidden=hidden,
        calibration=Calibration(1.7, None, scales, shifts),
    )  # fmt: skip


@given(
    n_classes=st.sampled_from([2, 4]), activation=st.sampled_from([None, "relu", "gelu"]), vector=st.booleans(),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_probabilities_are_the_heads(n_classes: int, activation: str | None, vector: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    head = made(n_classes, activation, vector, rng)
    x_ND = rng.normal(size=(5, 8))
    expected = class_probabilities(head, column_logits(head, x_ND[:, list(head.columns)]))
    layers = torch_head(fold_head(head, 8))
    found = torch.softmax(layers(torch.from_numpy(x_ND).float()), dim=1).detach().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(("family", "reason"), [("knn", "training tiles themselves"), ("prototypes", "cosine")])
def test_other_families_are_refused_with_the_reason(family: str, reason: str) -> None:
    head = replace(made(2, None, False, np.random.default_rng(0)), family=family)
    with pytest.raises(UserError, match=reason) as error:
        fold_head(head, 8)
    assert "linear heads" in str(error.value)
