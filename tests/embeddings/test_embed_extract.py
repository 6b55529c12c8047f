"""Nothing is embedded twice, nothing half-done is read as done, and a cold run equals a warm one."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import polars as pl
import pytest

from histotune.backbones.catalog import colour_histogram, find_backbone
from histotune.backbones.engine import load_backbone
from histotune.backbones.entries import BackboneConfig
from histotune.backbones.network import colour_fractions
from histotune.datasets.tileset import TileSet, tile_table
from histotune.embeddings import embed as embed_module
from histotune.embeddings import gather
from histotune.embeddings.embed import embed
from histotune.embeddings.row_keys import plan_shards
from histotune.embeddings.runner import BatchRunner
from histotune.embeddings.space import EmbeddingConfig, EmbedRequest
from histotune.embeddings.store import ShardPlan, Store
from histotune.images.config import LoaderConfig
from histotune.images.decode import read_pixels
from histotune.images.views import view_inputs
from histotune.tools.devices import ComputeDevice
from histotune.tools.errors import UserError
from tests.embeddings.conftest import OLD_NS, tile_set, write_tiles

Requests = Callable[..., EmbedRequest]


def expected(tiles: TileSet, request: EmbedRequest) -> np.ndarray:
    """Return histograms computed one by one, without the store."""
    views = [view_inputs(read_pixels(Path(path)), request.view)[0] for path in tiles.table["path"]]
    return np.concatenate([colour_fractions(view[None]) for view in views])


def shards(request: EmbedRequest) -> list[Path]:
    return sorted(request.cache.glob("embeddings/*/shards/*.npy"))


def test_rows_equal_one_by_one_and_the_second_run_computes_nothing(
    tmp_path: Path, request_for: Requests, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", logger="histotune")
    tiles, request = write_tiles(tmp_path / "tiles", 11), request_for()
    cold = embed(tiles, request)
    assert np.array_equal(cold.matrix_ND, expected(tiles, request))
    assert (cold.n_computed, cold.matrix_ND.dtype, len(shards(request))) == (11, np.float32, 3)
    assert "embedding 11 tiles with colour-histogram (fp32, cpu)" in caplog.text
    warm = embed(tiles, request)
    assert warm.n_computed == 0
    assert warm.matrix_ND.tobytes() == cold.matrix_ND.tobytes()
    assert replace(warm, matrix_ND=cold.matrix_ND, n_computed=11) == cold
    assert "all 11 embeddings of colour-histogram are in the cache already" in caplog.text


def test_order_names_and_labels_cost_nothing(tmp_path: Path, request_for: Requests) -> None:
    tiles, request = write_tiles(tmp_path / "tiles", 7), request_for()
    cold = embed(tiles, request)
    order = np.random.default_rng(1).permutation(7)
    shuffled = embed(tiles.take(order), request)
    assert (shuffled.n_computed, shuffled.pixel_fingerprint) == (0, cold.pixel_fingerprint)
    assert np.array_equal(shuffled.matrix_ND, cold.matrix_ND[order])
    moved = Path(shutil.copytree(tmp_path / "tiles", tmp_path / "moved"))
    relabelled = tile_set(sorted(moved.glob("*.png")))
    relabelled = replace(relabelled, table=relabelled.table.with_columns(pl.lit(1, pl.Int32).alias("label")))
    assert embed(relabelled, request).n_computed == 0


def test_ten_more_tiles_embed_ten(tmp_path: Path, request_for: Requests) -> None:
    request = request_for()
    first = write_tiles(tmp_path / "tiles", 9)
    before = embed(first, request)
    write_tiles(tmp_path / "tiles", 10, seed=1)
    both = embed(tile_set(sorted((tmp_path / "tiles").glob("*.png"))), request)
    assert both.n_computed == 10
    assert np.array_equal(both.matrix_ND[:9], before.matrix_ND)
    assert both.pixel_fingerprint != before.pixel_fingerprint


def test_equal_content_is_embedded_once(tmp_path: Path, request_for: Requests) -> None:
    write_tiles(tmp_path / "tiles", 3)
    shutil.copy(tmp_path / "tiles" / "0-000.png", tmp_path / "tiles" / "twin.png")
    result = embed(tile_set(sorted((tmp_path / "tiles").glob("*.png"))), request_for())
    assert result.n_computed == 3
    assert np.array_equal(result.matrix_ND[0], result.matrix_ND[3])


def test_an_image_overwritten_by_known_content_costs_nothing(tmp_path: Path, request_for: Requests) -> None:
    tiles, request = write_tiles(tmp_path / "tiles", 5), request_for()
    embed(tiles, request)
    shutil.copy(tmp_path / "tiles" / "0-001.png", tmp_path / "tiles" / "0-000.png")
    result = embed(tiles, request)
    assert result.n_computed == 0
    assert np.array_equal(result.matrix_ND[0], result.matrix_ND[1])


def test_hdf5_rows(tmp_path: Path, request_for: Requests) -> None:
    x_NHWC = np.random.default_rng(0).integers(0, 256, (9, 20, 20, 3), dtype=np.uint8)
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file["x"] = x_NHWC
    os.utime(path, ns=(OLD_NS, OLD_NS))
    rows = [7, 0, 3]
    table = tile_table({"tile_id": [f"{row}" for row in rows], "path": [str(path)] * 3, "row": rows})
    tiles, request = TileSet("h5", table, ("a", "b"), "", ""), request_for()
    result = embed(tiles, request)
    views = np.stack([view_inputs(x_NHWC[int(tile_id)], request.view)[0] for tile_id in result.tile_ids])
    assert np.array_equal(result.matrix_ND, colour_fractions(views))
    assert (result.n_computed, embed(tiles, request).n_computed) == (3, 0)


def test_settings_live_in_spaces_of_their_own(tmp_path: Path, request_for: Requests) -> None:
    tiles = write_tiles(tmp_path / "tiles", 3)
    assert embed(tiles, request_for()).n_computed == 3
    assert embed(tiles, request_for(size_px=20)).n_computed == 3
    assert embed(tiles, request_for()).n_computed == 0


@pytest.mark.parametrize("harm", ["flip", "shorten", "remove", "manifest"])
def test_a_damaged_shard_is_set_aside_and_computed_again(
    tmp_path: Path, request_for: Requests, caplog: pytest.LogCaptureFixture, harm: str
) -> None:
    tiles, request = write_tiles(tmp_path / "tiles", 11), request_for()
    cold = embed(tiles, request)
    victim = shards(request)[1]
    n_rows = len(np.load(victim))
    data = bytearray(victim.read_bytes())
    if harm == "flip":
        data[-3] ^= 1
        victim.write_bytes(bytes(data))
    elif harm == "shorten":
        victim.write_bytes(bytes(data[:-8]))
    elif harm == "remove":
        victim.unlink()
    else:
        victim.with_suffix(".json").write_text("{", encoding="utf-8")
    assert len(Store(request.cache, cold.space).verify()) == 1
    again = embed(tiles, request)
    assert again.n_computed == n_rows
    assert again.matrix_ND.tobytes() == cold.matrix_ND.tobytes()
    assert "set aside" in caplog.text
    assert Store(request.cache, cold.space).verify() == ()
    assert embed(tiles, request).n_computed == 0


def test_a_large_matrix_is_memory_mapped_and_equal(
    tmp_path: Path, request_for: Requests, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiles, request = write_tiles(tmp_path / "tiles", 11), request_for()
    small = embed(tiles, request)
    monkeypatch.setattr(embed_module, "gather", lambda *given: gather.gather(*given, in_memory_bytes=100))
    large = embed(tiles, request)
    assert isinstance(large.matrix_ND, np.memmap)
    assert large.matrix_ND.tobytes() == small.matrix_ND.tobytes()
    with pytest.raises(ValueError, match="read-only"):
        large.matrix_ND[0, 0] = 1
    shards(request)[0].write_bytes(b"damaged")
    assert embed(tiles, request).matrix_ND.tobytes() == small.matrix_ND.tobytes()


def test_a_full_disk_is_one_clear_message_and_the_next_run_goes_on(
    tmp_path: Path, request_for: Requests, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiles, request = write_tiles(tmp_path / "tiles", 11), request_for()
    original, n_saved = np.save, []

    def filling(*given: object, **options: object) -> None:
        if len(n_saved) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        n_saved.append(1)
        original(*given, **options)

    monkeypatch.setattr(np, "save", filling)
    with pytest.raises(UserError, match="disk is full"):
        embed(tiles, request)
    assert len(shards(request)) == 2
    assert not [path for path in request.cache.rglob("*") if path.name.endswith(".partial")]
    monkeypatch.setattr(np, "save", original)
    resumed = embed(tiles, request)
    assert resumed.n_computed == 3
    assert np.array_equal(resumed.matrix_ND, expected(tiles, request))


def test_a_cache_that_cannot_be_written(tmp_path: Path, request_for: Requests, monkeypatch: pytest.MonkeyPatch) -> None:
    tiles, request = write_tiles(tmp_path / "tiles", 3), request_for()

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refused)
    with pytest.raises(UserError, match="can't be written"):
        embed(tiles, request)


def test_unreadable_tiles_are_listed_and_the_rest_is_kept(tmp_path: Path, request_for: Requests) -> None:
    tiles, request = write_tiles(tmp_path / "tiles", 12), request_for()
    for number in (6, 9):
        (tmp_path / "tiles" / f"0-{number:03d}.png").write_bytes(b"broken %d" % number)
    with pytest.raises(UserError) as caught:
        embed(tiles, request)
    assert "0-006.png" in str(caught.value) and "0-009.png" in str(caught.value)
    assert len(shards(request)) == 1
    rest = embed(tiles.where(~pl.col("tile_id").is_in(["0-006.png", "0-009.png"])), request)
    assert rest.n_computed == 6


def test_images_that_change_while_they_are_read_are_refused(
    tmp_path: Path, request_for: Requests, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiles, request = write_tiles(tmp_path / "tiles", 4), request_for()
    other = (tmp_path / "tiles" / "0-001.png").read_bytes()
    embed(tiles.where(pl.col("tile_id") != "0-002.png"), request)  # remembers hashes of the others

    load_views = embed_module.load_views

    def late(*given: object, **options: object) -> object:
        (tmp_path / "tiles" / "0-002.png").write_bytes(other + b" ")
        return load_views(*given, **options)

    monkeypatch.setattr(embed_module, "load_views", late)
    with pytest.raises(UserError, match=r"(?s)changed while they were read.*0-002"):
        embed(tiles, request)


def test_no_tiles_is_a_mistake(tmp_path: Path, request_for: Requests) -> None:
    with pytest.raises(UserError, match="no tiles"):
        embed(write_tiles(tmp_path, 2).where(pl.lit(value=False)), request_for())


def test_plans_keep_what_an_interrupted_run_had_planned() -> None:
    config = EmbeddingConfig(batch_size=2, shard_tiles=3)
    earlier = [ShardPlan(("d", "c"), 5), ShardPlan(("a", "gone"), 5)]
    plans = plan_shards(earlier, ["a", "b", "c", "d", "e", "f"], config)
    assert plans == (ShardPlan(("d", "c"), 5), ShardPlan(("a", "b", "e"), 2), ShardPlan(("f",), 2))
    assert ShardPlan(tuple("abcde"), 2).batch_sizes == (2, 2, 1)
    assert plan_shards([], [], config) == ()


def test_batches_are_halved_when_memory_runs_out(caplog: pytest.LogCaptureFixture) -> None:
    import torch

    pixels = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 3), dtype=np.uint8)
    cpu = ComputeDevice("cpu", "", "", float("nan"), fast_bf16=False)
    histograms = load_backbone(colour_histogram(), cpu, "fp32")

    def small(batch: np.ndarray) -> np.ndarray:
        if len(batch) > 2:
            raise torch.OutOfMemoryError("full")
        return histograms.embed(batch)

    runner = BatchRunner(replace(histograms, embed=small, module=torch.nn.Identity()), 7)
    assert np.array_equal(runner.run(pixels), histograms.embed(pixels))
    assert runner.facts(1).batch_sizes == (1,) * 7
    assert "memory ran out" in caplog.text


def test_a_network_in_the_store(tmp_path: Path, request_for: Requests) -> None:
    spec = find_backbone(BackboneConfig(name="random/timm/resnet10t"))
    tiles, request = write_tiles(tmp_path / "tiles", 5), request_for(spec, size_px=56)
    result = embed(tiles, request)
    views = np.stack([view_inputs(read_pixels(Path(path)), request.view)[0] for path in tiles.table["path"]])
    cpu = ComputeDevice("cpu", "", "", float("nan"), fast_bf16=False)
    direct = load_backbone(replace(spec, size_px=56), cpu, "fp32").embed(views)
    np.testing.assert_allclose(result.matrix_ND, direct, rtol=1e-4, atol=1e-5)
    assert result.columns(("pooled",)).tolist() == list(range(direct.shape[1]))
    manifests = Store(request.cache, result.space).manifests().values()
    assert sorted(manifest.batch_sizes for manifest in manifests) == [(1,), (2, 2)]


def test_loader_settings_do_not_change_embeddings(tmp_path: Path, request_for: Requests) -> None:
    tiles, request = write_tiles(tmp_path / "tiles", 5), request_for()
    first = embed(tiles, request)
    other = replace(request, loader=LoaderConfig(workers=1), cache=tmp_path / "other")
    assert embed(tiles, other).matrix_ND.tobytes() == first.matrix_ND.tobytes()


def test_unreadable_tiles_are_left_out_where_asked_for(tmp_path: Path, request_for: Requests) -> None:
    tiles, request = write_tiles(tmp_path / "tiles", 30), replace(request_for(), on_bad_image="skip")
    bad = {f"0-{number:03d}.png" for number in (0, 6, 9, 29)}
    for name in bad - {"0-009.png"}:
        (tmp_path / "tiles" / name).write_bytes(b"broken " + name.encode())
    (tmp_path / "tiles" / "0-009.png").unlink()
    result = embed(tiles, request)
    assert set(result.unreadable) == bad
    assert "missing" in result.unreadable["0-009.png"] or "can't be read" in result.unreadable["0-009.png"]
    rest = tiles.where(~pl.col("tile_id").is_in(list(bad)))
    assert result.tile_ids == rest.tile_ids
    assert np.array_equal(result.matrix_ND, expected(rest, request))
    again = embed(tiles, request)
    assert (again.n_computed, set(again.unreadable)) == (0, bad)
    assert again.matrix_ND.tobytes() == result.matrix_ND.tobytes()


def test_known_bad_tiles_need_no_network_on_a_warm_run(
    tmp_path: Path, request_for: Requests, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiles, request = write_tiles(tmp_path / "tiles", 5), replace(request_for(), on_bad_image="skip")
    (tmp_path / "tiles" / "0-003.png").write_bytes(b"broken")
    cold = embed(tiles, request)
    monkeypatch.setattr(embed_module, "_run", lambda *_: pytest.fail("a network was asked for"))
    assert embed(tiles, request).matrix_ND.tobytes() == cold.matrix_ND.tobytes()


def test_only_unreadable_tiles_are_a_mistake(tmp_path: Path, request_for: Requests) -> None:
    tiles, request = write_tiles(tmp_path / "tiles", 3), replace(request_for(), on_bad_image="skip")
    for path in (tmp_path / "tiles").iterdir():
        path.write_bytes(b"broken " + path.name.encode())
    with pytest.raises(UserError, match="no image that can be read"):
        embed(tiles, request)


def test_unreadable_rows_of_a_truncated_hdf5_file(tmp_path: Path, request_for: Requests) -> None:
    path, x_NHWC = tmp_path / "x.h5", np.random.default_rng(0).integers(0, 256, (40, 20, 20, 3), dtype=np.uint8)
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=x_NHWC, chunks=(1, 20, 20, 3), compression="gzip")
        offset = file["x"].id.get_chunk_info(17).byte_offset
    data = bytearray(path.read_bytes())
    data[offset : offset + 40] = bytes(40)
    path.write_bytes(bytes(data))
    table = tile_table({"tile_id": [f"{row:02d}" for row in range(40)], "path": [str(path)] * 40, "row": range(40)})
    tiles = TileSet("h5", table, ("a", "b"), "", "")
    with pytest.raises(UserError, match="rows 17 to 17"):
        embed(tiles, request_for())
    result = embed(tiles, replace(request_for(), on_bad_image="skip"))
    assert list(result.unreadable) == ["17"]
    assert len(result) == 39
