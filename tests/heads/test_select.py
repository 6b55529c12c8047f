from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from histotune.heads.config import SweepConfig
from histotune.heads.family import FoldPlan, OutOfFold, SweepData, SweepTask, Trial, training_set
from histotune.heads.head import class_probabilities, head_logits
from histotune.heads.select import TrialScores, choose_trial, describe_selection
from histotune.heads.sweep import (
    Procedure,
    Solved,
    make_family,
    nested,
    outer_parts,
    ranked_choices,
    resample_choices,
    solve_parts,
    sweep,
)
from histotune.statistics.metrics import auroc, balanced_accuracy
from histotune.tools.errors import UserError
from tests.heads.samples import make_embeddings, make_task

CONFIG = SweepConfig(penalties=(0.01, 0.1, 1.0, 10.0), folds=4, class_weights=("none", "balanced"))


def make_scores(seed: int, n_trials: int = 24, n_groups: int = 12) -> tuple[TrialScores, tuple[Trial, ...]]:
    rng = np.random.default_rng(seed)
    trials = tuple(
        Trial((pooling,), weight, penalty)
        for pooling in ("cls", "patch_mean")
        for weight in ("none", "balanced")
        for penalty in (0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)
    )  # type: ignore[assignment]
    group = rng.random(n_groups)
    loss = group + 0.05 * rng.standard_normal((n_trials, n_groups)) + 0.05 * rng.random((n_trials, 1))
    se = loss.std(axis=1, ddof=1) / np.sqrt(n_groups)
    usable = rng.random(n_trials) < 0.9
    return TrialScores(loss, loss.mean(axis=1), se, usable), trials


@pytest.mark.parametrize("seed", range(30))
def test_the_one_standard_error_rule_by_brute_force(seed: int) -> None:
    scores, trials = make_scores(seed)
    best = min((t for t in range(24) if scores.usable_T[t]), key=lambda t: scores.log_loss_T[t])
    assert choose_trial(scores, trials, "best") == best
    strongest = best
    for t in range(24):
        gap = scores.loss_TG[t] - scores.loss_TG[best]
        left_out = np.array([np.delete(gap, g).mean() for g in range(12)])
        se = np.sqrt(11 / 12 * ((left_out - left_out.mean()) ** 2).sum())
        same = trials[t].pooling == trials[best].pooling and trials[t].class_weight == trials[best].class_weight
        if scores.usable_T[t] and same and gap.mean() <= se and trials[t].strength > trials[strongest].strength:
            strongest = t
    assert choose_trial(scores, trials, "one-se") == strongest
    selection = describe_selection(scores, trials, strongest, "one-se")
    assert selection.chosen.difference >= 0
    losses = [trial.log_loss for trial in selection.runners_up]
    assert losses == sorted(losses)
    assert len(losses) == 5
    assert selection.n_diverged == int((~scores.usable_T).sum())


@pytest.mark.parametrize("rule", ["best", "one-se"])
def test_resampled_choices_are_those_of_the_rule_on_repeated_groups(rule: str) -> None:
    scores, trials = make_scores(1)
    counts = np.random.default_rng(0).multinomial(12, np.full(12, 1 / 12), 40).astype(float)
    solved = Solved(None, None, scores, 0, None, None, None)  # type: ignore[arg-type]
    ours = resample_choices(solved, trials, rule, counts)  # type: ignore[arg-type]
    for count, choice in zip(counts, ours, strict=True):
        loss = np.repeat(scores.loss_TG, count.astype(int), axis=1)
        again = dataclasses.replace(scores, loss_TG=loss, log_loss_T=loss.mean(axis=1))
        assert choose_trial(again, trials, rule) == choice  # type: ignore[arg-type]


def test_the_highest_ranking_is_chosen_and_of_equal_ones_the_least_loss() -> None:
    scores, trials = make_scores(3)
    auroc_T = np.round(np.random.default_rng(3).random(24), 1)
    ranked = dataclasses.replace(scores, auroc_T=auroc_T)
    usable = np.flatnonzero(scores.usable_T)
    top = usable[auroc_T[usable] == auroc_T[usable].max()]
    assert choose_trial(ranked, trials, "auroc") == top[scores.log_loss_T[top].argmin()] and len(top) > 1
    assert describe_selection(ranked, trials, int(top[0]), "auroc").criterion == "out-of-fold AUROC within folds"
    unknown = dataclasses.replace(scores, auroc_T=np.full(24, np.nan))  # several classes, or no fold with two
    assert choose_trial(unknown, trials, "auroc") == choose_trial(scores, trials, "best")
    assert "log-loss" in describe_selection(unknown, trials, 0, "auroc").criterion


def test_a_sweep_by_ranking_chooses_refits_and_estimates_by_it() -> None:
    embeddings, task = make_task(120, n_groups=24, seed=5)
    config = SweepConfig(penalties=(1e-3, 0.1, 10.0, 1e3), folds=3, selection_rule="auroc")
    *_, result = sweep(embeddings, task, config)
    trials = result.trials
    best = trials.filter(trials["auroc"] == trials["auroc"].max()).sort("log_loss")
    assert trials.filter("chosen")["penalty"][0] == best["penalty"][0] == result.head.penalty
    selection = result.head.selection
    assert selection is not None and (selection.rule, selection.honesty) == ("auroc", "bias-corrected")
    assert len(selection.honest) == 2


def test_resampled_rankings_are_those_of_the_rule_on_repeated_groups() -> None:
    embeddings, task = make_task(60, n_groups=12, seed=6)
    config = SweepConfig(penalties=(1e-3, 0.1, 10.0, 1e3), folds=3, selection_rule="auroc")
    family = make_family(config)
    procedure = Procedure(family, tuple(family.trials([task.default_pooling])), config)
    rows = np.arange(60)
    part = training_set(embeddings.tile_ids, task, rows, rows, FoldPlan(3, 0))
    data = SweepData(embeddings, rows, task.labels_N, 2)
    (solved,) = solve_parts(data, [part], procedure)
    counts = np.random.default_rng(0).multinomial(12, np.full(12, 1 / 12), 30).astype(float)
    ours = ranked_choices(solved, task.labels_N[part.rows], procedure.trials, counts)
    for count_G, choice in zip(counts, ours, strict=True):
        times_n = count_G[part.group_n].astype(int)
        y_n, fold_n = np.repeat(task.labels_N[part.rows], times_n), np.repeat(part.fold_n, times_n)
        values = np.array([auroc(y_n, np.repeat(one, times_n, axis=0), fold_n) for one in solved.found.logit_TnK])
        loss_T = solved.scores.loss_TG @ count_G
        top = np.flatnonzero(values >= values.max() - 1e-12) if np.isfinite(values).all() else np.arange(len(values))
        assert choice == top[loss_T[top].argmin()]


def test_diverged_trials_are_never_chosen() -> None:
    scores, trials = make_scores(2)
    with pytest.raises(UserError, match="every trial diverged"):
        choose_trial(dataclasses.replace(scores, usable_T=np.zeros(24, bool)), trials, "best")


def prepare(task: SweepTask, seed: int = 0) -> tuple[SweepData, Procedure]:
    embeddings, _ = make_task(n=200, seed=seed)
    family = make_family(CONFIG)
    data = SweepData(embeddings, np.arange(200), task.labels_N, 2)
    return data, Procedure(family, tuple(family.trials([("pooled",)])), CONFIG)


def test_an_outer_fold_never_bears_on_the_choice_or_the_head() -> None:
    embeddings, task = make_task(n=200)
    data, procedure = prepare(task)
    part = training_set(embeddings.tile_ids, task, np.arange(200), np.arange(200), FoldPlan(4, 0))
    before = solve_parts(data, outer_parts(part, data, task, procedure), procedure)
    for fold in range(4):
        held = part.fold_n == fold
        y = task.labels_N.copy()
        y[held] = np.random.default_rng(fold).permutation(y[held])
        other = dataclasses.replace(data, y_n=y)
        other_task = dataclasses.replace(task, labels_N=y)
        after = solve_parts(other, outer_parts(part, other, other_task, procedure)[fold : fold + 1], procedure)[0]
        assert after.choice == before[fold].choice
        assert after.decision.threshold == pytest.approx(before[fold].decision.threshold, rel=1e-4)
        assert after.calibration.temperature == pytest.approx(before[fold].calibration.temperature, rel=1e-4)
        np.testing.assert_allclose(after.refit.weight_KD, before[fold].refit.weight_KD, atol=1e-5)
        assert not set(np.flatnonzero(held)) & set(before[fold].part.rows)


def test_nested_scores_are_those_of_a_loop_of_sweeps() -> None:
    embeddings, task = make_task(n=200)
    whole = dataclasses.replace(task, train_sets_SN=np.ones((1, 200), bool))
    config = CONFIG.model_copy(update={"honesty": "nested"})
    result = sweep(embeddings, whole, config)[0]
    part = training_set(embeddings.tile_ids, whole, np.arange(200), np.arange(200), FoldPlan(4, 0))
    p, said = np.empty((200, 2)), np.empty(200, int)
    for fold in range(4):
        train = dataclasses.replace(whole, train_sets_SN=(part.fold_n != fold)[None])
        head = sweep(embeddings, train, CONFIG)[0].head
        held = np.flatnonzero(part.fold_n == fold)
        p[held] = class_probabilities(head, head_logits(head, embeddings.take(held)))
        said[held] = p[held, 1] >= head.threshold
    y = whole.labels_N
    tile_loss = -np.log(p[np.arange(200), y])
    loss = np.mean([tile_loss[part.group_n == g].mean() for g in range(20)])
    selection = result.head.selection
    assert selection is not None
    scores = {score.name: score for score in selection.honest}
    assert scores["log_loss"].value == pytest.approx(loss, rel=1e-6)
    assert scores["auroc"].value == pytest.approx(auroc(y, np.log(p) - np.log(p[:, :1]), part.fold_n), abs=1e-9)
    assert scores["balanced_accuracy"].value == pytest.approx(balanced_accuracy(y, said, 2))
    assert all(score.interval is not None for score in selection.honest)
    assert result.n_fits == (8 * 4 + 1) * 5


def test_the_honest_estimate_of_many_useless_trials_lies_above_the_selected_score() -> None:
    """Where every trial is noise the lowest of many losses is too good; neither estimate shares that."""
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(24), 5)
    y = group % 2
    logit = np.stack([np.zeros((60, 120)), rng.standard_normal((60, 24))[:, group]], axis=2)
    loss_tile = np.logaddexp(0, np.where(y == 1, -1, 1) * logit[:, :, 1])
    loss = np.stack([loss_tile[:, group == g].mean(axis=1) for g in range(24)], axis=1)
    scores = TrialScores(loss, loss.mean(axis=1), loss.std(axis=1) / 5, np.ones(60, bool))
    trials = tuple(Trial(("pooled",), "none", float(p + 1)) for p in range(60))
    embeddings = make_embeddings(np.zeros((120, 2)))
    task = SweepTask(y, tuple(f"g{g:02d}" for g in group), ("a", "b"), np.ones((1, 120), bool))
    part = training_set(embeddings.tile_ids, task, np.arange(120), np.arange(120), FoldPlan(4, 0))
    choice = choose_trial(scores, trials, "best")
    found = OutOfFold(logit, np.ones(60, bool), np.zeros(60, bool))
    solved = Solved(part, found, scores, choice, None, None, None)  # type: ignore[arg-type]
    from histotune.heads.sweep import bias_corrected

    procedure = Procedure(make_family(CONFIG), trials, CONFIG)
    selection = bias_corrected(describe_selection(scores, trials, choice, "best"), solved, y, procedure)
    honest = {score.name: score for score in selection.honest}
    assert scores.log_loss_T[choice] < loss.mean() - 0.1
    assert honest["log_loss"].value == pytest.approx(loss.mean(), abs=0.07)
    assert honest["auroc"].value < auroc(y, logit[choice], part.fold_n) - 0.1
    assert honest["log_loss"].interval is not None
    for name, low in (("log_loss", 0.0), ("auroc", 0.0)):
        interval = honest[name].interval
        assert interval.method.startswith("t interval from leaving out one group at a time")
        assert low <= interval.low < honest[name].value < interval.high
    assert nested.__doc__


def test_row_order_changes_no_choice_temperature_threshold_or_estimate() -> None:
    embeddings, task = make_task(n=200)
    one = dataclasses.replace(task, train_sets_SN=np.ones((1, 200), bool))
    order = np.random.default_rng(0).permutation(200)
    shuffled = dataclasses.replace(
        one, labels_N=one.labels_N[order], groups=tuple(one.groups[row] for row in order),
    )  # fmt: skip
    left = sweep(embeddings, one, CONFIG)[0].head
    right = sweep(embeddings.take(order), shuffled, CONFIG)[0].head
    assert left.temperature == pytest.approx(right.temperature, rel=1e-4)
    assert left.threshold == pytest.approx(right.threshold, rel=1e-4)
    assert left.selection is not None
    assert right.selection is not None
    assert left.selection.chosen.settings == right.selection.chosen.settings
    for one_score, other in zip(left.selection.honest, right.selection.honest, strict=True):
        assert one_score.value == pytest.approx(other.value, rel=1e-4)


def test_both_weightings_compete_and_old_configs_are_read() -> None:
    embeddings, task = make_task()
    trials = sweep(embeddings, task, CONFIG)[0].trials
    assert trials["class_weight"].to_list() == ["none"] * 4 + ["balanced"] * 4
    assert SweepConfig.model_validate({"class_weight": "balanced"}).class_weights == ("balanced",)
    alone = sweep(embeddings, task, CONFIG.model_copy(update={"class_weights": ("balanced",)}))[0].trials
    np.testing.assert_allclose(alone["log_loss"], trials["log_loss"][4:], rtol=1e-6)
    assert [make_family(SweepConfig(family=name)).name for name in ("logistic", "sgd")] == ["logistic", "sgd"]  # type: ignore[arg-type]
