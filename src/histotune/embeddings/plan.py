"""Which rows share a shard and a batch, fixed before anything is computed (law 4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from histotune.embeddings.manifest import ShardPlan

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from histotune.embeddings.config import EmbeddingConfig


def plan_shards(
    earlier: Sequence[ShardPlan],
    missing: Sequence[str],
    config: EmbeddingConfig,
    n_inputs: Mapping[str, int] | None = None,
) -> tuple[ShardPlan, ...]:
    """Divide missing rows into shards; what an interrupted run had planned keeps its batches.

    Args:
        earlier: Plan of an interrupted run; empty where there was none.
        missing: Row keys to compute, each once.
        config: Rows per shard, network inputs per batch.
        n_inputs: Network inputs per row, 1 where absent. Rows of equally many share a shard, so that a batch holds as
            many inputs as the config asks for.

    Returns:
        The shards in the order they are computed.
    """
    wanted = set(missing)
    kept = tuple(plan for plan in earlier if wanted.issuperset(plan.content))
    planned = {one for plan in kept for one in plan.content}
    groups: dict[int, list[str]] = {}
    for one in missing:
        if one not in planned:
            groups.setdefault((n_inputs or {}).get(one, 1), []).append(one)
    new = []
    for number in sorted(groups):
        rest, batch_size = groups[number], max(config.first_batch_size // number, 1)
        starts = range(0, len(rest), config.shard_tiles)
        new += [ShardPlan(tuple(rest[start : start + config.shard_tiles]), batch_size) for start in starts]
    return (*kept, *new)
