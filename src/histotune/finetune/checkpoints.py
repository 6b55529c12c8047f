"""Where a training stands, in one file: appears whole or not at all, holds tensors and JSON, and knows its config."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from histotune.tools.atomic import atomic_path
from histotune.tools.errors import UserError
from histotune.tools.files import hash_bytes, parse_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch


LOG = logging.getLogger(__name__)
FORMAT = "1"


@dataclass(frozen=True)
class Progress:
    """Where a training stands.

    Attributes:
        epoch: Epoch that the next step belongs to.
        step: Steps of it that are done.
        facts: JSON-ready: losses so far, the best epoch, the loss scale, how often the rate was halved.
        tensors: Parameters, moments of the optimiser, best parameters and logits so far, by name.
    """

    epoch: int = 0
    step: int = 0
    facts: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)


class Checkpoints:
    """The checkpoint of one training.

    Args:
        path: The file.
        identity: What the training depends on, JSON-ready; a checkpoint of another one is refused.
        every_s: Seconds between two of them.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any], every_s: float) -> None:
        self.path, self._identity, self._every_s = path, parse_json(json.dumps(identity)), every_s
        self._saved_at = time.monotonic()

    @property
    def is_due(self) -> bool:
        """Whether it is time for the next one."""
        return time.monotonic() - self._saved_at >= self._every_s

    def save(self, progress: Progress) -> None:
        """Write where the training stands; until it is complete the last one stays.

        The file is written from the tensors themselves: their bytes are never in memory a second time.
        """
        from safetensors.torch import save_file

        state = {"epoch": progress.epoch, "step": progress.step, "facts": progress.facts, "identity": self._identity}
        text = json.dumps(state)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in progress.tensors.items()}
        told = {"format": FORMAT, "state": text, "sha256": _seal(text, tensors)}
        with atomic_path(self.path) as temporary:
            save_file(tensors, temporary, told)
        self._saved_at = time.monotonic()

    def load(self) -> Progress | None:
        """Return where the training stood; None where there is nothing, or nothing that can be trusted.

        Raises:
            UserError: The checkpoint is of another config; the message names the first field that differs.
        """
        from safetensors import SafetensorError, safe_open

        if not self.path.is_file():
            return None
        try:
            with safe_open(self.path, framework="pt") as file:
                told = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
            if told.get("format") != FORMAT or told.get("sha256") != _seal(told["state"], tensors):
                raise ValueError("its bytes do not have the recorded hash")
            state = parse_json(told["state"])
            progress = Progress(int(state["epoch"]), int(state["step"]), dict(state["facts"]), tensors)
            identity = state["identity"]
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            LOG.warning("the checkpoint is damaged (%s); training starts anew: %s", error, self.path)
            return None
        self.require_same(identity, self._identity)
        return progress

    def remove(self) -> None:
        """Forget the training: it is done."""
        self.path.unlink(missing_ok=True)

    def require_same(self, then: object, now: object) -> None:
        """Refuse a checkpoint that was made with something else than what is there now.

        Args:
            then: What the checkpoint depends on, JSON-ready.
            now: The same of the training that would go on from it.

        Raises:
            UserError: They differ; the message names the first field that does.
        """
        if then == now:
            return
        name, was, now = first_difference(then, now)
        raise UserError(
            f"the checkpoint is of a training with another {name}",
            value=f"{was} then, {now} now",
            fix=f"keep {name} as it was, or remove {self.path} to start anew",
        )


def first_difference(one: object, other: object, name: str = "") -> tuple[str, object, object]:
    """Return name and both values of the first field in which two nested records differ.

    Example:
        >>> first_difference({"loop": {"lr": 0.1, "seed": 0}}, {"loop": {"lr": 0.2, "seed": 0}})
        ('loop.lr', 0.1, 0.2)
    """
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted({*one, *other}):
            if one.get(key) != other.get(key):
                return first_difference(one.get(key), other.get(key), f"{name}.{key}" if name else str(key))
    return name or "config", one, other


def _seal(text: str, tensors: Mapping[str, torch.Tensor]) -> str:
    """Return the hash of everything that a checkpoint holds."""
    import torch

    parts = [FORMAT, text]
    for name in sorted(tensors):
        tensor = tensors[name]
        values: memoryview = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data  # not a copy
        parts += [name, str(tensor.dtype), str(tuple(tensor.shape)), hash_bytes(values)]
    return hash_bytes(*parts)
