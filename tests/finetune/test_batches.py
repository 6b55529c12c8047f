"""The order of an epoch, and pixels that are those of the loader, whatever stands beside them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from histotune.datasets.tileset import TileSet
from histotune.finetune import batches
from histotune.finetune.batches import Normalisation, PixelInputs, TilePixels, epoch_rows, view_of_epoch
from histotune.images.augment import augment_batch
from histotune.images.config import AugmentConfig, LoaderConfig, ViewConfig
from histotune.images.decode import PixelReader, tile_sources
from histotune.images.loader import Wanted, load_views
from histotune.tools.errors import UserError
from tests.finetune.toys import write_tiles

TILES = st.lists(st.tuples(st.integers(0, 2), st.sampled_from("abcd")), min_size=1, max_size=40)
VIEW, LOADER = ViewConfig(size_px=32), LoaderConfig(workers=1)
VARIED = AugmentConfig(crop=0.5, stain=0.2)
SCALE = Normalisation((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))


def even(counts: list[int]) -> bool:
    return max(counts) - min(counts) <= 1


@given(TILES, st.integers(0, 2**32 - 1))
def test_classes_groups_and_tiles_take_turns(tiles: list[tuple[int, str]], seed: int) -> None:
    labels_n, groups = np.array([label for label, _ in tiles]), [group for _, group in tiles]
    rows = epoch_rows(labels_n, groups, "class-group", np.random.default_rng(seed))
    assert len(rows) == len(tiles)
    assert rows.dtype == np.int64
    drawn = Counter(rows.tolist())
    by_class = {label: sum(drawn[row] for row in np.flatnonzero(labels_n == label)) for label in set(labels_n.tolist())}
    assert even(list(by_class.values()))
    for label in by_class:
        by_group: dict[str, list[int]] = {}
        for row in np.flatnonzero(labels_n == label):
            by_group.setdefault(groups[row], []).append(drawn[int(row)])
        assert even([sum(counts) for counts in by_group.values()])
        assert all(even(counts) for counts in by_group.values())


@given(TILES, st.integers(0, 2**32 - 1))
def test_every_tile_comes_once_where_tiles_are_drawn(tiles: list[tuple[int, str]], seed: int) -> None:
    labels_n, groups = np.array([label for label, _ in tiles]), [group for _, group in tiles]
    rows = epoch_rows(labels_n, groups, "tiles", np.random.default_rng(seed))
    assert sorted(rows.tolist()) == list(range(len(tiles)))


@pytest.mark.parametrize("how", ["class-group", "tiles"])
def test_the_order_follows_from_seed_and_epoch(how: str) -> None:
    labels_n, groups = np.arange(30) % 2, [f"g{row % 5}" for row in range(30)]
    orders = {
        (seed, epoch): tuple(epoch_rows(labels_n, groups, how, np.random.default_rng([seed, epoch])))
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    assert len(set(orders.values())) == 4
    for (seed, epoch), order in orders.items():
        assert tuple(epoch_rows(labels_n, groups, how, np.random.default_rng([seed, epoch]))) == order


def test_a_rare_class_is_drawn_as_often_as_a_common_one() -> None:
    labels_n, groups = np.array([0] * 18 + [1] * 2), ["a"] * 18 + ["b", "c"]
    rows = epoch_rows(labels_n, groups, "class-group", np.random.default_rng(0))
    assert Counter(labels_n[rows].tolist()) == {0: 10, 1: 10}
    assert Counter(rows[labels_n[rows] == 1].tolist()) == {18: 5, 19: 5}


def test_views_are_taken_in_turn_or_drawn_anew() -> None:
    assert [view_of_epoch(epoch, 3) for epoch in range(7)] == [0, 1, 2, 0, 1, 2, 0]
    assert [view_of_epoch(epoch, 1) for epoch in range(3)] == [0, 0, 0]
    assert [view_of_epoch(epoch, 0) for epoch in range(3)] == [1, 2, 3]


# ---- Pixels ----


@pytest.fixture
def tiles(tmp_path: Path) -> TileSet:
    """Return twelve tiles, of which the last is a copy of the first."""
    found = write_tiles(tmp_path / "tiles")
    paths = [Path(path) for path in found.table["path"]]
    paths[11].write_bytes(paths[0].read_bytes())
    return found


def wanted_pixels(tiles: TileSet, rows: list[int]) -> np.ndarray:
    """Return what the loader gives, one tile at a time."""
    sources = tile_sources(tiles)
    reader = PixelReader(LOADER)
    return np.concatenate(
        [next(iter(load_views([Wanted(sources[row])], [1], VIEW, reader))).pixels_BSSC for row in rows]
    )


@pytest.mark.parametrize("kept", [True, False])
def test_pixels_are_those_of_the_loader(
    tiles: TileSet, tmp_path: Path, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not kept:
        monkeypatch.setattr(batches, "KEPT_BYTES", 0)
    pixels = TilePixels(tiles, VIEW, LOADER, tmp_path / "cache")
    n_read = 0

    def counted(wanted: list[Wanted], *rest: object) -> object:
        nonlocal n_read
        n_read += len(wanted)
        return load_views(wanted, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(batches, "load_views", counted)
    for rows in ([3, 1, 3], [11, 0, 5], [1], list(range(12)), list(range(12))):
        found_BSSC = pixels(np.array(rows))
        assert found_BSSC.dtype == np.uint8
        np.testing.assert_array_equal(found_BSSC, wanted_pixels(tiles, rows))
    assert n_read == (11 if kept else 2 + 2 + 1 + 11 + 11)  # 0 and 11 are the same bytes


def test_what_a_batch_gave_can_be_changed_without_harm(tiles: TileSet, tmp_path: Path) -> None:
    pixels = TilePixels(tiles, VIEW, LOADER, tmp_path / "cache")
    first_BSSC = pixels(np.array([0, 1]))
    before_BSSC = first_BSSC.copy()
    first_BSSC[:] = 0
    np.testing.assert_array_equal(pixels(np.array([0, 1])), before_BSSC)


def test_a_tile_that_changed_on_disk_is_told_of(tiles: TileSet, tmp_path: Path) -> None:
    pixels = TilePixels(tiles, VIEW, LOADER, tmp_path / "cache")
    paths = [Path(path) for path in tiles.table["path"]]
    paths[2].write_bytes(paths[3].read_bytes())
    pixels(np.array([1]))
    with pytest.raises(UserError, match="changed on disk") as told:
        pixels(np.array([1, 2]))
    assert paths[2].name in str(told.value)


def test_a_view_of_several_inputs_is_refused(tiles: TileSet, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="one input per tile"):
        TilePixels(tiles, ViewConfig(name="tiles", size_px=32), LOADER, tmp_path / "cache")


def inputs_of(tiles: TileSet, folder: Path, augment: AugmentConfig = VARIED, seed: int = 0) -> PixelInputs:
    pixels = TilePixels(tiles, VIEW, LOADER, folder / "cache")
    return PixelInputs(pixels, SCALE, augment, seed, torch.empty(0, dtype=torch.float64))


def test_a_view_is_known_by_content_and_number_alone(tiles: TileSet, tmp_path: Path) -> None:
    inputs = inputs_of(tiles, tmp_path)
    together_BSSC = inputs.shown(np.array([4, 0, 7, 4]), 3)
    np.testing.assert_array_equal(together_BSSC[0], together_BSSC[3])
    for place, row in enumerate([4, 0, 7]):
        np.testing.assert_array_equal(inputs.shown(np.array([row]), 3)[0], together_BSSC[place])
    np.testing.assert_array_equal(inputs.shown(np.array([11]), 3)[0], together_BSSC[1])  # a copy of tile 0
    assert not np.array_equal(inputs.shown(np.array([4]), 2)[0], together_BSSC[0])
    other = inputs_of(tiles, tmp_path, seed=1)
    assert not np.array_equal(other.shown(np.array([4]), 3)[0], together_BSSC[0])


def test_view_0_and_no_augmentation_show_tiles_as_they_are(tiles: TileSet, tmp_path: Path) -> None:
    rows = [2, 5]
    plain_BSSC = wanted_pixels(tiles, rows)
    off = AugmentConfig(dihedral=False, stain=0.0)
    np.testing.assert_array_equal(inputs_of(tiles, tmp_path).shown(np.array(rows), 0), plain_BSSC)
    np.testing.assert_array_equal(inputs_of(tiles, tmp_path, off).shown(np.array(rows), 3), plain_BSSC)
    keys = [f"{TilePixels(tiles, VIEW, LOADER, tmp_path / 'cache').keys[row]} 3" for row in rows]
    varied_BSSC = augment_batch(plain_BSSC, VARIED, 0, keys)
    np.testing.assert_array_equal(inputs_of(tiles, tmp_path).shown(np.array(rows), 3), varied_BSSC)


def test_pixels_are_normalised_by_channel(tiles: TileSet, tmp_path: Path) -> None:
    inputs = inputs_of(tiles, tmp_path)
    x_BCSS = inputs.tensor(np.array([2, 5]), 0)
    assert x_BCSS.dtype == torch.float64
    wanted_BSSC = (wanted_pixels(tiles, [2, 5]) / 255 - np.array(SCALE.mean)) / np.array(SCALE.std)
    np.testing.assert_allclose(x_BCSS.numpy(), wanted_BSSC.transpose(0, 3, 1, 2), atol=1e-6)
    assert inputs.blank().shape == (1, 3, 32, 32)
    assert inputs.like.dtype == torch.float64
