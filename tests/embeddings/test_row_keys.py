"""Rows under every view: a changed scale re-embeds exactly the tiles concerned, several inputs are averaged."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from histotune.backbones.catalog import colour_histogram, find_backbone
from histotune.backbones.engine import load_backbone
from histotune.backbones.entries import BackboneConfig
from histotune.backbones.network import colour_fractions
from histotune.datasets.tileset import LabelRegion, TileSet
from histotune.embeddings.embed import embed
from histotune.embeddings.row_keys import average_inputs, plan_shards, row_key
from histotune.embeddings.runner import BatchRunner
from histotune.embeddings.space import EmbeddingConfig, EmbedRequest
from histotune.embeddings.store import ShardPlan, Store
from histotune.images.config import ViewConfig
from histotune.images.decode import UnreadableTilesError, read_pixels
from histotune.images.views import resized_sizes, view_inputs
from histotune.tools.devices import ComputeDevice
from histotune.tools.errors import UserError
from tests.embeddings.conftest import OLD_NS, tile_set, write_tiles

Requests = Callable[..., EmbedRequest]
SIZES = [(40, 32), (20, 64), (14, 14), (90, 30), (40, 32), (33, 33), (70, 29)]
TARGETS = [ViewConfig(name=name, size_px=14, target_mpp=1.0) for name in ("short-side-crop", "square", "tiles")]

UNSCALED = [ViewConfig(name=name, size_px=14) for name in ("tiles", "letterbox")]


def write_mixed(folder: Path, mpp: float | None = 0.5) -> TileSet:
    """Write noise tiles of several sizes and return their tile set with a scale."""
    folder.mkdir(parents=True)
    rng, paths = np.random.default_rng(5), []
    for number, (width, height) in enumerate(SIZES):
        paths.append(folder / f"{number}.png")
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(paths[-1])
        os.utime(paths[-1], ns=(OLD_NS, OLD_NS))
    tiles = tile_set(paths)
    facts = {"mpp": pl.Series([mpp] * len(SIZES), dtype=pl.Float64)}
    for axis, name in enumerate(("width_px", "height_px")):
        facts[name] = pl.Series([size[axis] for size in SIZES], dtype=pl.Int32)
    return replace(tiles, table=tiles.table.with_columns(**facts))


def with_mpp(tiles: TileSet, mpp: dict[str, float]) -> TileSet:
    values = [mpp.get(tile_id, old) for tile_id, old in zip(tiles.tile_ids, tiles.table["mpp"], strict=True)]
    return replace(tiles, table=tiles.table.with_columns(mpp=pl.Series(values, dtype=pl.Float64)))


def one_by_one(tiles: TileSet, view: ViewConfig) -> np.ndarray:
    """Average the histograms of each tile's inputs, without the store."""
    rows = []
    for path, mpp in zip(tiles.table["path"], tiles.table["mpp"], strict=True):
        pixels_HWC = read_pixels(Path(path))
        size = None
        if view.target_mpp is not None:
            height, width = pixels_HWC.shape[:2]
            size = tuple(int(side) for side in resized_sizes(width, height, view, mpp))
        total = np.zeros(96, np.float32)
        inputs_KSSC = view_inputs(pixels_HWC, view, size)
        for pixels_SSC in inputs_KSSC:
            total += colour_fractions(pixels_SSC[None])[0]
        rows.append(total / np.float32(len(inputs_KSSC)))
    return np.stack(rows)


@pytest.mark.parametrize("view", [*TARGETS, *UNSCALED], ids=lambda view: view.words)
def test_batches_equal_one_by_one_in_any_order(tmp_path: Path, request_for: Requests, view: ViewConfig) -> None:
    tiles, request = write_mixed(tmp_path / "tiles"), replace(request_for(batch_size=5), view=view)
    cold = embed(tiles, request)
    assert np.array_equal(cold.matrix_ND, one_by_one(tiles, view))
    order = np.random.default_rng(0).permutation(len(tiles))
    again = embed(tiles.take(order), replace(request, cache=tmp_path / "other"))
    assert np.array_equal(again.matrix_ND, cold.matrix_ND[order])
    assert again.pixel_fingerprint == cold.pixel_fingerprint
    assert embed(tiles, request).n_computed == 0


@pytest.mark.parametrize("view", TARGETS, ids=lambda view: view.words)
def test_a_changed_scale_embeds_the_tiles_concerned(tmp_path: Path, request_for: Requests, view: ViewConfig) -> None:
    tiles, request = write_mixed(tmp_path / "tiles"), replace(request_for(), view=view)
    cold = embed(tiles, request)
    assert cold.n_computed == len(tiles)
    finer = with_mpp(tiles, {"1.png": 0.25, "3.png": 0.7})
    changed = embed(finer, request)
    assert (changed.n_computed, changed.space.key) == (2, cold.space.key)
    assert np.array_equal(changed.matrix_ND, one_by_one(finer, view))
    assert embed(tiles, request).n_computed == 0
    same_pixels = with_mpp(tiles, dict.fromkeys(tiles.tile_ids, 0.5 + 1e-9))
    assert embed(same_pixels, request).n_computed == 0
    relabelled = replace(tiles, table=tiles.table.with_columns(pl.lit(1, pl.Int32).alias("label")))
    assert embed(relabelled, request).n_computed == 0


def test_without_a_target_the_scale_is_no_matter(tmp_path: Path, request_for: Requests) -> None:
    tiles, request = write_mixed(tmp_path / "tiles"), request_for()
    embed(tiles, request)
    assert embed(with_mpp(tiles, dict.fromkeys(tiles.tile_ids, 0.1)), request).n_computed == 0


def test_equal_bytes_at_two_scales_are_two_rows(tmp_path: Path, request_for: Requests) -> None:
    tiles = write_mixed(tmp_path / "tiles")
    (tmp_path / "tiles" / "4.png").write_bytes((tmp_path / "tiles" / "0.png").read_bytes())
    tiles = with_mpp(tiles, {"0.png": 0.25})
    result = embed(tiles, replace(request_for(), view=TARGETS[0]))
    assert result.n_computed == len(tiles)
    assert not np.array_equal(result.matrix_ND[0], result.matrix_ND[4])
    assert np.array_equal(result.matrix_ND, one_by_one(tiles, TARGETS[0]))


def test_unknown_sizes_are_read_from_the_images(tmp_path: Path, request_for: Requests) -> None:
    tiles, request = write_mixed(tmp_path / "tiles"), replace(request_for(), view=TARGETS[2])
    unknown = replace(tiles, table=tiles.table.with_columns(width_px=pl.lit(None, pl.Int32)))
    assert np.array_equal(embed(unknown, request).matrix_ND, embed(tiles, request).matrix_ND)
    (tmp_path / "tiles" / "2.png").write_bytes(b"broken")
    with pytest.raises(UnreadableTilesError, match=r"2\.png"):
        embed(unknown, request)
    skipped = embed(unknown, replace(request, on_bad_image="skip"))
    assert list(skipped.unreadable) == ["2.png"]


def test_an_image_of_another_size_than_its_table_says_is_refused(tmp_path: Path, request_for: Requests) -> None:
    tiles, request = write_mixed(tmp_path / "tiles"), replace(request_for(), view=TARGETS[0])
    wrong = replace(tiles, table=tiles.table.with_columns(width_px=pl.lit(99, pl.Int32)))
    with pytest.raises(UserError, match=r"image is 40 x 32 px and its data set says \(99, 32\)"):
        embed(wrong, request)


def test_refusals_come_before_anything_is_computed(tmp_path: Path, request_for: Requests) -> None:
    tiles = write_mixed(tmp_path / "tiles")
    request = replace(request_for(), view=TARGETS[2])
    with pytest.raises(UserError, match="7 of 7 tiles of noise have no mpp"):
        embed(replace(tiles, table=tiles.table.with_columns(mpp=pl.lit(None, pl.Float64))), request)
    with pytest.raises(UserError, match="several crops"):
        embed(replace(tiles, label_region=LabelRegion(5, 5, 2, 2)), request)
    assert not request.cache.exists()


def test_batches_hold_as_many_inputs_as_asked_for(tmp_path: Path, request_for: Requests) -> None:
    tiles, request = write_mixed(tmp_path / "tiles"), replace(request_for(batch_size=8), view=TARGETS[2])
    result = embed(tiles, request)
    held = {manifest.batch_sizes for manifest in Store(request.cache, result.space).manifests().values()}
    # inputs per tile at half size: 2 x 2, 1 x 3, 1, 4 x 2, 2 x 2, 2 x 2, 3 x 2
    assert held == {(1,), (2, 1)}


def test_plans_group_rows_by_their_inputs() -> None:
    config = EmbeddingConfig(batch_size=6, shard_tiles=2)
    plans = plan_shards([], ["a", "b", "c", "d", "e"], config, {"b": 3, "d": 3, "e": 100})
    assert plans == (ShardPlan(("a", "c"), 6), ShardPlan(("b", "d"), 2), ShardPlan(("e",), 1))


def test_averages_go_from_the_first_input_to_the_last() -> None:
    rows_BD = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32) * np.float32(1e3)
    averaged = average_inputs(rows_BD, (3, 1, 2))
    assert averaged.dtype == np.float32
    assert np.array_equal(averaged[0], (rows_BD[0] + rows_BD[1] + rows_BD[2]) / np.float32(3))
    assert np.array_equal(averaged[1], rows_BD[3])
    assert np.array_equal(averaged[2], (rows_BD[4] + rows_BD[5]) / np.float32(2))
    assert average_inputs(rows_BD, (1,) * 6) is rows_BD
    assert row_key("content", None) == "content"


def test_halved_batches_keep_the_averages(caplog: pytest.LogCaptureFixture) -> None:
    import torch

    pixels = np.random.default_rng(0).integers(0, 256, (7 * 3, 8, 8, 3), dtype=np.uint8)
    cpu = ComputeDevice("cpu", "", "", float("nan"), fast_bf16=False)
    histograms = load_backbone(colour_histogram(), cpu, "fp32")

    def small(batch: np.ndarray) -> np.ndarray:
        if len(batch) > 6:
            raise torch.OutOfMemoryError("full")
        return histograms.embed(batch)

    runner = BatchRunner(replace(histograms, embed=small, module=torch.nn.Identity()), 12)
    expected = average_inputs(histograms.embed(pixels), (3,) * 7)
    assert np.array_equal(runner.run(pixels, (3,) * 7), expected)
    assert runner.facts(1).batch_sizes == (2, 2, 2, 1)
    assert "memory ran out" in caplog.text


def test_a_network_sees_every_crop(tmp_path: Path, request_for: Requests) -> None:
    spec = find_backbone(BackboneConfig(name="random/timm/resnet10t"))
    tiles = write_tiles(tmp_path / "tiles", 3)  # 40 x 32 px: two crops side by side
    view = ViewConfig(name="tiles", size_px=32)
    result = embed(tiles, replace(request_for(spec), view=view))
    cpu = ComputeDevice("cpu", "", "", float("nan"), fast_bf16=False)
    backbone = load_backbone(replace(spec, size_px=32), cpu, "fp32")
    for path, row_D in zip(tiles.table["path"], result.matrix_ND, strict=True):
        pixels_HWC = read_pixels(Path(path))
        crops_KSSC = np.stack([pixels_HWC[:, :32], pixels_HWC[:, 8:]])
        np.testing.assert_allclose(row_D, backbone.embed(crops_KSSC).mean(axis=0), rtol=1e-4, atol=1e-5)
