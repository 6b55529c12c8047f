"""Rows are kept in float16 where it is asked for and changes nothing, shard by shard."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from histotune.audit.overlap import nearest
from histotune.backbones.catalog import colour_histogram
from histotune.embeddings.embed import embed
from histotune.embeddings.estimate import estimate, request_space
from histotune.embeddings.exchange import export, space_table
from histotune.embeddings.gather import gather
from histotune.embeddings.precision import stored
from histotune.embeddings.space import EmbedRequest, embedding_space
from histotune.embeddings.store import Store
from histotune.embeddings.upkeep import space_facts
from histotune.images.config import ViewConfig
from histotune.tools.devices import ComputeDevice
from tests.embeddings.conftest import write_tiles

Requests = Callable[..., EmbedRequest]
CPU = ComputeDevice("cpu", "x", "", float("nan"), fast_bf16=False)


def noise(n: int, offset: float = 0.0, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=(n, 12)) + offset).astype(np.float32)


def test_rows_are_rounded_where_it_costs_nothing() -> None:
    matrix_ND = noise(16)
    half_ND = stored(matrix_ND, "fp16")
    assert half_ND.dtype == np.float16
    assert np.array_equal(half_ND, matrix_ND.astype(np.float16))
    assert stored(matrix_ND, "fp32") is matrix_ND


@pytest.mark.parametrize(
    "matrix_ND", [noise(64, offset=1000), noise(64) * np.float32(1e5), noise(15)],
    ids=["a spread that is small beside the mean", "beyond the range of float16", "too few to tell"],
)  # fmt: skip
def test_rows_stay_float32_where_rounding_costs_something(
    matrix_ND: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("DEBUG", "histotune"):
        kept_ND = stored(matrix_ND, "fp16", "shard7")
    assert kept_ND is matrix_ND
    assert "shard shard7 stays in float32" in caplog.text


def test_storage_is_part_of_a_space_only_where_it_is_not_fp32() -> None:
    spaces = [embedding_space(colour_histogram(), ViewConfig(size_px=14), CPU, "fp32", None, one)
              for one in ("fp32", "fp16")]  # fmt: skip
    assert spaces[0] == embedding_space(colour_histogram(), ViewConfig(size_px=14), CPU, "fp32")
    assert spaces[0].key != spaces[1].key
    assert spaces[0].compatibility_key == spaces[1].compatibility_key
    assert [space.stores_fp16 for space in spaces] == [False, True]
    assert "storage" not in spaces[0].signature


def test_embeddings_take_half_the_room(tmp_path: Path, request_for: Requests) -> None:
    tiles = write_tiles(tmp_path / "tiles", 32)
    full, half = (embed(tiles, request_for(shard_tiles=16, storage=one)) for one in ("fp32", "fp16"))
    assert full.matrix_ND.dtype == np.float32 and half.matrix_ND.dtype == np.float16
    assert half.n_computed == 32  # a space of its own
    assert np.array_equal(half.matrix_ND, full.matrix_ND.astype(np.float16))
    assert half.notes == full.notes == ()
    store = Store(tmp_path / "cache", half.space)
    assert {manifest.dtype for manifest in store.manifests().values()} == {"float16"}
    again = embed(tiles, request_for(shard_tiles=16, storage="fp16"))
    assert again.n_computed == 0 and again.matrix_ND.tobytes() == half.matrix_ND.tobytes()
    assert request_space(request_for(storage="fp16")) == half.space
    assert space_facts(store).precision == "fp32, kept in fp16"
    rest = estimate(tiles, request_for(storage="fp16"))
    assert (rest.n_missing, rest.value_bytes) == (0, 2)


def test_one_shard_in_float32_makes_the_matrix_float32_and_says_so(tmp_path: Path, request_for: Requests) -> None:
    tiles = write_tiles(tmp_path / "tiles", 20)  # a shard of 16 and one of 4
    full, mixed = (embed(tiles, request_for(shard_tiles=16, storage=one)) for one in ("fp32", "fp16"))
    assert mixed.matrix_ND.dtype == np.float32
    exact_N = (mixed.matrix_ND == full.matrix_ND).all(axis=1)
    assert exact_N[-4:].all() and not exact_N[:16].all()
    assert mixed.n_kept_fp32 == 4
    (note,) = mixed.notes
    assert note.startswith("4 of 20 embeddings of colour-histogram are stored in float32")


def test_a_shard_that_fails_the_check_is_kept_whole(
    tmp_path: Path, request_for: Requests, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tiles = write_tiles(tmp_path / "tiles", 32)
    full = embed(tiles, request_for(shard_tiles=16))
    monkeypatch.setattr("histotune.embeddings.precision.MEDIAN_LIMIT", 1e-9)
    with caplog.at_level("DEBUG", "histotune"):
        kept = embed(tiles, request_for(shard_tiles=16, storage="fp16"))
    assert kept.matrix_ND.tobytes() == full.matrix_ND.tobytes()
    assert kept.n_kept_fp32 == 32
    assert caplog.text.count("stays in float32: storing fp16 refused: on 16 tiles") == 2
    plain = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(plain) == 2 and len(set(plain)) == 1, "one message, however many shards; a terminal says it once"
    assert "embeddings are stored in float32" in plain[0] and "--debug" in plain[0]


def test_a_large_matrix_is_mapped_in_float16(tmp_path: Path, request_for: Requests) -> None:
    tiles = write_tiles(tmp_path / "tiles", 32)
    half = embed(tiles, request_for(shard_tiles=16, storage="fp16"))
    store = Store(tmp_path / "cache", half.space)
    keys = [one for manifest in store.manifests().values() for one in manifest.content]
    in_memory = gather(store, store.manifests(), keys)
    mapped = gather(store, store.manifests(), keys, in_memory_bytes=0)
    assert in_memory is not None and mapped is not None
    assert isinstance(mapped.matrix_ND, np.memmap) and mapped.matrix_ND.dtype == np.float16
    assert np.array_equal(mapped.matrix_ND, in_memory.matrix_ND)
    again = gather(store, store.manifests(), keys, in_memory_bytes=0)
    assert again is not None and np.array_equal(again.matrix_ND, in_memory.matrix_ND)


def test_exports_are_float32_in_any_case(tmp_path: Path, request_for: Requests) -> None:
    half = embed(write_tiles(tmp_path / "tiles", 16), request_for(shard_tiles=16, storage="fp16"))
    export(space_table(Store(tmp_path / "cache", half.space)), tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz") as data:
        assert data["features"].dtype == np.float32


def test_neighbours_of_large_float16_rows() -> None:
    matrix_ND = noise(40) * np.float32(300)  # their squares are beyond float16
    groups_N = np.arange(40) % 5
    full, half = nearest(matrix_ND, groups_N), nearest(matrix_ND.astype(np.float16), groups_N)
    assert np.array_equal(full[1], half[1])
    assert np.allclose(full[2], half[2], atol=1e-3)
