from __future__ import annotations

import dataclasses

from histotune.evaluation.choice import describe_choice
from histotune.evaluation.findings import SweepChoice
from histotune.heads.sweep import sweep
from histotune.report.words import choice_lines, nested_estimates, temperature, threshold
from tests.heads.samples import make_task
from tests.heads.test_sweep import CONFIG


def test_a_choice_tells_its_optimism_its_worth_and_how_it_decides() -> None:
    embeddings, task = make_task(n=200)
    choice = describe_choice(sweep(embeddings, task, CONFIG)[2], "breakhis 100X")
    text = "\n".join(choice_lines(choice))
    assert f"selected log-loss: {choice.log_loss:.3f} ± {choice.log_loss_se:.3f} (optimistic)" in text
    assert "AUROC" in nested_estimates(choice)
    assert nested_estimates(choice).endswith("(bias-corrected)")
    assert f"threshold: {choice.decision.threshold:.3f} [" in text
    assert "balanced-accuracy; highest balanced accuracy, out of fold" in text
    assert "4 trials, rule: lowest log-loss. Runners-up" in text
    assert text.count("pooled, penalty") == 3


def test_heads_of_several_classes_have_no_threshold_and_old_choices_no_estimate() -> None:
    embeddings, task = make_task(n_classes=3)
    choice = describe_choice(sweep(embeddings, task, CONFIG.model_copy(update={"honesty": "none"}))[0], "x")
    assert threshold(choice) == "–"
    assert nested_estimates(choice) == "none"
    assert "threshold" not in "\n".join(choice_lines(choice))
    assert temperature(choice).startswith(f"{choice.calibration.temperature:.2f}")
    scaled = dataclasses.replace(choice.calibration, scale_K=(1.0, 0.5, 2.0))
    assert temperature(dataclasses.replace(choice, calibration=scaled)) == "vector scaling, factors 1.00 0.50 2.00"
    assert choice_lines(SweepChoice("b", "id", ("pooled",), 0.1, 0.5, 0.1, 80, 10, 3))[-1] == ""
