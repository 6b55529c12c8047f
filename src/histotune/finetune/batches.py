"""Which tiles stand in a training batch, and their pixels: drawn by seed and epoch alone, whatever ran before."""

# n tiles, B batch, S side of the input, C channels

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import numpy as np
import torch

from histotune.embeddings.row_keys import Rows, with_sizes
from histotune.images.augment import augment_batch
from histotune.images.decode import PixelReader, tile_sources
from histotune.images.hashes import HashIndex
from histotune.images.loader import load_views
from histotune.images.view_checks import check_view
from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from histotune.backbones.spec import BackboneSpec
    from histotune.datasets.tileset import TileSet
    from histotune.images.config import AugmentConfig, LoaderConfig, ViewConfig

    Int = NDArray[np.int64]
    Pixels = NDArray[np.uint8]


T = TypeVar("T")
KEPT_BYTES = 2**30
"""Decoded tiles of up to this many bytes stay in memory; more are decoded again in every epoch."""


class Inputs(Protocol):
    """What a network takes for some tiles: pixels, or the tokens of its frozen blocks."""

    def tensor(self, rows: Int, view: int) -> torch.Tensor:
        """Return the input of a batch; view 0 shows the tiles as they are."""
        ...


def epoch_rows(labels_n: Int, groups: Sequence[str], how: str, rng: np.random.Generator) -> Int:
    """Return the tiles of one epoch in their order: as many as there are.

    Args:
        labels_n: Label per tile.
        groups: Group per tile.
        how: ``tiles``: every tile once. ``class-group``: the classes take turns, within a class its groups, within a
            group its tiles; each queue is shuffled anew whenever it is empty.
        rng: Source of the order.

    Returns:
        Row numbers (n,).

    Example:
        >>> import numpy as np
        >>> rows = epoch_rows(np.array([0, 0, 0, 1]), ["a", "a", "b", "c"], "class-group", np.random.default_rng(0))
        >>> sorted(np.array([0, 0, 0, 1])[rows].tolist())
        [0, 0, 1, 1]
    """
    if how == "tiles":
        return rng.permutation(len(labels_n))
    by_class: dict[int, dict[str, list[int]]] = {}
    for row, (label, group) in enumerate(zip(labels_n.tolist(), groups, strict=True)):
        by_class.setdefault(label, {}).setdefault(group, []).append(row)
    classes = _Queue(sorted(by_class), rng)
    queues = {label: _Queue(sorted(held), rng) for label, held in by_class.items()}
    tiles = {(label, group): _Queue(rows, rng) for label, held in by_class.items() for group, rows in held.items()}
    drawn = []
    for _ in range(len(labels_n)):
        label = classes.draw()
        drawn.append(tiles[label, queues[label].draw()].draw())
    return np.array(drawn, dtype=np.int64)


class _Queue(Generic[T]):
    """Things that take turns; their order is drawn anew in every round."""

    def __init__(self, items: Sequence[T], rng: np.random.Generator) -> None:
        self._items, self._rng = list(items), rng
        self._left: list[T] = []

    def draw(self) -> T:
        """Return whose turn it is."""
        if not self._left:
            self._left = [self._items[place] for place in self._rng.permutation(len(self._items))]
        return self._left.pop()


def view_of_epoch(epoch: int, n_views: int) -> int:
    """Return the number of the view that all tiles are seen in during an epoch; 0 shows them as they are."""
    return epoch % n_views if n_views else epoch + 1


class TilePixels:
    """The network's inputs in uint8, decoded when they are asked for and kept where they are few.

    Args:
        tiles: The tiles; none may be unreadable.
        view: How an image becomes the network's input.
        loader: How pixels are read.
        cache: Root folder of the cache, for the content hashes.
    """

    def __init__(self, tiles: TileSet, view: ViewConfig, loader: LoaderConfig, cache: Path) -> None:
        if view.name == "tiles":
            raise UserError(
                "fine-tuning takes one input per tile, and this view makes several",
                value=view.words,
                allowed="short-side-crop, square, letterbox",
                fix="--view short-side-crop",
            )
        self.view, self._reader = view, PixelReader(loader)
        sources = tile_sources(tiles)
        if view.target_mpp is not None:
            tiles = with_sizes(tiles, sources, self._reader)
        content = HashIndex(cache / "hashes.sqlite", rehash=loader.rehash).tiles(sources, self._reader, loader.workers)
        self._rows = Rows(sources, content, check_view(tiles, view), view)
        self.keys = self._rows.keys
        self._kept: dict[str, Pixels] = {}
        self._keeps = len(set(self.keys)) * view.size_px**2 * 3 <= KEPT_BYTES

    def __call__(self, rows: Int) -> Pixels:
        """Return the inputs of some tiles (B, S, S, 3)."""
        keys = [self.keys[row] for row in rows]
        new = self._decoded(list(dict.fromkeys(key for key in keys if key not in self._kept)))
        if self._keeps:
            self._kept |= new
        return np.stack([self._kept[key] if key in self._kept else new[key] for key in keys])

    def _decoded(self, keys: list[str]) -> dict[str, Pixels]:
        """Return the inputs of tiles by their keys."""
        wanted = [self._rows[key] for key in keys]
        sizes = [min(64, len(keys) - start) for start in range(0, len(keys), 64)]
        new: dict[str, Pixels] = {}
        for batch in load_views(wanted, sizes, self.view, self._reader):
            for content, one_SSC in zip(batch.content, batch.pixels_BSSC, strict=True):
                tile = wanted[len(new)]
                if content != tile.content:
                    raise UserError(
                        "a tile has changed on disk since its embedding was looked up",
                        value=tile.source,
                        fix="run the same command again",
                    )
                new[tile.key] = one_SSC
        return new


@dataclass(frozen=True)
class Normalisation:
    """How pixels become a network's numbers: mean and standard deviation per RGB channel, in [0, 1]."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @classmethod
    def of(cls, spec: BackboneSpec) -> Normalisation:
        """Return a backbone's own."""
        return cls(spec.mean, spec.std)

    def __call__(self, pixels_BSSC: Pixels, like: torch.Tensor) -> torch.Tensor:
        """Return (x / 255 - mean) / std as torchvision's ToTensor and Normalize would, on another tensor's device."""
        x_BCSS = torch.from_numpy(pixels_BSSC).to(like.device).permute(0, 3, 1, 2).contiguous()
        mean_C, std_C = (torch.tensor(one, device=like.device).view(1, 3, 1, 1) for one in (self.mean, self.std))
        return x_BCSS.float().div_(255).sub_(mean_C).div_(std_C).to(like.dtype)


class PixelInputs:
    """Pixels of tiles, augmented by tile and view number alone.

    Args:
        pixels: Their inputs.
        normalisation: The backbone's.
        augment: How they are varied.
        seed: Seed of the variations.
        like: A tensor of the device and type that the network takes.
    """

    def __init__(
        self, pixels: TilePixels, normalisation: Normalisation, augment: AugmentConfig, seed: int, like: torch.Tensor
    ) -> None:
        self._pixels, self._normalisation, self._augment, self._seed = pixels, normalisation, augment, seed
        self._like = like

    def tensor(self, rows: Int, view: int) -> torch.Tensor:
        """Return normalised pixels (B, 3, S, S)."""
        return self._normalisation(self.shown(rows, view), self._like)

    def shown(self, rows: Int, view: int) -> Pixels:
        """Return what the network sees of some tiles (B, S, S, 3)."""
        pixels_BSSC = self._pixels(rows)
        if view == 0 or self._augment.is_off:
            return pixels_BSSC
        keys = [f"{self._pixels.keys[row]} {view}" for row in rows]
        return augment_batch(pixels_BSSC, self._augment, self._seed, keys)

    @property
    def like(self) -> torch.Tensor:
        """A tensor of the device and type that the network takes."""
        return self._like

    def blank(self) -> torch.Tensor:
        """Return one blank input (1, 3, S, S)."""
        side = self._pixels.view.size_px
        return torch.zeros(1, 3, side, side, device=self._like.device, dtype=self._like.dtype)
