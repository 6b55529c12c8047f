"""Batch norms folded into the convolutions before them: fewer passes over memory, fewer roundings in bf16."""

from __future__ import annotations

import logging
from collections import Counter

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

LOG = logging.getLogger(__name__)


class _Tracer(fx.Tracer):
    """Keeps convolutions and norms whole, subclasses included."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Return whether the tracer stops at a module."""
        return isinstance(m, nn.Conv2d | nn.BatchNorm2d) or super().is_leaf_module(m, module_qualified_name)


def fold_batch_norms(module: nn.Module) -> int:
    """Fold each batch norm that directly follows a convolution into it, in place; for inference only.

    The function computed stays the same up to rounding. A network that can't be traced is left as it is.

    Args:
        module: A network in evaluation mode.

    Returns:
        The number of batch norms folded.
    """
    try:
        graph = _Tracer().trace(module)
    except Exception as error:  # tracing runs the model's own code on symbols, which may raise anything
        LOG.debug("batch norms stay as they are: %s", error)
        return 0
    parts = dict(module.named_modules())
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    pairs = [
        (str(node.args[0].target), str(node.target))
        for node in graph.nodes
        if _follows_convolution(node, parts) and calls[node.target] == calls[node.args[0].target] == 1
    ]
    for convolution, norm in pairs:
        module.set_submodule(convolution, fuse_conv_bn_eval(parts[convolution], parts[norm]))
        module.set_submodule(norm, _what_follows(parts[norm]))
    return len(pairs)


def _follows_convolution(node: fx.Node, parts: dict[str, nn.Module]) -> bool:
    if node.op != "call_module" or not isinstance(parts[str(node.target)], nn.BatchNorm2d):
        return False
    before = node.args[0]
    return (
        isinstance(before, fx.Node)
        and before.op == "call_module"
        and isinstance(parts[str(before.target)], nn.Conv2d)
        and len(before.users) == 1
    )


def _what_follows(norm: nn.Module) -> nn.Module:
    """Return what is left of a norm: the activation that timm's norms carry, or nothing."""
    carried = [part for name in ("drop", "act") if isinstance(part := getattr(norm, name, None), nn.Module)]
    return torch.nn.Sequential(*carried)
