"""Networks without memory for their weights, to look at."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class _LinspaceOnCpu(TorchFunctionMode):
    """Computes ``torch.linspace`` for real: older versions of timm read its values while they build a network."""

    def __torch_function__(
        self, func: Callable[..., object], types: object, args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:  # fmt: skip
        """Call a function of torch, ``linspace`` on the CPU."""
        options = dict(kwargs or {})
        if func is torch.linspace:
            options["device"] = "cpu"
        return func(*args, **options)


@contextmanager
def without_memory() -> Iterator[None]:
    """Build networks on torch's ``meta`` device: names and shapes, no values."""
    with torch.device("meta"), _LinspaceOnCpu():
        yield
