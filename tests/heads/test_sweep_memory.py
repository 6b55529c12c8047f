"""Many classes: what their fits take is estimated before the first of them, told, and refused where it is too much."""

from __future__ import annotations

import logging
import re
import tracemalloc

import pytest

from histotune.heads import sweep_memory
from histotune.heads.config import SweepConfig
from histotune.heads.sweep import sweep
from histotune.heads.sweep_memory import check_memory, fit_bytes
from histotune.tools.errors import UserError
from tests.heads.samples import make_task


@pytest.fixture(autouse=True)
def _five_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep_memory, "MANY_CLASSES", 4)  # the samples have ten at most


CONFIG = SweepConfig(penalties=(0.01, 0.1, 1.0, 10.0), folds=3)


@pytest.mark.parametrize(("n_classes", "dim"), [(6, 60), (10, 30)])
def test_the_estimate_is_near_what_is_taken(n_classes: int, dim: int) -> None:
    embeddings, task = make_task(n=400, n_groups=80, n_classes=n_classes, dim=dim)
    tracemalloc.start()
    try:
        sweep(embeddings, task, CONFIG)
        taken = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert taken / 2 < fit_bytes(task, dim, CONFIG) < taken * 3


def test_the_estimate_grows_with_what_is_tried() -> None:
    _, task = make_task(n=200, n_groups=40, n_classes=6, dim=20)
    once = fit_bytes(task, 20, CONFIG)
    assert fit_bytes(task, 20, CONFIG.model_copy(update={"penalties": (1.0, 2.0)})) == once // 2
    assert fit_bytes(task, 20, CONFIG.model_copy(update={"class_weights": ("none", "balanced")})) == 2 * once
    assert fit_bytes(task, 20, CONFIG.model_copy(update={"honesty": "nested"})) == 4 * once
    assert fit_bytes(task, 10**6, CONFIG) < 10**6 * once  # no more coordinates than tiles


def test_a_sweep_that_takes_too_much_is_refused_before_the_first_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    embeddings, task = make_task(n=200, n_groups=40, n_classes=6, dim=20)
    monkeypatch.setattr(sweep_memory, "memory_gib", lambda: 2 * 0.9 * fit_bytes(task, 20, CONFIG) / 2**30)
    with pytest.raises(UserError) as caught:
        sweep(embeddings, task, CONFIG)
    text = str(caught.value)
    assert "the fits of 6 classes would take about" in text
    assert re.search(r"--set 'sweep\.penalties=\[0\.01,1\]' --set sweep\.folds=3", text)
    sweep(embeddings, task, CONFIG.model_copy(update={"penalties": (0.01, 1.0)}))  # as the message says


@pytest.mark.parametrize("memory", [1e-6, float("nan")])
def test_few_classes_and_unknown_memory_are_let_through(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, memory: float
) -> None:
    monkeypatch.setattr(sweep_memory, "memory_gib", lambda: memory)
    with caplog.at_level(logging.INFO, "histotune"):
        check_memory(make_task(n_classes=3, dim=20)[1], 20, CONFIG)
        check_memory(make_task(n=200, n_groups=40, n_classes=6, dim=20)[1], 20, SweepConfig(family="sgd"))
    assert caplog.text == ""
    if memory != memory:  # noqa: PLR0124  (NaN)
        with caplog.at_level(logging.DEBUG, "histotune"):
            check_memory(make_task(n=200, n_groups=40, n_classes=6, dim=20)[1], 20, CONFIG)
        assert "6 classes: the fits take about" in caplog.text
