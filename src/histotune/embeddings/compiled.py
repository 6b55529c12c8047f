"""Whether ``torch.compile`` pays back for the length of a run: decided by what is missing, kept in the space's key.

A compiled network rounds differently, so its rows live in a space of their own (law 3), and a run has to know which of
the two spaces it belongs to before anything is computed. Nothing is remembered for that: what the spaces hold decides.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

from histotune.embeddings.gather import missing_content
from histotune.embeddings.space import with_key
from histotune.embeddings.store import Store
from histotune.tools.files import canonical_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from histotune.embeddings.records import EmbeddingSpace
    from histotune.embeddings.space import EmbedRequest
    from histotune.tools.devices import ComputeDevice

COMPILE_TILES = 20_000
"""Tiles from which on a fresh run is compiled."""
GAIN = 0.2
"""Time that compilation is expected to save per tile; its own time is that of ``GAIN x COMPILE_TILES`` tiles."""
COMPILER = "compiler"  # in the signature of a space whose network was compiled


def chosen_space(
    request: EmbedRequest, device: ComputeDevice, plain: EmbeddingSpace, keys: Sequence[str]
) -> EmbeddingSpace:
    """Return the space of the plain network, or of the compiled one where that finishes sooner.

    Args:
        request: Its ``embedding.compile``: ``auto`` compiles on CUDA where it pays back, but not in several processes,
            each of which would have to decide alone and the same; ``on`` and ``off`` are obeyed.
        device: Where the backbone runs.
        plain: The space without compilation.
        keys: Row keys wanted.

    Returns:
        The space. With everything there already the choice costs nothing; ten new tiles beside many compiled ones are
        compiled for, since the alternative is embedding all of them again.
    """
    wish = request.embedding.compile
    if wish == "off" or request.spec.kind in ("colour-histogram", "external"):
        return plain
    compiled = compiled_space(plain)
    if wish == "on":
        return compiled
    if device.kind != "cuda":
        return plain
    here, there = (_n_missing(request, space, keys) for space in (plain, compiled))
    if request.rank.world_size > 1:
        return compiled if there == 0 < here else plain
    compiled_cost = (1 - GAIN) * there + (GAIN * COMPILE_TILES if there else 0)
    return compiled if compiled_cost < here else plain


def compiled_space(plain: EmbeddingSpace) -> EmbeddingSpace:
    """Return the space of the same settings with a compiled network.

    Args:
        plain: The space without compilation.

    Returns:
        A space with another key.
    """
    signature = {**json.loads(plain.signature), COMPILER: "inductor"}
    return with_key(replace(plain, signature=canonical_json(signature)))


def is_compiled(space: EmbeddingSpace) -> bool:
    """Return whether a space's rows come from a compiled network."""
    return COMPILER in json.loads(space.signature)


def _n_missing(request: EmbedRequest, space: EmbeddingSpace, keys: Sequence[str]) -> int:
    return len(missing_content(Store(request.cache, space).inspect().sound, keys))
