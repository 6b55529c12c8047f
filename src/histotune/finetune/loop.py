"""THE LOOP of fine-tuning: epochs, steps, micro-batches, in plain PyTorch, read from top to bottom.

What a step does depends on the seed, the epoch and the step alone, so that a training that was killed goes on from its
checkpoint along the same curve. Several processes under ``torchrun`` share every batch (DistributedDataParallel).
"""

# N tiles, n tuning tiles, B batch, K classes, E epochs scored, the start included

from __future__ import annotations

import logging
import math
import signal
import threading
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from histotune.finetune.batches import epoch_rows, view_of_epoch
from histotune.finetune.checkpoints import Checkpoints, Progress
from histotune.tools.devices import ComputeDevice, choose_precision, find_device
from histotune.tools.errors import UserError
from histotune.tools.files import hash_json
from histotune.tools.progress import track

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

    from histotune.finetune.batches import Inputs
    from histotune.finetune.config import LoopConfig
    from histotune.finetune.tuned_model import TunedModel

    Float = NDArray[np.float64]
    Int = NDArray[np.int64]


LOG = logging.getLogger(__name__)
SCORED_AT_ONCE = 64
TERMINATED = 128 + signal.SIGTERM


@dataclass(frozen=True)
class TrainingTask:
    """What is trained, and on what.

    Attributes:
        model: The backbone and its head; its parameters that require a gradient are trained, in place.
        rate_of: Factor of the learning rate per trained parameter of the backbone; 1 where it is not named.
        inputs: Pixels or tokens of all tiles.
        labels_N: Label per tile.
        groups: Group per tile.
        train_rows: Tiles that are trained on.
        tuning_rows: Tiles that are scored after every epoch and never trained on; may be empty.
        n_views: Views that are used in turn; 0 draws a new one in every epoch.
    """

    model: TunedModel
    rate_of: Mapping[str, float]
    inputs: Inputs
    labels_N: Int
    groups: Sequence[str]
    train_rows: Int
    tuning_rows: Int
    n_views: int = 1


@dataclass(frozen=True)
class Trained:
    """What came of a training; the model holds its last weights.

    Attributes:
        logit_EnK: Logits of the tuning tiles at the start and after every epoch.
        step_losses: Training loss of every step.
        best: Epoch with the lowest criterion; 0 is the start.
        best_tensors: Trained parameters at that epoch, by name.
        halved: Whether the learning rate was halved after a loss that was not finite.
        n_steps: Steps done.
    """

    logit_EnK: Float
    step_losses: Float
    best: int
    best_tensors: dict[str, torch.Tensor] = field(repr=False)
    halved: bool = False
    n_steps: int = 0


class NonFiniteLossError(UserError):
    """A loss that is not finite; training goes on once from the last checkpoint, with half the rate."""


def train(
    task: TrainingTask,
    config: LoopConfig,
    criterion: Callable[[Float], float] | None = None,
    checkpoints: Checkpoints | None = None,
    stop_after: int | None = None,
) -> Trained:
    """Train a model and score its tuning tiles after every epoch.

    Args:
        task: The model and its tiles.
        config: How it is trained.
        criterion: Maps logits of the tuning tiles (n, K) to what the best epoch has least of; None takes the last.
        checkpoints: Where the state is kept; None keeps none.
        stop_after: End after this many epochs of the schedule; None runs it to its end.

    Returns:
        Losses, logits by epoch, and the best weights.

    Raises:
        UserError: The loss is not finite twice, or the checkpoint is of another training.
        SystemExit: SIGTERM came; the state is in the checkpoint.

    Example:
        >>> trained = train(task, LoopConfig(epochs=3), criterion)  # doctest: +SKIP
        >>> trained.logit_EnK.shape[0]  # doctest: +SKIP
        4
    """
    training = _Training(task, config, criterion)
    _go_on(training, checkpoints)
    last = config.epochs if stop_after is None else min(stop_after, config.epochs)
    with _own_random_numbers(training.device), _terminated() as training.stopping:
        while not training.ended:
            try:
                _run(training, checkpoints, last)
            except NonFiniteLossError as error:
                _go_back(training, checkpoints, error)
    if checkpoints is not None and training.leads:
        checkpoints.remove()
    training.model.eval()
    return training.result()


def _go_on(training: _Training, checkpoints: Checkpoints | None) -> None:
    """Return to where a training stood that was interrupted; what was read is let go before training needs the room."""
    kept = None if checkpoints is None else checkpoints.load()
    if checkpoints is not None and kept is not None:
        checkpoints.require_same(kept.facts.get("task"), training.told)
        training.restore(kept)


def _run(training: _Training, checkpoints: Checkpoints | None, last: int) -> None:
    """Train from where the training stands to the end of an epoch."""
    config, task = training.config, training.task
    if not training.logits:
        training.score()
    for epoch in range(training.epoch, last):
        # The order of an epoch follows from seed and epoch alone; all tiles are seen in the epoch's view.
        rng = np.random.default_rng([config.seed, epoch])
        labels_n, groups = task.labels_N[task.train_rows], [task.groups[row] for row in task.train_rows]
        rows = task.train_rows[epoch_rows(labels_n, groups, config.sampling, rng)]
        view = view_of_epoch(epoch, task.n_views)
        training.model.train()
        steps = range(training.step, math.ceil(len(rows) / config.batch_size))
        words = f"fine-tuning, epoch {epoch + 1} of {last}"
        for step in track(steps, words, len(steps)) if training.leads else steps:
            training.update(rows[step * config.batch_size : (step + 1) * config.batch_size], view)
            _keep(training, checkpoints)
        training.score()
        training.epoch, training.step = epoch + 1, 0
        _keep(training, checkpoints)
    training.ended = True


def _keep(training: _Training, checkpoints: Checkpoints | None) -> None:
    """Write a checkpoint where one is due; leave where SIGTERM asks for it."""
    must_stop = training.must_stop()
    if checkpoints is not None and training.leads and (must_stop or checkpoints.is_due):
        checkpoints.save(training.state())
    if must_stop:
        kept = "its state is kept: the same command goes on" if checkpoints else "nothing is kept"
        LOG.warning("stopped by SIGTERM after %d steps; %s", training.n_steps, kept)
        raise SystemExit(TERMINATED)


def _go_back(training: _Training, checkpoints: Checkpoints | None, error: NonFiniteLossError) -> None:
    """Return to the last checkpoint with half the rate; the second time give up, and forget a state that leads here."""
    if training.halved:
        if checkpoints is not None and training.leads:
            checkpoints.remove()  # a training with another rate starts anew in its place
        raise error
    LOG.warning("%s; going on once from the last checkpoint with half the rate", error.what)
    last = (None if checkpoints is None else checkpoints.load()) or training.first
    training.restore(replace(last, facts={**last.facts, "halved": True}))


class _Training:
    """A model on its way: parameters, optimiser, loss scale, and what was seen so far."""

    def __init__(self, task: TrainingTask, config: LoopConfig, criterion: Callable[[Float], float] | None) -> None:
        self.task, self.config, self._criterion = task, config, criterion
        self.model = task.model
        self.device = next(self.model.parameters()).device
        self._dtype = training_dtype(config, find_device("cpu" if self.device.type == "cpu" else "auto"))
        self._trained = {name: one for name, one in self.model.named_parameters() if one.requires_grad}
        self._optimiser = torch.optim.AdamW(self._groups(), lr=config.lr)
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=self._dtype == torch.float16)
        self._n_ranks = n_ranks()
        self._rank = dist.get_rank() if dist.is_initialized() else 0
        self._shared: Any = DistributedDataParallel(self.model) if self._n_ranks > 1 else self.model
        self.epoch = self.step = 0
        self.logits: list[Float] = []
        self._losses: list[float] = []
        self._best, self._best_tensors = 0, self._copies()
        self._least = math.inf
        self.halved = self.ended = False
        self.stopping = threading.Event()
        self.told = self._told()
        self.first = self._progress(self._best_tensors)  # one copy of the parameters serves as best and as first

    @property
    def leads(self) -> bool:
        """Whether this process writes checkpoints and shows progress."""
        return self._rank == 0

    @property
    def n_steps(self) -> int:
        """Steps that are done."""
        return len(self._losses)

    def must_stop(self) -> bool:
        """Return whether SIGTERM came to any of the processes: all of them stop after the same step."""
        return self._summed(float(self.stopping.is_set())) > 0

    def update(self, rows: Int, view: int) -> None:
        """Take one step on a batch: every process a share of it, every share in micro-batches."""
        # Dropout follows from seed, epoch, step and process alone, as the order of the tiles does.
        place = np.random.SeedSequence([self.config.seed, self.epoch, self.step, self._rank])
        torch.manual_seed(int(place.generate_state(1, np.uint64)[0] >> 1))
        # The loss of a step is the mean over its batch. Shares are padded to equal lengths with tiles of weight 0;
        # DistributedDataParallel averages over processes, so that each multiplies its sum by their number.
        n_own = math.ceil(len(rows) / self._n_ranks)
        padded = np.resize(rows, n_own * self._n_ranks)
        weight_B = (np.arange(len(padded)) < len(rows)).astype(np.float64) * self._n_ranks / len(rows)
        own = slice(self._rank, None, self._n_ranks)
        size = self.config.micro_batch or n_own
        starts = range(0, n_own, size)
        self._set_rates()
        total = 0.0
        for start in starts:
            part = slice(start, start + size)
            x = self.task.inputs.tensor(padded[own][part], view)
            is_last = start == starts[-1]
            quiet = nullcontext() if is_last or self._n_ranks == 1 else self._shared.no_sync()
            with quiet:
                loss = self._loss(x, padded[own][part], weight_B[own][part])
                self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        total = self._summed(total) / self._n_ranks
        self._require_finite("loss", total)
        self._scaler.unscale_(self._optimiser)
        norm = torch.nn.utils.clip_grad_norm_(list(self._trained.values()), self.config.clip)
        if not self._scaler.is_enabled():  # a scaled loss that was scaled too far skips its step
            self._require_finite("gradient", float(norm))
        self._scaler.step(self._optimiser)
        self._scaler.update()
        self._optimiser.zero_grad(set_to_none=True)
        self._losses.append(total)
        self.step += 1

    def score(self) -> None:
        """Keep the logits of the tuning tiles, and the weights where they are the best so far."""
        logit_nK = tile_logits(self.model, self.task.inputs, self.task.tuning_rows, self._autocast())
        self.logits.append(logit_nK)
        value = self._criterion(logit_nK) if self._criterion else -float(len(self.logits))
        if value < self._least:
            self._best, self._least, self._best_tensors = len(self.logits) - 1, value, self._copies()

    def result(self) -> Trained:
        """Return what came of the training."""
        logit_EnK, losses = np.stack(self.logits), np.array(self._losses)
        return Trained(logit_EnK, losses, self._best, self._best_tensors, self.halved, self.n_steps)

    def state(self) -> Progress:
        """Return everything that the rest of the training depends on; the next step changes it."""
        return self._progress({name: one.detach() for name, one in self._trained.items()})

    def _progress(self, parameters: dict[str, torch.Tensor]) -> Progress:
        tensors = {f"model/{name}": one for name, one in parameters.items()}
        tensors |= {f"best/{name}": one for name, one in self._best_tensors.items()}
        for name, one in self._trained.items():
            for moment, value in self._optimiser.state.get(one, {}).items():
                tensors[f"{moment}/{name}"] = torch.as_tensor(value).detach()
        if self.logits:
            tensors["logits"] = torch.from_numpy(np.stack(self.logits))
        facts = {
            "losses": self._losses.copy(), "best": self._best, "halved": self.halved,
            "least": self._least if math.isfinite(self._least) else None, "scaler": self._scaler.state_dict(),
            "task": self.told,
        }  # fmt: skip
        return Progress(self.epoch, self.step, facts, tensors)

    def restore(self, progress: Progress) -> None:
        """Go back to where a training stood."""
        facts, tensors = progress.facts, progress.tensors
        self.epoch, self.step, self.halved = progress.epoch, progress.step, bool(facts["halved"])
        self._losses, self._best = list(facts["losses"]), int(facts["best"])
        self._least = math.inf if facts["least"] is None else float(facts["least"])
        self.logits = list(tensors["logits"].numpy()) if "logits" in tensors else []
        self._best_tensors = {name: tensors[f"best/{name}"].clone() for name in self._trained}
        self._optimiser.state.clear()
        self._optimiser.zero_grad(set_to_none=True)  # those of a loss that was not finite
        with torch.no_grad():
            for name, one in self._trained.items():
                one.copy_(tensors[f"model/{name}"])
                moments = {key: tensors[f"{key}/{name}"] for key in MOMENTS if f"{key}/{name}" in tensors}
                if moments:
                    self._optimiser.state[one] = {
                        key: value.clone().to(one.device if key != "step" else "cpu") for key, value in moments.items()
                    }
        if facts["scaler"]:
            self._scaler.load_state_dict(facts["scaler"])

    def _loss(self, x: torch.Tensor, rows: Int, weight_B: Float) -> torch.Tensor:
        """Return the weighted sum of a micro-batch's cross-entropies."""
        with self._autocast():
            logit_BK = self._shared(x)
        y_B = torch.from_numpy(self.task.labels_N[rows]).to(self.device)
        loss_B = torch.nn.functional.cross_entropy(
            logit_BK, y_B, reduction="none", label_smoothing=self.config.label_smoothing
        )
        return (loss_B * torch.from_numpy(weight_B).to(loss_B)).sum()

    def _groups(self) -> list[dict[str, Any]]:
        """Return one group of the optimiser per learning rate and decay."""
        groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
        for name, one in self._trained.items():
            head = name in self.model.head_names
            factor = 1.0 if head else self.task.rate_of.get(name.removeprefix("backbone."), 1.0)
            rate = self.config.head_lr if head else self.config.lr * factor
            decay = 0.0 if head or one.ndim < 2 else self.config.weight_decay
            groups.setdefault((rate, decay), []).append(one)
        return [
            {"params": members, "lr": rate, "peak": rate, "weight_decay": decay}
            for (rate, decay), members in groups.items()
        ]

    def _set_rates(self) -> None:
        """Set the rates of a step: a linear rise, then half a cosine to zero (Loshchilov & Hutter 2017)."""
        per_epoch = math.ceil(len(self.task.train_rows) / self.config.batch_size)
        n_steps, done = self.config.epochs * per_epoch, self.epoch * per_epoch + self.step
        n_rising = self.config.warmup * n_steps
        if done < n_rising:
            factor = (done + 1) / (n_rising + 1)
        else:
            factor = 0.5 * (1.0 + math.cos(math.pi * (done - n_rising) / max(n_steps - n_rising, 1)))
        for group in self._optimiser.param_groups:
            group["lr"] = group["peak"] * factor * (0.5 if self.halved else 1.0)

    def _require_finite(self, name: str, value: float) -> None:
        if math.isfinite(value):
            return
        recent = [one for one in self._losses[-20:] if math.isfinite(one)]
        within = (
            f"the last {len(recent)} losses lay in {min(recent):.3g} to {max(recent):.3g}"
            if recent
            else "it is the first"
        )
        raise NonFiniteLossError(
            f"the {name} is not finite in epoch {self.epoch + 1}, step {self.step + 1} ({within})",
            value=value,
            fix=f"--set finetune.loop.lr={self.config.lr / 10:g}, or finetune.loop.precision=fp32",
        )

    def _summed(self, value: float) -> float:
        """Return the sum of a number over all processes."""
        if self._n_ranks == 1:
            return value
        total = torch.tensor([value], dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return float(total[0])

    def _autocast(self) -> AbstractContextManager[Any]:
        half = self._dtype in (torch.float16, torch.bfloat16)
        return torch.autocast(self.device.type, self._dtype) if half else nullcontext()

    def _copies(self) -> dict[str, torch.Tensor]:
        return {name: one.detach().to("cpu", copy=True) for name, one in self._trained.items()}

    def _told(self) -> dict[str, str]:
        """Return what a checkpoint must have been made with, besides its config, in words that name it."""
        task = self.task
        labels = task.labels_N[task.train_rows].tolist()
        train = [task.train_rows.tolist(), labels, [task.groups[row] for row in task.train_rows]]
        shapes = {name: list(one.shape) for name, one in self._trained.items()}
        return {
            "set of training tiles": hash_json(train)[:12],
            "set of tuning tiles": hash_json(task.tuning_rows.tolist())[:12],
            "number of views": str(task.n_views),
            "set of trained parameters": hash_json(shapes)[:12],
        }


MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def tile_logits(
    model: TunedModel, inputs: Inputs, rows: Int, autocast: AbstractContextManager[Any] | None = None
) -> Float:
    """Return the logits of tiles as they are (n, K), in batches, without gradients."""
    was_training = model.training
    model.eval()
    parts = [np.empty((0, model.n_classes))]
    with torch.no_grad(), autocast or nullcontext():
        for start in range(0, len(rows), SCORED_AT_ONCE):
            part = model(inputs.tensor(rows[start : start + SCORED_AT_ONCE], 0))
            parts.append(part.double().cpu().numpy())
    model.train(was_training)
    return np.concatenate(parts)


def training_dtype(config: LoopConfig, device: ComputeDevice) -> torch.dtype:
    """Return what matrix products are computed in."""
    known = {"fp64": torch.float64, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if config.precision != "auto":
        return known[config.precision]
    return torch.float32 if device.kind == "cpu" else known[choose_precision(device)]


def n_ranks() -> int:
    """Return how many processes share every batch of one training."""
    return dist.get_world_size() if dist.is_initialized() else 1


@contextmanager
def _terminated() -> Iterator[threading.Event]:
    """Let SIGTERM ask for a checkpoint in place of ending the process at once; only where this thread may."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: asked.set())
    try:
        yield asked
    finally:  # None: what was there is not Python's
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def _own_random_numbers(device: torch.device) -> AbstractContextManager[None]:
    """Give torch's generators back as they were: every step seeds them anew."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
