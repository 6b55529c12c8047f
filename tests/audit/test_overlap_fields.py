"""Overlapping fields: alignment of pixels, and neighbours taken from the cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from histotune.audit import overlap as overlap_module
from histotune.audit.audit import AuditRequest, audit
from histotune.audit.overlap import cached_embeddings, nearest, overlap
from histotune.backbones.spec import ColumnBlock
from histotune.embeddings.space import EmbeddingSpace, with_key
from histotune.embeddings.store import RunFacts, ShardPlan, Store
from histotune.images.decode import PixelReader, tile_sources
from histotune.images.hashes import HashIndex
from tests.audit.made import hdf5_tiles, jpeg, stained, tissue


@pytest.mark.parametrize(("dx", "dy"), [(0, 0), (5, 0), (30, 12), (-20, 40), (48, -7)])
def test_windows_of_one_field_are_found_at_their_share(dx: int, dy: int) -> None:
    field = tissue(0, 220)
    left, right = field[60:156, 60:156], field[60 + dy : 156 + dy, 60 + dx : 156 + dx]
    found = overlap(left, jpeg(stained(right, 1.3), 70))
    assert found.is_shared
    assert found.share == pytest.approx((96 - abs(dx)) * (96 - abs(dy)) / 96**2, abs=0.05)


def test_large_tiles_are_reduced_first() -> None:
    field = tissue(1, 800).repeat(2, axis=0).repeat(2, axis=1)[:1000]
    assert overlap(field[:460, :700], field[100:560, 250:950]).is_shared


def test_strangers_and_flat_tiles_share_nothing() -> None:
    assert max(overlap(tissue(seed), tissue(seed + 100)).correlation for seed in range(25)) < 0.5
    assert not overlap(np.full((96, 96, 3), 200, np.uint8), tissue(0)).is_shared
    assert not overlap(np.full((96, 96, 3), 200, np.uint8), np.full((96, 96, 3), 200, np.uint8)).is_shared


def test_neighbours_equal_those_of_the_whole_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    matrix, groups = rng.normal(size=(53, 8)).astype(np.float32), rng.integers(0, 6, 53)
    unit = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -np.inf)
    apart = np.where(groups[:, None] == groups, -np.inf, cosine)
    monkeypatch.setattr(overlap_module, "BLOCK_ROWS", 10)
    monkeypatch.setattr(overlap_module, "BLOCK_COLUMNS", 7)
    i, j, values = nearest(matrix, groups)
    np.testing.assert_array_equal(j, [*cosine.argmax(axis=1), *apart.argmax(axis=1)])
    np.testing.assert_allclose(values, [*cosine.max(axis=1), *apart.max(axis=1)], rtol=1e-5)
    assert i.tolist() == [*range(53), *range(53)]


def test_without_another_group_there_is_no_neighbour_there() -> None:
    i, _, _ = nearest(np.eye(4, dtype=np.float32), np.zeros(4, np.int64))
    assert i.tolist() == [0, 1, 2, 3]


def put_into_cache(cache: Path, tiles: object, matrix: np.ndarray, backbone: str) -> None:
    """Write embeddings as an earlier run would have."""
    space = with_key(EmbeddingSpace("", backbone, backbone, "", "{}", "fp32", "{}", "{}"))
    with PixelReader() as reader:
        content = HashIndex(None).tiles(tile_sources(tiles), reader)  # type: ignore[arg-type]
    blocks = (ColumnBlock("cls", 0, matrix.shape[1]),)
    store = Store(cache, space)
    store.write_shard(ShardPlan(content, 4), matrix, RunFacts(blocks, (len(content),), 0, 1))
    store.describe(blocks)


def test_cached_neighbours_that_share_tissue_across_sides_are_an_error(tmp_path: Path) -> None:
    field = tissue(3, 200)
    pixels = [tissue(10), field[:96, :96], tissue(11), field[20:116, 40:136], tissue(12), tissue(13)]
    tiles = hdf5_tiles(tmp_path / "data", pixels, split=["train", "train", "train", "test", "test", "test"])
    matrix = np.random.default_rng(0).normal(size=(6, 16)).astype(np.float32)
    matrix[3] = matrix[1] + 0.1 * matrix[3]
    matrix[4] = matrix[0] + 0.1 * matrix[4]  # alike to the network, other tissue
    put_into_cache(tmp_path / "cache", tiles, matrix, "some-network")
    found = audit(AuditRequest(tiles, cache=tmp_path / "cache")).finding("overlapping-fields")
    assert found.verdict == "error"
    assert [cluster.tile_ids for cluster in found.clusters] == [("t001", "t003")]
    assert "neighbours by some-network" in found.sentence


def test_histograms_random_networks_and_other_tiles_are_no_neighbours(tmp_path: Path) -> None:
    tiles, others = (
        hdf5_tiles(tmp_path / name, [tissue(seed + k) for k in range(3)]) for name, seed in (("a", 0), ("b", 9))
    )
    read, matrix = np.ones(3, bool), np.eye(3, dtype=np.float32)
    put_into_cache(tmp_path / "cache", tiles, matrix, "colour-histogram")
    put_into_cache(tmp_path / "cache", others, matrix, "network")
    assert cached_embeddings(tiles, read, tmp_path / "cache") is None
    assert cached_embeddings(others, read, tmp_path / "cache") is not None
    finding = audit(AuditRequest(tiles, cache=tmp_path / "cache")).finding("overlapping-fields")
    assert (finding.verdict, "Not checked, because" in finding.sentence) == ("not checked", True)


def test_half_of_the_tiles_in_the_cache_are_used_and_damaged_descriptions_passed_over(tmp_path: Path) -> None:
    tiles = hdf5_tiles(tmp_path / "data", [tissue(seed) for seed in range(4)])
    put_into_cache(tmp_path / "cache", tiles.take(np.array([0, 2])), np.eye(2, dtype=np.float32), "network")
    broken = tmp_path / "cache" / "embeddings" / "aaa" / "space.json"
    broken.parent.mkdir()
    broken.write_text("{", encoding="utf-8")
    found = cached_embeddings(tiles, np.ones(4, bool), tmp_path / "cache")
    assert found is not None
    assert found.rows.tolist() == [0, 2]
