"""Random image splits: what most high scores on BreakHis rest on, made only when asked for and always marked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from histotune.datasets.splits.folds import keyed_hash
from histotune.datasets.splits.leaks import ALLOW, mark_leaks
from histotune.datasets.splits.split import Split
from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from histotune.datasets.tileset import TileSet


def random_image_folds(tiles: TileSet, n_folds: int, seed: int, *, allow_leaky: bool) -> Split:
    """Deal the tiles of each class into folds, whatever case they come from.

    Args:
        tiles: The tiles.
        n_folds: Number of folds, at least 2.
        seed: Another seed deals otherwise.
        allow_leaky: The user's explicit yes.

    Returns:
        The split by tiles, always leaky.

    Raises:
        UserError: It was not allowed, or there are fewer tiles than folds.
    """
    if not allow_leaky:
        raise UserError("a random image split puts tiles of one case on both sides",
                        value=f"random-images-{n_folds}-seed{seed}", fix=ALLOW)  # fmt: skip
    if not 2 <= n_folds <= len(tiles):
        raise UserError("a random image split needs 2 folds or more, and as many tiles", value=n_folds,
                        allowed=f"2 to {len(tiles)}")  # fmt: skip
    ranked = sorted(
        (label, keyed_hash(seed, tile_id), tile_id)
        for label, tile_id in zip(tiles.labels_N.tolist(), tiles.tile_ids, strict=True)
    )
    side_by_key = {tile_id: str(place % n_folds) for place, (_, _, tile_id) in enumerate(ranked)}
    note = "Random image split: tiles of one case stand on both sides by design."
    split = Split(f"random-images-{n_folds}-seed{seed}", "folds", "tile", side_by_key, leaky=True, notes=(note,))
    return mark_leaks(split, tiles)
