from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
import pytest

from histotune.heads import head as head_module
from histotune.heads.head import (
    Calibration,
    Decision,
    Head,
    HiddenLayer,
    class_probabilities,
    decide,
    head_logits,
    space_note,
    untuned_logits,
)
from histotune.statistics.metrics import auroc
from histotune.tools.errors import UserError
from tests.heads.samples import make_embeddings, make_task


def make_head(n_classes: int = 3, columns: tuple[int, ...] = (4, 5, 1)) -> Head:
    rng = np.random.default_rng(0)
    return Head(
        rng.standard_normal((n_classes, len(columns))), rng.standard_normal(n_classes), ("pooled",), columns,
        tuple(f"class{k}" for k in range(n_classes)), "tiny", "k" * 64,
        make_embeddings(np.zeros((1, 6))).space.compatibility_key, 0.1,
    )  # fmt: skip


def test_logits_use_the_heads_columns_in_any_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    embeddings = make_embeddings(np.random.default_rng(1).standard_normal((50, 6)))
    head = make_head()
    expected = embeddings.matrix_ND[:, [4, 5, 1]].astype(np.float64) @ head.weight_KD.T + head.bias_K
    np.testing.assert_allclose(head_logits(head, embeddings), expected, rtol=1e-12)
    monkeypatch.setattr(head_module, "BLOCK_ROWS", 7)
    np.testing.assert_allclose(head_logits(head, embeddings), expected, rtol=1e-12)


def test_probabilities_sum_to_one_and_follow_the_temperature() -> None:
    head = make_head()
    logit = np.array([[1000.0, 0.0, -1000.0], [1.0, 2.0, 3.0]])
    p = class_probabilities(head, logit)
    np.testing.assert_allclose(p.sum(axis=1), 1.0)
    softer = class_probabilities(dataclasses.replace(head, calibration=Calibration(10.0)), logit)
    assert softer[1, 2] < p[1, 2]
    np.testing.assert_allclose(softer[1], np.exp(logit[1] / 10) / np.exp(logit[1] / 10).sum())


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_hidden_units_are_those_of_torch(activation: Literal["relu", "gelu"]) -> None:
    import torch

    rng = np.random.default_rng(0)
    layer = HiddenLayer(rng.standard_normal((5, 3)), rng.standard_normal(5), activation)
    head = dataclasses.replace(make_head(), weight_KD=rng.standard_normal((3, 5)), hidden=layer)
    embeddings = make_embeddings(rng.standard_normal((20, 6)))
    x = torch.tensor(embeddings.matrix_ND[:, [4, 5, 1]], dtype=torch.float64)
    units = getattr(torch.nn.functional, activation)(x @ torch.tensor(layer.weight_HD).T + torch.tensor(layer.bias_H))
    expected = units @ torch.tensor(head.weight_KD).T + torch.tensor(head.bias_K)
    np.testing.assert_allclose(head_logits(head, embeddings), expected.numpy(), rtol=1e-12)


def test_vector_scaling_and_threshold_decide() -> None:
    logit = np.array([[0.0, 1.0], [0.0, -0.1]])
    head = dataclasses.replace(make_head(2), calibration=Calibration(scale_K=(1.0, 2.0), shift_K=(0.5, 0.0)))
    p = class_probabilities(head, logit)
    np.testing.assert_allclose(p[:, 1], 1 / (1 + np.exp(0.5 - 2 * logit[:, 1])))
    assert decide(head, p).tolist() == [1, 0]
    assert decide(dataclasses.replace(head, decision=Decision(0.3)), p).tolist() == [1, 1]
    assert decide(make_head(3), np.array([[0.2, 0.5, 0.3]])).tolist() == [1]


def test_another_space_is_refused() -> None:
    with pytest.raises(UserError, match=r"trained on embeddings of tiny.*can't be applied") as caught:
        head_logits(make_head(), make_embeddings(np.zeros((3, 6)), key="z" * 64, weights="others"))
    assert "--backbone tiny" in str(caught.value)


def test_a_space_of_the_same_meaning_is_accepted_with_a_note() -> None:
    head, x_ND = make_head(), np.random.default_rng(0).standard_normal((3, 6))
    own, other = make_embeddings(x_ND), make_embeddings(x_ND, key="z" * 64)
    np.testing.assert_array_equal(head_logits(head, other), head_logits(head, own))
    assert space_note(head, own) == ""
    assert "fp32 on cpu: the same up to rounding" in space_note(head, other)


@pytest.mark.parametrize("n_classes", [2, 4])
def test_untuned_heads_are_random_standardised_and_reproducible(n_classes: int) -> None:
    embeddings, _ = make_task(n=100, dim=60)
    rows, columns = np.arange(80), np.arange(10, 60)
    logit = untuned_logits(embeddings, columns, n_classes, 40, 3, rows)
    assert logit.shape == (40, 100, n_classes)
    np.testing.assert_array_equal(logit, untuned_logits(embeddings, columns, n_classes, 40, 3, rows))
    assert (logit != untuned_logits(embeddings, columns, n_classes, 40, 4, rows))[:, :, -1].all()
    np.testing.assert_allclose(logit[:, :80, -1].mean(axis=1), 0.0, atol=1e-10)
    assert 0.5 < logit[:, :80, -1].std() < 2.0
    rescaled = make_embeddings(embeddings.matrix_ND * 7.0 + 3.0)
    np.testing.assert_allclose(untuned_logits(rescaled, columns, n_classes, 40, 3, rows), logit, atol=1e-4)
    if n_classes == 2:
        assert not logit[:, :, 0].any()


def test_untuned_heads_scatter_around_chance_on_labels_without_signal() -> None:
    embeddings, _ = make_task(n=200)
    y = np.random.default_rng(2).permutation(200) % 2
    areas = [auroc(y, logit) for logit in untuned_logits(embeddings, np.arange(60), 2, 100, 0, np.arange(200))]
    assert abs(np.median(areas) - 0.5) < 0.08
