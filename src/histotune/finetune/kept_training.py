"""A training and what came of it, on disk: one that was finished is read back and never repeated.

While it runs it has a checkpoint, afterwards a record of its logits and weights, both sealed and refused under another
config. A lock lets one process train while others that want the same wait, and read what it left.
"""

# n tuning tiles, K classes, E epochs scored, the start included

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from histotune.finetune.checkpoints import Checkpoints, Progress
from histotune.finetune.loop import n_ranks, train
from histotune.tools.files import lock

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from histotune.finetune.config import LoopConfig
    from histotune.finetune.loop import TrainingTask

    Float = NDArray[np.float64]


BEST = "best/"
WAIT_S = 7 * 24 * 3600.0  # another process may be training the same


@dataclass(frozen=True)
class TrainingOutcome:
    """What came of a training.

    Attributes:
        logit_EnK: Logits of the tuning tiles at the start and after every epoch.
        tensors: Trained parameters at the best epoch, by name; empty where they were not worth keeping.
    """

    logit_EnK: Float
    tensors: dict[str, torch.Tensor] = field(default_factory=dict, repr=False)


class KeptTraining:
    """One training of a fine-tuning, and its files.

    Args:
        folder: Where they are kept; None keeps nothing.
        name: Their name.
        identity: What the training depends on, JSON-ready; files of another one are refused.
        every_s: Seconds between two checkpoints.
    """

    def __init__(self, folder: Path | None, name: str, identity: Mapping[str, Any], every_s: float) -> None:
        self._running = self._done = None
        self._place: Path | None = None
        if folder is not None:
            self._place = folder / f"{name}.lock"
            self._running = Checkpoints(folder / f"{name}.safetensors", identity, every_s)
            self._done = Checkpoints(folder / f"{name}.done.safetensors", identity, every_s)

    def outcome(self) -> TrainingOutcome | None:
        """Return what came of the training; None where it was not finished.

        Raises:
            UserError: The record is of a training with another config.
        """
        kept = None if self._done is None else self._done.load()
        if kept is None:
            return None
        tensors = {name.removeprefix(BEST): one for name, one in kept.tensors.items() if name.startswith(BEST)}
        return TrainingOutcome(kept.tensors["logits"].numpy(), tensors)

    def past_logits(self) -> Float | None:
        """Return the logits of the epochs that a training which was interrupted has scored; None where none was."""
        kept = None if self._running is None else self._running.load()
        return kept.tensors["logits"].numpy() if kept is not None and "logits" in kept.tensors else None

    def run(
        self,
        task: TrainingTask,
        loop: LoopConfig,
        criterion: Callable[[Float], float] | None = None,
        stop_after: int | None = None,
    ) -> TrainingOutcome:
        """Train to the end and keep what came of it, weights included; see :func:`histotune.finetune.loop.train`."""
        trained = train(task, loop, criterion, self._running, stop_after)
        outcome = TrainingOutcome(trained.logit_EnK, trained.best_tensors)
        self._write(outcome)
        return outcome

    def alone(self) -> AbstractContextManager[None]:
        """Wait until no other process trains the same, and let none begin."""
        return nullcontext() if self._place is None or n_ranks() > 1 else lock(self._place, WAIT_S)

    def forget_weights(self) -> None:
        """Keep the logits alone: a better candidate's weights are kept."""
        outcome = self.outcome()
        if outcome is not None and outcome.tensors:
            self._write(TrainingOutcome(outcome.logit_EnK))

    def give_up(self) -> None:
        """Remove the checkpoint of a training that is not to go on."""
        if self._running is not None:
            self._running.remove()

    def _write(self, outcome: TrainingOutcome) -> None:
        if self._done is None or (n_ranks() > 1 and dist.get_rank() > 0):
            return
        tensors = {f"{BEST}{name}": one for name, one in outcome.tensors.items()}
        self._done.save(Progress(tensors={"logits": torch.from_numpy(outcome.logit_EnK), **tensors}))
