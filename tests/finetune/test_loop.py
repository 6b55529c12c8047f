"""A step is what its batch says, however it is divided; the curve is the same whatever ends the process."""

from __future__ import annotations

import logging
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from histotune.finetune.checkpoints import Checkpoints, Progress
from histotune.finetune.config import LoopConfig
from histotune.finetune.loop import NonFiniteLossError, Trained, TrainingTask, tile_logits, train, training_dtype
from histotune.heads.head import calibrated_logits, head_logits
from histotune.tools.devices import ComputeDevice
from histotune.tools.errors import UserError
from tests.finetune import shared_training
from tests.finetune.families import FAMILIES
from tests.finetune.toys import (
    Float,
    Numbers,
    bench_of,
    probe_of,
    task_of,
    toy_loop,
    toy_task,
    tuned_tiles,
    weights_of,
)

REPOSITORY = Path(__file__).parents[2]
IDENTITY = {"toy": 1}


class KilledError(BaseException):
    """Stands for SIGKILL: nothing after it may clean up."""


def assert_equal(one: Trained, other: Trained) -> None:
    """Compare two trainings to the last bit."""
    np.testing.assert_array_equal(one.step_losses, other.step_losses)
    np.testing.assert_array_equal(one.logit_EnK, other.logit_EnK)
    assert (one.best, one.halved, one.n_steps) == (other.best, other.halved, other.n_steps)
    assert one.best_tensors.keys() == other.best_tensors.keys()
    assert all(torch.equal(one.best_tensors[name], other.best_tensors[name]) for name in one.best_tensors)


def assert_same_weights(one: torch.nn.Module, other: torch.nn.Module) -> None:
    first, second = weights_of(one), weights_of(other)
    assert first.keys() == second.keys()
    assert not [name for name in first if not torch.equal(first[name], second[name])]


def mean_logit(logit_nK: Float) -> float:
    """Stand for a criterion: some number that moves up and down."""
    return float(np.sin(40 * logit_nK).mean())


# ---- A batch is a batch ----


@pytest.mark.parametrize(("batch", "micro"), [(32, 8), (32, 5), (9, 1)])
def test_accumulated_micro_batches_equal_the_whole_batch(batch: int, micro: int) -> None:
    whole, parts = toy_task(n_train=100), toy_task(n_train=100)
    n_epochs = math.ceil(50 / math.ceil(100 / batch))
    one = train(whole, toy_loop(batch_size=batch, epochs=n_epochs))
    other = train(parts, toy_loop(batch_size=batch, epochs=n_epochs, micro_batch=micro))
    assert one.n_steps >= 50
    np.testing.assert_allclose(other.step_losses, one.step_losses, atol=1e-8)
    np.testing.assert_allclose(other.logit_EnK, one.logit_EnK, atol=1e-8)
    assert one.step_losses[-5:].mean() < 0.5 * one.step_losses[:5].mean()


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m",
               "tests.finetune.shared_training", "shared", str(tmp_path)]  # fmt: skip
    done = subprocess.run(command, check=False, cwd=REPOSITORY, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    for name in shared_training.SHARED:
        trained, weights = shared_training.shared(name)
        assert trained.n_steps >= 50
        for rank in (0, 1):
            found = np.load(tmp_path / f"{name}-{rank}.npz")
            np.testing.assert_allclose(found["losses"], trained.step_losses, atol=1e-8)
            np.testing.assert_allclose(found["logits"], trained.logit_EnK, atol=1e-8)
            for key, one in weights.items():
                np.testing.assert_allclose(found[key], one.numpy(), atol=1e-8)
    trained, _ = shared_training.shared("even")
    for rank in (0, 1):  # SIGTERM came to one of them: both stopped after the same step, and went on
        found = np.load(tmp_path / f"stopped-{rank}.npz")
        assert found["code"] == 143
        assert found["n_batches"] in (5, 6)  # the tiles at the start in one batch, then a batch per step
        np.testing.assert_allclose(found["losses"], trained.step_losses, atol=1e-8)
    assert not list(tmp_path.glob("*.safetensors"))


def environment() -> dict[str, str]:
    places = os.pathsep.join([str(REPOSITORY / "src"), str(REPOSITORY)])
    return {**os.environ, "PYTHONPATH": places, "OMP_NUM_THREADS": "1"}


# ---- Killed and taken up again ----


def undisturbed(dropout: float = 0.3) -> tuple[Trained, TrainingTask]:
    task = toy_task(dropout=dropout)
    return train(task, toy_loop(), mean_logit), task


@pytest.mark.parametrize("n_saved", [1, 3, 6, 7, 8, 14, 20, 21])  # in a step, after scoring, after the end
def test_a_killed_training_goes_on_along_the_same_curve(n_saved: int, tmp_path: Path) -> None:
    whole, model = undisturbed()
    dying = Dying(tmp_path / "toy.safetensors", n_saved)
    with pytest.raises(KilledError):
        train(toy_task(dropout=0.3), toy_loop(), mean_logit, dying)
    assert dying.path.exists()
    torch.manual_seed(77)  # whatever the new process did before
    task = toy_task(dropout=0.3)
    assert_equal(train(task, toy_loop(), mean_logit, Checkpoints(dying.path, IDENTITY, 0.0)), whole)
    assert_same_weights(task.model, model.model)
    assert not dying.path.exists()


class Dying(Checkpoints):
    """A checkpoint after every step, and the end of the process after some of them."""

    def __init__(self, path: Path, n_saved: int) -> None:
        super().__init__(path, IDENTITY, 0.0)
        self.n_left = n_saved

    def save(self, progress: Progress) -> None:
        super().save(progress)
        self.n_left -= 1
        if self.n_left == 0:
            raise KilledError


@pytest.mark.parametrize("n_batches", [4, 9])
def test_steps_since_the_last_checkpoint_are_done_again(n_batches: int, tmp_path: Path) -> None:
    whole, _ = undisturbed()
    path = tmp_path / "toy.safetensors"

    def end(number: int) -> None:
        if number == n_batches:
            raise KilledError

    with pytest.raises(KilledError):
        train(calling(toy_task(dropout=0.3), end), toy_loop(), mean_logit, EverySecond(path, IDENTITY, 0.0))
    assert_equal(train(toy_task(dropout=0.3), toy_loop(), mean_logit, EverySecond(path, IDENTITY, 0.0)), whole)


class EverySecond(Checkpoints):
    """A checkpoint that is due after every second step."""

    n_asked = 0

    @property
    def is_due(self) -> bool:
        self.n_asked += 1
        return self.n_asked % 2 == 0


def calling(task: TrainingTask, on_batch: Callable[[int], None]) -> TrainingTask:
    assert isinstance(task.inputs, Numbers)
    return replace(task, inputs=replace(task.inputs, on_batch=on_batch))


@pytest.mark.parametrize("n_batches", [0, 1, 5, 7, 8, 21])  # while scoring the start, in a step, scoring, at the end
def test_sigterm_saves_and_leaves_with_143(n_batches: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole, _ = undisturbed()
    path = tmp_path / "toy.safetensors"
    before = signal.getsignal(signal.SIGTERM)

    def ask(number: int) -> None:
        if number == n_batches:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit) as stop:
        train(calling(toy_task(dropout=0.3), ask), toy_loop(), mean_logit, Checkpoints(path, IDENTITY, 1e9))
    assert stop.value.code == 143
    assert "the same command goes on" in caplog.text
    assert signal.getsignal(signal.SIGTERM) is before
    assert_equal(train(toy_task(dropout=0.3), toy_loop(), mean_logit, Checkpoints(path, IDENTITY, 1e9)), whole)
    assert not path.exists()


def test_sigterm_without_a_place_to_keep_the_state(caplog: pytest.LogCaptureFixture) -> None:
    task = calling(toy_task(), lambda number: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit) as stop:
        train(task, toy_loop())
    assert stop.value.code == 143
    assert "nothing is kept" in caplog.text


@pytest.mark.slow
def test_sigkill_at_any_moment_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "toy.safetensors"
    whole, weights = shared_training.slow(tmp_path / "other.safetensors")
    rng = np.random.default_rng()
    command = [sys.executable, "-m", "tests.finetune.shared_training", "slow", str(path)]
    last = b""
    for _ in range(2):
        child = subprocess.Popen(command, cwd=REPOSITORY, env=environment(), stdout=subprocess.PIPE)
        assert child.stdout is not None
        assert child.stdout.readline() == b"there\n"
        while child.poll() is None and (not path.exists() or path.read_bytes() == last):
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.2))
        assert child.poll() is None, "it ended before it was killed"
        child.send_signal(signal.SIGKILL)
        child.communicate()
        last = path.read_bytes()
    trained, found = shared_training.slow(path)
    assert_equal(trained, whole)
    assert all(torch.equal(found[name], weights[name]) for name in weights)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("augment", [{"dihedral": False, "stain": 0.0}, {"stain": 0.2}])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_adapters_on_pixels_go_on_along_the_same_curve(
    augment: dict[str, object], dropout: float, tmp_path: Path
) -> None:
    tiles = tuned_tiles(FAMILIES["timm-vit"].spec, tmp_path)
    probe = probe_of(tiles.embeddings)
    loop = {"precision": "fp64", "batch_size": 3, "epochs": 2, "lr": 0.01}
    method = {"name": "lora", "rank": 2, "dropout": dropout, "n_blocks": 2}
    config = {"method": method, "loop": loop, "augment": augment, "views": 2, "prefix": {"storage": "off"}}
    bench = bench_of(tiles, config)
    whole = task_of(bench, probe)
    wanted = train(whole, bench.config.loop, mean_logit)
    dying = Dying(tmp_path / "toy.safetensors", 2)
    with pytest.raises(KilledError):
        train(task_of(bench, probe), bench.config.loop, mean_logit, dying)
    other = bench_of(tiles, config)
    task = task_of(other, probe)
    assert_equal(train(task, other.config.loop, mean_logit, Checkpoints(dying.path, IDENTITY, 0.0)), wanted)
    assert_same_weights(task.model, whole.model)
    assert len(set(wanted.step_losses)) == wanted.n_steps == 6


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n_train": 44, "n_tuning": 12}, "set of training tiles"),
        ({"n_tuning": 10}, "set of tuning tiles"),
        ({"n_classes": 2}, "set of trained parameters"),
    ],
)
def test_a_checkpoint_of_other_tiles_is_refused(change: dict[str, int], words: str, tmp_path: Path) -> None:
    dying = Dying(tmp_path / "toy.safetensors", 2)
    with pytest.raises(KilledError):
        train(toy_task(), toy_loop(), None, dying)
    with pytest.raises(UserError, match=f"of a training with another {words}"):
        train(toy_task(**change), toy_loop(), None, Checkpoints(dying.path, IDENTITY, 0.0))


def test_a_checkpoint_of_other_parameters_is_refused(tmp_path: Path) -> None:
    dying = Dying(tmp_path / "toy.safetensors", 2)
    with pytest.raises(KilledError):
        train(toy_task(), toy_loop(), None, dying)
    task = toy_task()
    next(task.model.backbone.parameters()).requires_grad_(False)
    with pytest.raises(UserError, match="of a training with another set of trained parameters"):
        train(task, toy_loop(), None, Checkpoints(dying.path, IDENTITY, 0.0))


def test_the_callers_random_numbers_are_left_alone() -> None:
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    train(toy_task(dropout=0.3), toy_loop(epochs=1))
    assert torch.equal(torch.rand(3), wanted)


def test_the_seed_decides_order_and_dropout() -> None:
    losses = {seed: train(toy_task(dropout=0.3), toy_loop(epochs=1, seed=seed)).step_losses for seed in (0, 1)}
    assert not np.array_equal(losses[0], losses[1])
    same_order = {
        dropout: train(toy_task(dropout=dropout), toy_loop(epochs=1)).step_losses[0] for dropout in (0.0, 0.3)
    }
    assert same_order[0.0] != same_order[0.3]


def test_every_step_and_micro_batch_drops_anew() -> None:
    task = toy_task(n_train=40, dropout=0.5)
    masks: list[tuple[bool, ...]] = []

    def look(module: torch.nn.Module, args: object, answer: torch.Tensor) -> None:
        if module.training:
            masks.append(tuple((answer == 0).flatten().tolist()))

    task.model.backbone.get_submodule("2").register_forward_hook(look)
    train(task, toy_loop(batch_size=8, micro_batch=4))
    assert len(masks) == len(set(masks)) == 30


# ---- Losses that are not finite ----


@pytest.mark.parametrize("with_checkpoints", [True, False])
def test_a_loss_that_is_not_finite_once_halves_the_rate(
    with_checkpoints: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []
    record_steps(monkeypatch, lambda optimiser: rates.append(optimiser.param_groups[0]["lr"]))
    train(toy_task(), toy_loop())
    plain, rates[:] = list(rates), []
    task = toy_task()
    broken(task, at=8)
    kept = Checkpoints(tmp_path / "toy.safetensors", IDENTITY, 0.0) if with_checkpoints else None
    trained = train(task, toy_loop(), None, kept)
    assert "the loss is not finite in epoch 2, step 2 (the last 7 losses lay in" in caplog.text
    assert trained.halved
    assert np.isfinite(trained.step_losses).all()
    assert np.isfinite(trained.logit_EnK).all()
    assert trained.n_steps == len(plain) == 18
    # After the seventh step, or from the start where nothing was kept, with half the rate.
    again = 7 if with_checkpoints else 0
    assert rates == [*plain[:7], *(rate / 2 for rate in plain[again:])]
    assert trained.logit_EnK.shape == (4, 11, 3)


def broken(task: TrainingTask, at: int, every_time: bool = False) -> None:
    """Let a training batch hold a number that is not finite, once or from then on."""
    assert isinstance(task.inputs, Numbers)
    n_batches, tensor = 0, task.inputs.tensor

    def spoilt(rows: np.ndarray, view: int) -> torch.Tensor:
        nonlocal n_batches
        x = tensor(rows, view)
        if task.model.training and torch.is_grad_enabled():
            n_batches += 1
            if n_batches == at or (every_time and n_batches > at):
                x[0, 0] = float("nan")
        return x

    task.inputs.tensor = spoilt  # type: ignore[method-assign]


def record_steps(monkeypatch: pytest.MonkeyPatch, look: Callable[[torch.optim.Optimizer], None]) -> None:
    step = torch.optim.AdamW.step

    def recorded(self: torch.optim.AdamW, *words: object) -> object:
        look(self)
        return step(self, *words)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.optim.AdamW, "step", recorded)


def test_a_second_loss_that_is_not_finite_ends_the_training(tmp_path: Path) -> None:
    task = toy_task()
    broken(task, at=9, every_time=True)
    path = tmp_path / "toy.safetensors"
    with pytest.raises(NonFiniteLossError) as told:
        train(task, toy_loop(), None, Checkpoints(path, IDENTITY, 0.0))
    assert isinstance(told.value, UserError)
    assert told.value.what.startswith("the loss is not finite in epoch 2, step 3 (the last 8 losses lay in ")
    assert told.value.fix == "--set finetune.loop.lr=0.002, or finetune.loop.precision=fp32"
    assert not path.exists()  # with another rate, the training starts anew in its place


def test_a_gradient_that_is_not_finite_never_reaches_the_weights(caplog: pytest.LogCaptureFixture) -> None:
    task = toy_task()
    n_calls = 0

    def spoil(gradient: torch.Tensor) -> torch.Tensor:
        nonlocal n_calls
        n_calls += 1
        return gradient * float("inf") if n_calls == 4 else gradient

    task.model.weight.register_hook(spoil)
    trained = train(task, toy_loop())
    assert "the gradient is not finite in epoch 1, step 4" in caplog.text
    assert trained.halved
    assert all(one.isfinite().all() for one in weights_of(task.model).values())


def test_the_first_loss_says_that_it_is_the_first() -> None:
    task = toy_task()
    broken(task, at=1, every_time=True)
    with pytest.raises(UserError, match="it is the first"):
        train(task, toy_loop())


# ---- Rates, decay, clipping ----


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.34, 1.0])
def test_the_rate_rises_and_falls_as_the_formula_says(warmup: float, monkeypatch: pytest.MonkeyPatch) -> None:
    task = toy_task()
    factors = {"0.weight": 0.5, "0.bias": 0.5, "4.weight": 0.25}
    task = replace(task, rate_of=factors)
    seen: list[dict[str, tuple[float, float]]] = []
    names = {id(one): name for name, one in task.model.named_parameters()}

    def look(optimiser: torch.optim.Optimizer) -> None:
        groups = [(group["lr"], group["weight_decay"], group["params"]) for group in optimiser.param_groups]
        seen.append({names[id(one)]: (lr, decay) for lr, decay, members in groups for one in members})

    record_steps(monkeypatch, look)
    train(task, toy_loop(warmup=warmup, lr=0.02, head_lr=0.01, weight_decay=0.3))
    n = 18
    assert len(seen) == n
    for step, found in enumerate(seen):
        rising = warmup * n
        share = (
            (step + 1) / (rising + 1) if step < rising else 0.5 + 0.5 * np.cos(np.pi * (step - rising) / (n - rising))
        )
        for name, (rate, decay) in found.items():
            own = name.removeprefix("backbone.")
            peak = 0.01 if name in ("weight", "bias") else 0.02 * factors.get(own, 1.0)
            assert rate == pytest.approx(peak * share, rel=1e-12)
            assert decay == (0.3 if own in ("0.weight", "4.weight") else 0.0), name
    assert set(seen[0]) == set(names.values())


@pytest.mark.parametrize("clip", [1e-3, 0.05, 1e9])
def test_a_steps_gradient_is_cut_to_its_largest_norm(clip: float, monkeypatch: pytest.MonkeyPatch) -> None:
    gradients: list[torch.Tensor] = []

    def look(optimiser: torch.optim.Optimizer) -> None:
        members = [one for group in optimiser.param_groups for one in group["params"]]
        gradients.append(torch.cat([one.grad.flatten() for one in members]))

    record_steps(monkeypatch, look)
    train(toy_task(), toy_loop(clip=1e9), stop_after=1)
    train(toy_task(), toy_loop(clip=clip), stop_after=1)
    plain, cut = gradients[0], gradients[len(gradients) // 2]
    norm = float(plain.norm())
    assert norm > 0.05
    torch.testing.assert_close(cut, plain * min(clip / norm, 1.0), rtol=1e-4, atol=1e-12)


# ---- What is kept, what stays ----


def test_the_weights_of_the_best_epoch_are_kept() -> None:
    values = iter([0.5, 0.4, 0.1, 0.3, 0.1, 0.2])
    task = toy_task()
    trained = train(task, toy_loop(epochs=5), lambda logit_nK: next(values))
    assert trained.best == 2
    other = toy_task()
    train(other, toy_loop(epochs=5), stop_after=2)
    wanted = weights_of(other.model)
    assert trained.best_tensors.keys() == wanted.keys()
    assert all(torch.equal(trained.best_tensors[name], wanted[name]) for name in wanted)
    assert not torch.equal(weights_of(task.model)["weight"], wanted["weight"])


def test_without_a_criterion_the_last_epoch_is_the_best() -> None:
    task = toy_task()
    trained = train(task, toy_loop())
    assert trained.best == 3
    assert all(torch.equal(one, weights_of(task.model)[name]) for name, one in trained.best_tensors.items())


def test_a_start_that_is_never_beaten_is_kept() -> None:
    task = toy_task()
    wanted = weights_of(task.model)
    trained = train(task, toy_loop(), lambda logit_nK: 1.0)
    assert trained.best == 0
    assert all(torch.equal(one, wanted[name]) for name, one in trained.best_tensors.items())


@pytest.mark.parametrize("n_epochs", [0, 1, 2, 9])
def test_a_training_that_stops_early_is_the_beginning_of_the_whole(n_epochs: int) -> None:
    whole = train(toy_task(), toy_loop())
    task = toy_task()
    part = train(task, toy_loop(), stop_after=n_epochs)
    n_epochs = min(n_epochs, 3)
    np.testing.assert_array_equal(part.logit_EnK, whole.logit_EnK[: n_epochs + 1])
    np.testing.assert_array_equal(part.step_losses, whole.step_losses[: 6 * n_epochs])
    assert not task.model.training  # what it says next has no dropout


def test_no_tuning_tiles_are_nothing_to_score() -> None:
    trained = train(toy_task(n_tuning=0), toy_loop())
    assert trained.logit_EnK.shape == (4, 0, 3)


def test_batch_norms_of_a_convolutional_network_stay(tmp_path: Path) -> None:
    tiles = tuned_tiles(FAMILIES["lite0"].spec, tmp_path)
    loop = {"precision": "fp64", "batch_size": 4, "epochs": 2, "lr": 0.01}
    bench = bench_of(tiles, {"method": {"name": "last-blocks", "n_blocks": 2}, "loop": loop, "views": 2})
    task = task_of(bench, probe_of(tiles.embeddings))
    before = {name: one.clone() for name, one in task.model.named_buffers()}
    weights = weights_of(task.model)
    train(task, bench.config.loop)
    assert any("running_mean" in name for name in before)
    assert not [name for name, one in task.model.named_buffers() if not torch.equal(one, before[name])]
    moved = [name for name, one in weights_of(task.model).items() if not torch.equal(one, weights[name])]
    assert any(name.startswith("backbone.blocks.6") for name in moved)


@pytest.mark.parametrize("name", ["lite0", "midnight"])
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("storage", ["off", "fp32"])
def test_the_start_says_what_the_probe_says(name: str, n_classes: int, storage: str, tmp_path: Path) -> None:
    tiles = tuned_tiles(FAMILIES[name].spec, tmp_path, n_classes=n_classes)
    probe = probe_of(tiles.embeddings, n_classes)
    loop = {"precision": "fp32", "epochs": 1}
    task = task_of(bench_of(tiles, {"loop": loop, "prefix": {"storage": storage}}), probe)
    wanted_NK = calibrated_logits(probe.calibration, head_logits(probe, tiles.embeddings))
    assert np.abs(wanted_NK).max() > 0.5
    trained = train(task, LoopConfig.model_validate(loop), stop_after=0)
    np.testing.assert_allclose(trained.logit_EnK[0], wanted_NK[-4:], atol=1e-3)
    rows = np.arange(len(wanted_NK))
    np.testing.assert_allclose(tile_logits(task.model, task.inputs, rows), wanted_NK, atol=1e-3)


def test_half_precision_trains_with_a_scaled_loss_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The scale doubles after every step, until gradients overflow and steps are skipped.
    monkeypatch.setattr(torch.amp, "GradScaler", partial(torch.amp.GradScaler, growth_interval=1))

    def task() -> TrainingTask:
        made = toy_task()
        made.model.float()
        assert isinstance(made.inputs, Numbers)
        plain = made.inputs
        return replace(made, inputs=Single(plain.x_ND))

    whole = train(task(), toy_loop(precision="fp16", epochs=2))
    assert np.isfinite(whole.step_losses).all()
    dying = Dying(tmp_path / "toy.safetensors", 5)
    with pytest.raises(KilledError):
        train(task(), toy_loop(precision="fp16", epochs=2), None, dying)
    kept = Checkpoints(dying.path, IDENTITY, 0.0)
    found = kept.load()
    assert found is not None
    assert found.facts["scaler"]["scale"] > 2**16
    assert_equal(train(task(), toy_loop(precision="fp16", epochs=2), None, kept), whole)


class Single(Numbers):
    """The same numbers in single precision."""

    def tensor(self, rows: np.ndarray, view: int) -> torch.Tensor:
        return super().tensor(rows, view).float()


def test_the_precision_follows_the_device() -> None:
    cpu = ComputeDevice("cpu", "", "", float("nan"), True)
    turing, ampere = (ComputeDevice("cuda", "", one, 1.0, one == "8.0") for one in ("7.5", "8.0"))
    auto = LoopConfig()
    assert [training_dtype(auto, one) for one in (cpu, turing, ampere)] == [
        torch.float32,
        torch.float16,
        torch.bfloat16,
    ]
    assert training_dtype(LoopConfig(precision="bf16"), cpu) == torch.bfloat16


def test_progress_is_silent_where_nobody_watches(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    train(toy_task(), toy_loop(epochs=1))
    assert capfd.readouterr().err == ""
