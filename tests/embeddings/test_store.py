"""The store's own promises: damage is found whatever it hits, and what can't be written is said."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from histotune.backbones.catalog import find_backbone
from histotune.backbones.entries import BackboneConfig
from histotune.backbones.spec import Backbone, ColumnBlock
from histotune.embeddings import embed as embed_module
from histotune.embeddings import gather
from histotune.embeddings import gather as gather_module
from histotune.embeddings.embed import embed
from histotune.embeddings.space import EmbeddingSpace, EmbedRequest, with_key
from histotune.embeddings.store import Manifest, RunFacts, ShardPlan, Store, read_manifest, write_manifest
from histotune.tools.errors import UserError
from tests.embeddings.conftest import write_tiles

Requests = Callable[..., EmbedRequest]
BLOCKS = (ColumnBlock("pooled", 0, 3),)
NOBODY = 65534


def space(**changes: str) -> EmbeddingSpace:
    return with_key(replace(EmbeddingSpace("", "x", "w", "", "{}", "fp32", "{}", "{}"), **changes))


def write(store: Store, names: str, matrix_ND: np.ndarray, run_sizes: tuple[int, ...] | None = None) -> ShardPlan:
    plan = ShardPlan(tuple(names), 2)
    store.write_shard(plan, matrix_ND, RunFacts(BLOCKS, run_sizes or plan.batch_sizes, 0, 1))
    return plan


def test_no_flipped_byte_of_a_manifest_is_believed(tmp_path: Path) -> None:
    manifest = Manifest(("a" * 64, "b" * 64), (2,), BLOCKS, 10, "c" * 64, 0, 1, space="d" * 64)
    path = tmp_path / "m.json"
    write_manifest(path, manifest)
    data = path.read_bytes()
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 1 << place % 7
        path.write_bytes(bytes(changed))
        assert read_manifest(path) in (None, manifest), place


def test_manifests_of_early_versions_are_read(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    path.write_text(
        '{"content": ["a"], "batch_sizes": [1], "blocks": [{"name": "pooled", "start": 0, "stop": 3}], "n_bytes": 1, '
        '"sha256": "s", "fp32_batches": 0, "threads": 1}',
        encoding="utf-8",
    )
    manifest = read_manifest(path)
    assert manifest is not None and (manifest.dtype, manifest.equivalent, manifest.space) == ("float32", False, "")


def test_both_storage_types_are_named_and_read(tmp_path: Path) -> None:
    store = Store(tmp_path, space())
    rng = np.random.default_rng(0)
    half_ND, full_ND = rng.random((3, 3)).astype(np.float16), rng.random((2, 3)).astype(np.float32)
    first, second = write(store, "abc", half_ND), write(store, "de", full_ND)
    manifests = store.manifests()
    assert (manifests[first.name].dtype, manifests[second.name].dtype) == ("float16", "float32")
    gathered = gather.gather(store, manifests, ("e", "a", "c"))
    assert gathered is not None and gathered.matrix_ND.dtype == np.float32
    assert np.array_equal(gathered.matrix_ND, np.stack([full_ND[1], half_ND[0], half_ND[2]]).astype(np.float32))


def test_rows_in_smaller_batches_than_planned_are_counted(tmp_path: Path) -> None:
    store = Store(tmp_path, space())
    as_planned, halved = write(store, "abc", np.ones((3, 3))), write(store, "de", np.ones((2, 3)), (1, 1))
    manifests = store.manifests()
    assert (manifests[as_planned.name].equivalent, manifests[halved.name].equivalent) == (False, True)
    assert gather.gather(store, manifests, ("a", "d", "e")).n_equivalent == 2  # type: ignore[union-attr]


def test_a_shard_of_another_space_is_not_believed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ours, theirs = Store(tmp_path, space()), Store(tmp_path, space(weights_hash="other"))
    plan = write(theirs, "ab", np.zeros((2, 3)))
    shutil.copytree(theirs.folder / "shards", ours.folder / "shards")
    assert [damage.reason for damage in ours.verify()] == ["it was written for another space"]
    assert ours.manifests() == {}
    assert "another space" in caplog.text and f"histotune cache verify {ours.short_name}" in caplog.text
    assert list(theirs.manifests()) == [plan.name]


def test_a_matrix_that_is_not_what_its_manifest_says(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = Store(tmp_path, space())
    plan = write(store, "ab", np.zeros((2, 3)))
    manifest = replace(store.manifests()[plan.name], dtype="float16")
    assert store.read_shard(plan.name, manifest) is None
    assert "its manifest says otherwise" in caplog.text


def test_a_shard_that_another_process_removes_is_computed_again(
    tmp_path: Path, request_for: Requests, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiles, request = write_tiles(tmp_path / "tiles", 9), request_for()
    cold = embed(tiles, request)
    real, calls = embed_module.gather, []

    def late(store: Store, *rest: object) -> object:
        if not calls:
            shutil.rmtree(store.folder)
        calls.append(1)
        return real(store, *rest)

    monkeypatch.setattr(embed_module, "gather", late)
    again = embed(tiles, request)
    assert (again.n_computed, again.matrix_ND.tobytes()) == (9, cold.matrix_ND.tobytes())


def test_a_flipped_byte_of_a_gathered_matrix_is_found(
    tmp_path: Path, request_for: Requests, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(embed_module, "gather", lambda *given: gather.gather(*given, in_memory_bytes=100))
    monkeypatch.setattr(gather_module, "BLOCK_BYTES", 1000)
    tiles, request = write_tiles(tmp_path / "tiles", 11), request_for()
    cold = embed(tiles, request).matrix_ND.tobytes()
    (file,) = request.cache.glob("embeddings/*/gathered/*.npy")
    data = bytearray(file.read_bytes())
    data[-5] ^= 4
    file.write_bytes(bytes(data))
    assert embed(tiles, request).matrix_ND.tobytes() == cold
    assert "gathered matrix is damaged" in caplog.text
    caplog.clear()
    assert embed(tiles, request).matrix_ND.tobytes() == cold
    assert "damaged" not in caplog.text


@pytest.mark.parametrize("has_fallocate", [True, False])
def test_no_room_for_a_gathered_matrix_reads_into_memory(
    tmp_path: Path, request_for: Requests, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    has_fallocate: bool,
) -> None:  # fmt: skip
    tiles, request = write_tiles(tmp_path / "tiles", 11), request_for()
    small = embed(tiles, request).matrix_ND.tobytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if has_fallocate:
        monkeypatch.setattr(os, "posix_fallocate", full)
    else:
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 0))  # type: ignore[attr-defined]
    monkeypatch.setattr(embed_module, "gather", lambda *given: gather.gather(*given, in_memory_bytes=100))
    result = embed(tiles, request)
    assert not isinstance(result.matrix_ND, np.memmap) and result.matrix_ND.tobytes() == small
    assert "disk is full" in caplog.text
    assert not list(request.cache.glob("embeddings/*/gathered/*"))


def test_a_disk_that_fills_at_a_manifest_loses_nothing_finished(
    tmp_path: Path, request_for: Requests, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiles, request = write_tiles(tmp_path / "tiles", 11), request_for()
    whole = embed(tiles, replace(request, cache=tmp_path / "whole"))
    written: list[Path] = []

    def filling(path: Path, manifest: Manifest) -> None:
        if len(written) == 2:
            raise UserError("the disk is full; nothing was left half-written", value=path)
        written.append(path)
        write_manifest(path, manifest)

    monkeypatch.setattr("histotune.embeddings.store.write_manifest", filling)
    with pytest.raises(UserError, match="disk is full"):
        embed(tiles, request)
    monkeypatch.undo()
    resumed = embed(tiles, request)
    assert resumed.n_computed == 3
    assert resumed.matrix_ND.tobytes() == whole.matrix_ND.tobytes()


@contextmanager
def not_root() -> Iterator[None]:
    """Give up root's right to write everywhere for the block, where the tests run as root."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@dataclass(frozen=True)
class Lockable:
    """A request whose cache stands where everybody may look, and what takes away all write permissions there."""

    request: EmbedRequest
    home: Path

    def lock_up(self) -> None:
        for path in sorted((self.home / "cache").rglob("*")):  # not the tiles: a changed mode is a changed file
            path.chmod(0o555 if path.is_dir() else 0o444)
        (self.home / "cache").chmod(0o555)
        self.home.chmod(0o555)


@pytest.fixture
def lockable(request_for: Requests) -> Iterator[Lockable]:
    """Return a cache of its own; permissions are given back at the end."""
    if os.name == "nt":
        pytest.skip("folders have no such permissions on Windows")
    home = Path(tempfile.mkdtemp(prefix="histotune-read-only-"))
    home.chmod(0o755)
    yield Lockable(request_for(cache=home / "cache"), home)
    for path in (home, *home.rglob("*")):
        path.chmod(0o755)
    shutil.rmtree(home)


def test_a_read_only_cache_that_holds_everything_is_read(
    lockable: Lockable, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING", logger="histotune")
    request = lockable.request
    tiles = write_tiles(lockable.home / "tiles", 9)
    for path in (lockable.home / "tiles").iterdir():
        os.utime(path, (1e9, 1e9))  # settled, so that content hashes are remembered
    cold = embed(tiles, request)
    lockable.lock_up()
    with not_root():
        warm = embed(tiles, request)
        assert (warm.n_computed, warm.matrix_ND.tobytes()) == (0, cold.matrix_ND.tobytes())
        assert caplog.text == ""
        monkeypatch.setattr(embed_module, "gather", lambda *given: gather.gather(*given, in_memory_bytes=100))
        large = embed(tiles, request)
        assert large.matrix_ND.tobytes() == cold.matrix_ND.tobytes()
    assert "read into memory" in caplog.text


def test_a_read_only_cache_says_what_it_cannot_do(lockable: Lockable) -> None:
    request = lockable.request
    tiles = write_tiles(lockable.home / "tiles", 9)
    embed(tiles, request)
    more = write_tiles(lockable.home / "more", 2, seed=1)
    victim = next(request.cache.glob("embeddings/*/shards/*.npy"))
    victim.write_bytes(victim.read_bytes()[:-1] + b"x")
    lockable.lock_up()
    with not_root():
        with pytest.raises(UserError, match=r"(?s)can't be written.*--cache"):
            embed(more, request)
        with pytest.raises(UserError, match=r"(?s)shard is damaged.*histotune cache repair \w{12}"):
            embed(tiles, request)
    assert victim.is_file()


def test_after_running_out_of_memory_rows_are_equivalent_and_say_so(
    tmp_path: Path, request_for: Requests, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from histotune.backbones import engine

    spec = find_backbone(BackboneConfig(name="random/timm/resnet10t"))
    tiles = write_tiles(tmp_path / "tiles", 11)
    whole = embed(tiles, request_for(spec, tmp_path / "whole", 56, batch_size=4))
    assert (whole.n_equivalent, whole.notes) == (0, ())
    real = engine.load_backbone

    def small(*given: object) -> Backbone:
        backbone = real(*given)  # type: ignore[arg-type]

        def embed_few(pixels_BSSC: np.ndarray) -> np.ndarray:
            if len(pixels_BSSC) > 3:
                raise torch.OutOfMemoryError("full")
            return backbone.embed(pixels_BSSC)

        return replace(backbone, embed=embed_few)

    monkeypatch.setattr(engine, "load_backbone", small)
    halved = embed(tiles, request_for(spec, tmp_path / "halved", 56, batch_size=4))
    difference_N = np.linalg.norm(halved.matrix_ND - whole.matrix_ND, axis=1)
    assert (difference_N <= 1e-5 * np.linalg.norm(whole.matrix_ND, axis=1)).all()
    manifests = Store(tmp_path / "halved", halved.space).manifests().values()
    assert sorted((manifest.batch_sizes, manifest.equivalent) for manifest in manifests) == [
        ((2, 1), True), ((2, 2), True), ((2, 2), True),
    ]  # fmt: skip
    assert halved.n_equivalent == 11
    assert "11 of 11 tiles" in halved.notes[0] and "not equal to the last bit" in halved.notes[0]
    assert embed(tiles, request_for(spec, tmp_path / "halved", 56)).n_equivalent == 11  # warm runs say so too
