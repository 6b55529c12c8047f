"""Kept tokens are those that the frozen blocks give, are computed once, and are never believed when damaged."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from histotune.embeddings.store import Store, read_manifest
from histotune.finetune import prefix
from histotune.finetune.batches import Normalisation, PixelInputs, TilePixels
from histotune.finetune.cut import Prefix
from histotune.finetune.loop import train
from histotune.finetune.prefix import HalfOverflowError, PrefixPlace, PrefixTokens, token_keys
from histotune.images.config import AugmentConfig
from histotune.tools.errors import UserError
from tests.finetune.families import FAMILIES, built
from tests.finetune.toys import TunedTiles, bench_of, probe_of, task_of, tuned_tiles

BLOCK = "blocks.2"
VARIED = AugmentConfig(stain=0.2)


@dataclass
class Counted:
    """Frozen blocks that count the tiles they see."""

    network: Callable[[torch.Tensor], torch.Tensor]
    n_tiles: int = 0

    def __call__(self, x_BCSS: torch.Tensor) -> torch.Tensor:
        self.n_tiles += len(x_BCSS)
        return self.network(x_BCSS)


@pytest.fixture
def tiles(tmp_path: Path) -> TunedTiles:
    return tuned_tiles(FAMILIES["timm-vit"].spec, tmp_path)


def inputs_of(tiles: TunedTiles, augment: AugmentConfig = VARIED, seed: int = 0) -> PixelInputs:
    pixels = TilePixels(tiles.tiles, tiles.view, tiles.loader, tiles.cache)
    return PixelInputs(pixels, Normalisation.of(tiles.spec), augment, seed, torch.empty(0))


def place_of(tiles: TunedTiles, storage: str = "fp32", max_gib: float = 50.0) -> PrefixPlace:
    return PrefixPlace(tiles.cache, tiles.embeddings.space, BLOCK, "fp16" if storage == "fp16" else "fp32", max_gib)


def tokens_of(
    tiles: TunedTiles, storage: str = "fp32", max_gib: float = 50.0, inputs: PixelInputs | None = None
) -> tuple[PrefixTokens, Counted]:
    """Return kept tokens and the counter of what they cost."""
    blocks = Counted(Prefix(built(tiles.spec), BLOCK))
    inputs = inputs or inputs_of(tiles)
    keys = token_keys(tiles_keys(tiles), "varied")
    tokens = PrefixTokens(blocks, inputs, place_of(tiles, storage, max_gib), keys)
    blocks.n_tiles = 0  # the blank image whose shape was looked at
    return tokens, blocks


def tiles_keys(tiles: TunedTiles) -> tuple[str, ...]:
    return TilePixels(tiles.tiles, tiles.view, tiles.loader, tiles.cache).keys


@pytest.mark.parametrize(("storage", "limit"), [("fp32", 0.0), ("fp16", 2e-3)])
def test_kept_tokens_are_those_that_are_computed(tiles: TunedTiles, storage: str, limit: float) -> None:
    tokens, _ = tokens_of(tiles, storage)
    inputs, blocks = inputs_of(tiles), Prefix(built(tiles.spec), BLOCK)
    for rows, view in (([3, 0, 3], 0), ([5, 1], 2), ([7], 2)):
        found = tokens.tensor(np.array(rows), view)
        wanted = torch.cat([blocks(inputs.tensor(np.array([row]), view)) for row in rows])
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=max(limit, 1e-5))
    assert not torch.equal(tokens.tensor(np.array([3]), 0), tokens.tensor(np.array([3]), 2))
    assert tokens.bytes_per_tile == math.prod(tokens.shape) * (2 if storage == "fp16" else 4)


def test_nothing_is_computed_twice(tiles: TunedTiles, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, blocks = tokens_of(tiles)
    rows = np.arange(6)
    assert tokens.prepare(rows, range(2), np.array([0, 8])) == blocks.n_tiles == 13
    assert tokens.prepare(rows, range(2), np.array([0, 8])) == 0
    assert tokens.prepare(np.array([4, 4, 9]), (0,)) == 1
    again, counted = tokens_of(tiles)
    monkeypatch.setattr(PixelInputs, "shown", lambda *_: pytest.fail("pixels were read"))
    assert again.prepare(rows, range(2), np.array([0, 8, 9])) == 0
    assert torch.equal(again.tensor(rows, 1), tokens.tensor(rows, 1))
    assert counted.n_tiles == 0


def test_tiles_of_equal_bytes_share_their_tokens(tiles: TunedTiles) -> None:
    paths = [Path(path) for path in tiles.tiles.table["path"]]
    paths[1].write_bytes(paths[0].read_bytes())
    tokens, blocks = tokens_of(tiles)
    assert tokens.prepare(np.array([0, 1, 2]), (0,)) == blocks.n_tiles == 2
    assert torch.equal(*tokens.tensor(np.array([0, 1]), 0))


def test_many_shards_are_read_as_one(tiles: TunedTiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix, "SHARD_BYTES", 1)
    monkeypatch.setattr(prefix, "BATCH", 4)
    tokens, _ = tokens_of(tiles)
    assert tokens.prepare(np.arange(12), range(2)) == 24
    assert len(list((place_of(tiles).store.folder / "shards").glob("*.npy"))) == 6
    inputs, blocks = inputs_of(tiles), Prefix(built(tiles.spec), BLOCK)
    rows = np.array([11, 3, 7])
    torch.testing.assert_close(tokens.tensor(rows, 1), blocks(inputs.tensor(rows, 1)), rtol=1e-5, atol=1e-5)


def test_a_damaged_shard_is_set_aside_and_named(tiles: TunedTiles, caplog: pytest.LogCaptureFixture) -> None:
    tokens, _ = tokens_of(tiles)
    rows = np.arange(12)
    tokens.prepare(rows, (0,))
    wanted = tokens.tensor(rows, 0)
    folder = place_of(tiles).store.folder
    shard = next((folder / "shards").glob("*.npy"))
    data = bytearray(shard.read_bytes())
    data[-3] ^= 4
    shard.write_bytes(data)
    again, blocks = tokens_of(tiles)
    assert again.prepare(rows, (0,)) == 0  # its length is right
    with pytest.raises(UserError, match="damaged and was set aside") as told:
        again.tensor(rows, 0)
    assert told.value.value == shard
    assert (folder / "damaged" / shard.name).exists()
    assert shard.stem in caplog.text
    once_more, blocks = tokens_of(tiles)
    assert once_more.prepare(rows, (0,)) == blocks.n_tiles == 12
    assert torch.equal(once_more.tensor(rows, 0), wanted)


def test_a_shard_that_was_cut_off_is_computed_again(tiles: TunedTiles, caplog: pytest.LogCaptureFixture) -> None:
    tokens, _ = tokens_of(tiles)
    rows = np.arange(12)
    tokens.prepare(rows, (0,))
    shard = next((place_of(tiles).store.folder / "shards").glob("*.npy"))
    shard.write_bytes(shard.read_bytes()[:-1])
    again, blocks = tokens_of(tiles)
    assert again.prepare(rows, (0,)) == blocks.n_tiles == 12
    assert "wrong length" in caplog.text


@pytest.mark.parametrize("limit", ["allowed", "free"])
def test_too_much_room_is_refused_before_anything_is_computed(
    tiles: TunedTiles, limit: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="histotune.finetune.prefix")
    needed = 18 * tokens_of(tiles)[0].bytes_per_tile  # six tiles in view 1, and twelve as they are
    wanted = (np.arange(6), (0, 1), np.arange(12))
    if limit == "free":
        usage = prefix.shutil.disk_usage(tiles.cache)
        monkeypatch.setattr(prefix.shutil, "disk_usage", lambda path: usage._replace(free=needed))  # a share stays
    tokens, blocks = tokens_of(tiles, max_gib=50.0 if limit == "free" else (needed - 1) / 2**30)
    with pytest.raises(UserError, match="more room than is allowed or free") as told:
        tokens.prepare(*wanted)
    assert blocks.n_tiles == 0
    assert "finetune.prefix.storage=off" in str(told.value.fix)
    assert "the output of the frozen blocks takes" in caplog.text
    monkeypatch.undo()
    assert tokens_of(tiles, max_gib=needed / 2**30)[0].prepare(*wanted) == 18


def test_the_folder_says_what_it_holds(tiles: TunedTiles) -> None:
    tokens, _ = tokens_of(tiles)
    tokens.prepare(np.arange(3), (0,))
    folder = place_of(tiles).store.folder
    found = Store.at(folder)
    assert found.is_own
    assert BLOCK in found.space.view
    assert found.space.backbone == tiles.spec.name
    manifest = read_manifest(next((folder / "shards").glob("*.json")))
    assert manifest is not None
    assert manifest.total_dim == math.prod(tokens.shape)


def test_what_a_killed_process_left_half_written_goes(tiles: TunedTiles) -> None:
    left = place_of(tiles).store.folder / "shards" / ".0123456789abcdef01234567.npy.abcd1234.partial"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    tokens_of(tiles)[0].prepare(np.arange(3), (0,))
    assert not left.exists()


def test_spaces_differ_by_block_storage_and_view(tiles: TunedTiles) -> None:
    place = place_of(tiles)
    others = [
        replace(place, block="blocks.1"),
        replace(place, storage="fp16"),
        replace(place, space=replace(place.space, view="{}")),
        replace(place, space=replace(place.space, weights_hash="0")),
        replace(place, space=replace(place.space, precision="fp64")),
    ]
    folders = {one.store.folder for one in (place, *others)}
    assert len(folders) == 6
    assert replace(place, max_gib=1.0).store.folder == place.store.folder
    assert Store(tiles.cache, tiles.embeddings.space).folder not in folders


def test_keys_differ_by_tile_view_augmentation_and_seed() -> None:
    rows = np.array([0, 1])
    plain, stronger, seeded = (token_keys(["a", "b"], variation) for variation in ("weak 0", "strong 0", "weak 1"))
    found = [key for keys in (plain, stronger, seeded) for view in (1, 2) for key in keys(rows, view)]
    assert len(set(found)) == 12
    assert plain(rows, 0) == stronger(rows, 0) == seeded(rows, 0) == ["a", "b"]
    assert plain(np.array([1, 1]), 1) == [plain(rows, 1)[1]] * 2


def test_what_half_precision_cannot_hold_is_refused(tiles: TunedTiles) -> None:
    def loud(x_BCSS: torch.Tensor) -> torch.Tensor:
        return x_BCSS.flatten(1) * 1e6

    keys = token_keys(tiles_keys(tiles), "")
    half = PrefixTokens(loud, inputs_of(tiles), place_of(tiles, "fp16"), keys)
    with pytest.raises(HalfOverflowError, match="not finite when stored in half precision"):
        half.prepare(np.arange(3), (0,))
    assert not list(place_of(tiles, "fp16").store.folder.glob("shards/*"))
    whole = PrefixTokens(loud, inputs_of(tiles), place_of(tiles), keys)
    assert whole.prepare(np.arange(3), (0,)) == 3


# ---- A training on kept tokens is the training on pixels ----


@pytest.mark.parametrize("name", ["timm-vit", "lite0", "timm-swin", "swin", "midnight"])
def test_the_curve_on_kept_tokens_is_that_on_pixels(name: str, tmp_path: Path) -> None:
    tiles = tuned_tiles(FAMILIES[name].spec, tmp_path)
    probe = probe_of(tiles.embeddings)
    loop = {"precision": "fp64", "batch_size": 2, "epochs": 5, "lr": 1e-3}
    trained = {}
    for storage in ("off", "fp32"):
        config = {"method": {"name": "last-blocks", "n_blocks": 2}, "loop": loop, "views": 3,
                  "augment": {"stain": 0.2}, "prefix": {"storage": storage}}  # fmt: skip
        bench = bench_of(tiles, config)
        task = task_of(bench, probe)
        assert isinstance(task.inputs, PrefixTokens if storage == "fp32" else PixelInputs)
        trained[storage] = train(task, bench.config.loop)
    assert trained["off"].n_steps == 20
    np.testing.assert_allclose(trained["fp32"].step_losses, trained["off"].step_losses, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(trained["fp32"].logit_EnK, trained["off"].logit_EnK, rtol=1e-4, atol=1e-4)
    assert np.ptp(trained["off"].step_losses) > 0.01


@pytest.mark.parametrize("name", ["timm-vit", "lite0", "midnight"])
def test_half_precision_moves_no_first_logit(name: str, tmp_path: Path) -> None:
    tiles = tuned_tiles(FAMILIES[name].spec, tmp_path)
    probe = probe_of(tiles.embeddings)
    logits = {}
    for storage in ("off", "fp16"):
        loop = {"precision": "fp32", "epochs": 1}
        bench = bench_of(tiles, {"loop": loop, "prefix": {"storage": storage}})
        task = task_of(bench, probe)
        logits[storage] = train(task, bench.config.loop, stop_after=0).logit_EnK[0]
        if isinstance(task.inputs, PrefixTokens) and name != "lite0":  # whose random weights need more digits
            assert task.inputs.bytes_per_tile == 2 * math.prod(task.inputs.shape)
    np.testing.assert_allclose(logits["fp16"], logits["off"], atol=1e-3)
