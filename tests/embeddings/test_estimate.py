"""An estimate times real tiles, writes nothing, counts what is there as free, and says how sure it is."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from histotune.backbones import engine
from histotune.backbones.catalog import find_backbone
from histotune.backbones.entries import BackboneConfig
from histotune.backbones.spec import Backbone, BackboneSpec
from histotune.backbones.weights import weights_are_here
from histotune.embeddings.embed import embed
from histotune.embeddings.estimate import MANIFEST_BYTES, EmbeddingEstimate, StageRate, estimate
from histotune.embeddings.space import EmbedRequest
from histotune.tools.errors import UserError
from tests.conftest import CommandResult
from tests.embeddings.conftest import tile_set, write_tiles

Requests = Callable[..., EmbedRequest]
TILE_S = 0.02


@pytest.fixture
def slow_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every backbone take 20 ms per tile."""
    real = engine.load_backbone

    def slow(*given: object) -> Backbone:
        backbone = real(*given)  # type: ignore[arg-type]

        def embed_slowly(pixels_BSSC: np.ndarray) -> np.ndarray:
            time.sleep(TILE_S * len(pixels_BSSC))
            return backbone.embed(pixels_BSSC)

        return replace(backbone, embed=embed_slowly)

    monkeypatch.setattr(engine, "load_backbone", slow)


@pytest.mark.usefixtures("slow_network")
def test_a_slow_network_is_the_limit_and_nothing_is_written(tmp_path: Path, request_for: Requests) -> None:
    tiles, request = write_tiles(tmp_path / "tiles", 30), request_for()
    found = estimate(tiles, request)
    assert not request.cache.exists()
    assert (found.n_tiles, found.n_cached, found.n_missing, found.batch_size) == (30, 0, 30, 2)
    assert len(found.batches_s) == 12
    assert found.limit is not None and found.limit.name == "forward"
    assert 0.25 / TILE_S < found.images_per_s <= 1 / TILE_S
    assert found.hours_between[0] <= found.hours <= found.hours_between[1]
    assert found.hours == pytest.approx(30 / found.images_per_s / 3600)
    assert (found.total_dim, found.storage_bytes) == (96, 30 * (4 * 96 + MANIFEST_BYTES))
    assert found.download_bytes == 0
    assert any("30 tiles were never read" in note for note in found.notes)


def test_what_is_embedded_is_free(tmp_path: Path, request_for: Requests) -> None:
    request = request_for()
    embed(write_tiles(tmp_path / "tiles", 8), request)
    before = {path: path.read_bytes() for path in request.cache.rglob("*") if path.is_file()}
    write_tiles(tmp_path / "tiles", 5, seed=1)
    both = tile_set(sorted((tmp_path / "tiles").glob("*.png")))
    found = estimate(both, request)
    assert (found.n_cached, found.n_missing) == (8, 5)
    assert any("5 tiles were never read" in note for note in found.notes)
    assert any("more than once" in note for note in found.notes)
    assert {path: path.read_bytes() for path in request.cache.rglob("*") if path.is_file()} == before
    done = estimate(both.where(pl.col("tile_id").str.starts_with("0")), request)
    assert (done.n_missing, done.hours, done.hours_between, done.batches_s) == (0, 0.0, (0.0, 0.0), ())


def test_a_long_batch_is_timed_in_smaller_ones(
    tmp_path: Path, request_for: Requests, monkeypatch: pytest.MonkeyPatch, slow_network: None
) -> None:
    monkeypatch.setattr("histotune.embeddings.estimate.MAX_BATCH_S", 6 * TILE_S)
    found = estimate(write_tiles(tmp_path / "tiles", 10), request_for(batch_size=64), budget_s=0)
    assert found.batch_size in (2, 4)
    assert len(found.batches_s) == 3
    assert any("A batch of 64 takes long here" in note for note in found.notes)


def test_missing_weights_are_stood_in_for(
    tmp_path: Path, request_for: Requests, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("histotune.backbones.weights.cached_file", lambda *_: None)
    spec = replace(find_backbone(BackboneConfig(name="timm/resnet10t")), size_px=32)
    assert not weights_are_here(spec)
    found = estimate(write_tiles(tmp_path / "tiles", 3), request_for(spec, size_px=32), budget_s=0)
    assert found.download_bytes == pytest.approx(4 * 4.92e6, rel=0.02)  # parameters of resnet10t without its classes
    assert (found.n_missing, found.total_dim) == (3, 512)
    assert any("random ones of the same architecture" in note for note in found.notes)


def test_weights_that_are_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = BackboneSpec("x", "transformers", "org/x")
    monkeypatch.setattr("histotune.backbones.weights.cached_file", lambda *_: None)
    assert not weights_are_here(hub)
    assert weights_are_here(replace(hub, source=str(tmp_path)))
    assert weights_are_here(replace(hub, weights="random"))
    index = tmp_path / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}', encoding="utf-8")
    files = {index.name: index, "1.safetensors": index}
    monkeypatch.setattr("histotune.backbones.weights.cached_file", lambda _, name, __: files.get(name))
    assert not weights_are_here(hub)  # one of its shards is missing
    files["2.safetensors"] = index
    assert weights_are_here(hub)


def test_unreadable_tiles_stop_it_or_are_left_out(tmp_path: Path, request_for: Requests) -> None:
    tiles, request = write_tiles(tmp_path / "tiles", 6), request_for()
    (tmp_path / "tiles" / "0-003.png").write_bytes(b"broken")
    with pytest.raises(UserError, match="0-003"):
        estimate(tiles, request)
    assert estimate(tiles, replace(request, on_bad_image="skip")).images_per_s > 0


def test_nothing_to_estimate(tmp_path: Path, request_for: Requests) -> None:
    tiles = write_tiles(tmp_path / "tiles", 2)
    with pytest.raises(UserError, match="no tiles"):
        estimate(tiles.where(pl.lit(value=False)), request_for())
    with pytest.raises(UserError, match="not computed"):
        estimate(tiles, request_for(BackboneSpec("external:x", "external", "x")))


def test_the_command_prints_rates_hours_and_bytes(
    histotune: Callable[..., CommandResult], breakhis: Path, tmp_path: Path
) -> None:
    done = histotune("embed", "breakhis", "--data", breakhis, "--backbone", "colour-histogram", "--cache",
                     tmp_path / "cache", "--estimate")  # fmt: skip
    assert done.code == 0, done.err
    assert "72 tiles: 0 embedded already, 72 to compute" in done.out
    for stage in ("read and decode", "view", "forward"):
        assert f"  {stage} " in done.out
    assert done.out.count("<- the limit") == 1
    assert "all together" in done.out and "of embeddings" in done.out and "batches of 32)" in done.out
    ((slowest, fastest),) = re.findall(r"images/s \(([\d.]+) to ([\d.]+) over", done.out.replace(",", ""))
    assert float(slowest) < float(fastest)
    assert not (tmp_path / "cache").exists()


def test_hours_follow_the_spread() -> None:
    found = EmbeddingEstimate(7300, 100, 10, (1.0, 2.0, 3.0), (StageRate("forward", 9.0),), 4, 0, "cpu", "fp32")
    assert found.images_per_s == pytest.approx(5.0)
    assert found.hours == pytest.approx(0.4)
    assert found.hours_between == (pytest.approx(0.2), pytest.approx(0.6))
