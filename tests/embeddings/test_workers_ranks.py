"""Several processes share the shards of one space, and say so when one of them is missing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from histotune.backbones.catalog import find_backbone
from histotune.backbones.entries import BackboneConfig
from histotune.embeddings.embed import embed
from histotune.embeddings.space import Embeddings, EmbedRequest
from histotune.embeddings.store import Store
from histotune.images.decode import UnreadableTilesError
from histotune.tools import ranks
from histotune.tools.errors import UserError
from histotune.tools.files import lock
from histotune.tools.ranks import ProcessRank, process_rank, see_own_gpu
from tests.embeddings.conftest import tile_set, write_tiles

Requests = Callable[..., EmbedRequest]
FIRST, SECOND = ProcessRank(0, 2, 0), ProcessRank(1, 2, 1)


def both(tiles: object, request: EmbedRequest, second: EmbedRequest | None = None) -> tuple[Future[Embeddings], ...]:
    """Embed as two ranks; threads hold locks against one another just as processes do."""
    with ThreadPoolExecutor(2) as pool:
        requests = (replace(request, rank=FIRST), replace(second or request, rank=SECOND))
        return tuple(pool.submit(embed, tiles, one) for one in requests)  # type: ignore[arg-type]


def shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "shards").iterdir())}


def space_folder(cache: Path) -> Path:
    (folder,) = (cache / "embeddings").iterdir()
    return folder


def rank_of(**known: str) -> ProcessRank:
    return process_rank(known)


def test_what_torchrun_sets_is_read() -> None:
    assert rank_of() == rank_of(RANK="3") == rank_of(WORLD_SIZE="1", RANK="0") == ProcessRank(0, 1, 0)
    assert rank_of(WORLD_SIZE="4", RANK="3", LOCAL_RANK="1") == ProcessRank(3, 4, 1)
    assert [rank_of(WORLD_SIZE="2", RANK=one).leads for one in "01"] == [True, False]
    shares = [ProcessRank(rank, 3).share(range(10)) for rank in range(3)]
    assert sorted(item for share in shares for item in share) == list(range(10))


@pytest.mark.parametrize(
    "known", [{"WORLD_SIZE": "x"}, {"WORLD_SIZE": "0"}, {"WORLD_SIZE": "2"}, {"WORLD_SIZE": "2", "RANK": "2"},
              {"WORLD_SIZE": "2", "RANK": "-1"}, {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "a"}],
)  # fmt: skip
def test_numbers_that_name_no_process_are_refused(known: dict[str, str]) -> None:
    with pytest.raises(UserError, match="torchrun"):
        process_rank(known)


@pytest.mark.parametrize(
    ("given", "n_gpus", "local_rank", "seen"),
    [(None, 4, 2, "2"), ("5,GPU-abc", 8, 1, "GPU-abc"), ("3", 8, 1, "3"), ("", 8, 1, ""), (None, 1, 1, None),
     (None, 0, 1, None)],
)  # fmt: skip
def test_every_process_sees_its_own_gpu(
    given: str | None, n_gpus: int, local_rank: int, seen: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranks, "_n_gpus", lambda: n_gpus)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given or "")
    if given is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    see_own_gpu(ProcessRank(0, 1, 0))
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == given  # alone: as it was
    see_own_gpu(ProcessRank(local_rank, 8, local_rank))
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == seen


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(UserError, match="nproc-per-node=2"):
        see_own_gpu(ProcessRank(2, 3, 2))


def test_two_ranks_write_what_one_process_writes(tmp_path: Path, request_for: Requests) -> None:
    tiles = write_tiles(tmp_path / "tiles", 19)
    whole = embed(tiles, request_for(cache=tmp_path / "alone"))
    first, second = (future.result() for future in both(tiles, request_for()))
    assert first.matrix_ND.tobytes() == second.matrix_ND.tobytes() == whole.matrix_ND.tobytes()
    assert first.tile_ids == second.tile_ids == whole.tile_ids
    assert (first.n_computed, second.n_computed) == (19, 8)  # of five shards the second has two
    folder = space_folder(tmp_path / "cache")
    assert shards(folder) == shards(space_folder(tmp_path / "alone"))
    assert not (folder / "pending.json").exists()
    assert not list((folder / "ranks").glob("*.json"))
    assert [future.result().n_computed for future in both(tiles, request_for())] == [0, 0]


def test_more_ranks_than_shards(tmp_path: Path, request_for: Requests) -> None:
    tiles = write_tiles(tmp_path / "tiles", 3)
    first, second = (future.result() for future in both(tiles, request_for()))
    assert (first.n_computed, second.n_computed) == (3, 0)
    assert first.matrix_ND.tobytes() == second.matrix_ND.tobytes()


def test_a_rank_that_never_comes_is_named_and_one_process_goes_on(tmp_path: Path, request_for: Requests) -> None:
    tiles = write_tiles(tmp_path / "tiles", 19)
    whole = embed(tiles, request_for(cache=tmp_path / "alone"))
    with pytest.raises(UserError, match=r"rank 1 of 2 gave no sign of life .* 2 of 5 planned shards"):
        embed(tiles, replace(request_for(wait_s=0.3), rank=FIRST))
    resumed = embed(tiles, request_for(batch_size=3))  # the plan's batches win
    assert resumed.n_computed == 8
    assert resumed.matrix_ND.tobytes() == whole.matrix_ND.tobytes()
    assert shards(space_folder(tmp_path / "cache")) == shards(space_folder(tmp_path / "alone"))


def test_a_rank_without_a_leader_says_so(tmp_path: Path, request_for: Requests) -> None:
    tiles = write_tiles(tmp_path / "tiles", 5)
    with pytest.raises(UserError, match="rank 1 of 2 has waited 0 s for rank 0"):
        embed(tiles, replace(request_for(wait_s=0.3), rank=SECOND))
    assert embed(tiles, request_for()).n_computed == 5


def test_a_rank_waits_while_somebody_else_writes(tmp_path: Path, request_for: Requests) -> None:
    tiles = write_tiles(tmp_path / "tiles", 9)
    store = Store(tmp_path / "cache", embed(tiles, request_for(cache=tmp_path / "alone")).space)
    with ThreadPoolExecutor(1) as pool:
        with lock(store.lock_path):
            waiting = pool.submit(embed, tiles, replace(request_for(wait_s=0.5), rank=SECOND))
            time.sleep(1.2)
            assert not waiting.done()
        embed(tiles, request_for())
        assert waiting.result().n_computed == 0


def test_what_a_killed_leader_has_announced_misleads_nobody(tmp_path: Path, request_for: Requests) -> None:
    tiles = write_tiles(tmp_path / "tiles", 19)
    with pytest.raises(UserError, match="no sign of life"):
        embed(tiles, replace(request_for(wait_s=0.3), rank=FIRST))
    place = space_folder(tmp_path / "cache") / "ranks"
    stale = {"token": "0" * 16, "world_size": 2, "tiles": "", "unreadable": {}, "shards": ["x"]}
    (place / "plan.json").write_text(json.dumps(stale), encoding="utf-8")
    (place / f"{'0' * 16}-1.json").write_text(
        json.dumps({"what": "stopped", "tiles": [], "complete": True}), encoding="utf-8"
    )
    first, second = (future.result() for future in both(tiles, request_for()))
    assert first.n_computed == 8 and first.matrix_ND.tobytes() == second.matrix_ND.tobytes()
    assert not list(place.glob("*.json"))


def test_nothing_is_swept_up_under_a_rank_that_outlives_its_leader(tmp_path: Path, request_for: Requests) -> None:
    tiles = write_tiles(tmp_path / "tiles", 5)
    store = Store(tmp_path / "cache", embed(tiles, request_for()).space)
    partial = store.folder / "shards" / f".{'0' * 24}.npy.abcd1234.partial"
    partial.write_bytes(b"half of it")
    with lock(store.folder / "ranks" / "token-1.lock"):
        assert store.sweep_up() == ()
        assert embed(write_tiles(tmp_path / "more", 5, seed=1), request_for()).n_computed == 5
        assert (store.folder / "ranks" / "token-1.lock").exists()
    assert store.sweep_up() == (partial,)


@pytest.mark.parametrize("bad", [["0-005.png"], ["0-001.png", "0-006.png", "0-014.png"]])
def test_tiles_that_one_rank_can_not_read_are_left_out_by_all(
    bad: list[str], tmp_path: Path, request_for: Requests
) -> None:
    tiles = write_tiles(tmp_path / "tiles", 19)
    for name in bad:
        (tmp_path / "tiles" / name).write_bytes(b"broken " + name.encode())
    skip = replace(request_for(), on_bad_image="skip")
    whole = embed(tiles, replace(skip, cache=tmp_path / "alone"))
    first, second = (future.result() for future in both(tiles, skip))
    assert set(first.unreadable) == set(second.unreadable) == set(whole.unreadable) == set(bad)
    assert first.matrix_ND.tobytes() == second.matrix_ND.tobytes() == whole.matrix_ND.tobytes()
    assert first.unreadable == whole.unreadable


def test_a_tile_that_the_second_rank_can_not_read_stops_both(tmp_path: Path, request_for: Requests) -> None:
    tiles = write_tiles(tmp_path / "tiles", 19)
    (tmp_path / "tiles" / "0-005.png").write_bytes(b"broken")
    first, second = both(tiles, request_for(wait_s=1))
    with pytest.raises(UnreadableTilesError) as told:
        first.result()
    with pytest.raises(UnreadableTilesError) as found:
        second.result()
    with pytest.raises(UnreadableTilesError) as alone:
        embed(tiles, request_for(cache=tmp_path / "alone"))
    assert "0-005.png" in str(told.value)
    assert str(told.value) == str(found.value) == str(alone.value)


def test_ranks_with_different_tiles_do_not_mix(tmp_path: Path, request_for: Requests) -> None:
    tiles, other = write_tiles(tmp_path / "tiles", 9), write_tiles(tmp_path / "other", 9, seed=1)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(embed, tiles, replace(request_for(wait_s=0.5), rank=FIRST))
        second = pool.submit(embed, other, replace(request_for(wait_s=0.5), rank=SECOND))
    for future in (first, second):
        with pytest.raises(UserError, match=r"no sign of life|has waited"):
            future.result()


SCRIPT = """
import json, sys
from pathlib import Path
from histotune.backbones import engine
from histotune.backbones.catalog import find_backbone
from histotune.backbones.entries import BackboneConfig
from histotune.tools.devices import ComputeDevice
import histotune.embeddings.embed as embed_module
from histotune.embeddings.space import EmbeddingConfig
from histotune.embeddings.embed import embed
from histotune.embeddings.space import EmbedRequest
from histotune.tools.ranks import process_rank
from histotune.tools.files import hash_bytes
from histotune.images.config import LoaderConfig, ViewConfig
from tests.embeddings.conftest import tile_set

original, loaded = engine.load_backbone, []

def counting(spec, device, precision, index=None):
    loaded.append(precision)
    return original(spec, device, precision, index)

engine.load_backbone = counting
embed_module.find_device = lambda _: ComputeDevice("cpu", "one", "", float("nan"), fast_bf16=True)
name, size_px, folder, cache, wait_s, precision = sys.argv[1:]
size_px, folder, cache = int(size_px), Path(folder), Path(cache)
config = EmbeddingConfig(
    device="cpu", precision=precision, batch_size=2, shard_tiles=4, threads=1, wait_s=float(wait_s)
)
spec = find_backbone(BackboneConfig(name=name), cache)
request = EmbedRequest(spec, ViewConfig(size_px=size_px), config, LoaderConfig(workers=1), cache, rank=process_rank())
result = embed(tile_set(sorted(folder.glob("*.png"))), request)
print(json.dumps({"n_computed": result.n_computed, "sha256": hash_bytes(result.matrix_ND.tobytes()), "loaded": loaded,
                  "reason": result.precision_reason, "space": result.space.key}))
"""


def start(
    rank: ProcessRank, name: str, size_px: int, folder: Path, cache: Path, wait_s: float, *, precision: str = "fp32"
) -> subprocess.Popen[str]:
    """Embed a folder of tiles in another process, as one of several."""
    known = {"RANK": str(rank.rank), "WORLD_SIZE": str(rank.world_size), "LOCAL_RANK": str(rank.local_rank)}
    command = [sys.executable, "-c", SCRIPT, *map(str, (name, size_px, folder, cache, wait_s, precision))]
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join([root, *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            env={**os.environ, **known, "PYTHONPATH": path})  # fmt: skip


def test_a_rank_is_killed_and_a_single_process_goes_on(tmp_path: Path, request_for: Requests) -> None:
    tiles = write_tiles(tmp_path / "tiles", 41)
    request = request_for(size_px=448)
    whole = embed(tiles, replace(request, cache=tmp_path / "alone"))
    place = ("colour-histogram", 448, tmp_path / "tiles", tmp_path / "cache", 2)
    runs = [start(rank, *place) for rank in (FIRST, SECOND)]
    store = Store(tmp_path / "cache", whole.space)
    deadline = time.monotonic() + 60
    while not list((store.folder / "ranks").glob("*-1.lock")) and time.monotonic() < deadline:
        time.sleep(0.005)
    runs[1].kill()
    runs[1].communicate()
    _, err = runs[0].communicate(timeout=60)
    assert runs[0].returncode == 1 and "rank 1 of 2 gave no sign of life for 2 s" in err
    n_done = sum(len(manifest.content) for manifest in store.manifests().values())
    assert 21 <= n_done < 41
    resumed = embed(tiles, request)
    assert resumed.n_computed == 41 - n_done
    assert resumed.matrix_ND.tobytes() == whole.matrix_ND.tobytes()
    assert shards(store.folder) == shards(space_folder(tmp_path / "alone"))


@pytest.mark.slow
def test_two_processes_with_a_network_give_the_bytes_of_one(tmp_path: Path, request_for: Requests) -> None:
    write_tiles(tmp_path / "tiles", 14)
    spec = find_backbone(BackboneConfig(name="random/timm/resnet10t"))
    tiles = tile_set(sorted((tmp_path / "tiles").glob("*.png")))
    whole = embed(tiles, request_for(spec, tmp_path / "alone", 64))
    place = (spec.name, 64, tmp_path / "tiles", tmp_path / "cache", 60)
    runs = [start(rank, *place) for rank in (FIRST, SECOND)]
    answers = [run.communicate(timeout=120) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], answers
    first, second = (json.loads(out) for out, _ in answers)
    assert first["sha256"] == second["sha256"]
    assert (first["n_computed"], second["n_computed"]) == (14, 6)
    assert embed(tiles, request_for(spec, tmp_path / "cache", 64)).matrix_ND.tobytes() == whole.matrix_ND.tobytes()


@pytest.mark.slow
def test_ranks_killed_at_random_moments_change_no_bit(tmp_path: Path, request_for: Requests) -> None:
    tiles, request = write_tiles(tmp_path / "tiles", 61), request_for(size_px=448)
    whole = embed(tiles, replace(request, cache=tmp_path / "alone"))
    place = ("colour-histogram", 448, tmp_path / "tiles", tmp_path / "cache", 1)
    store, rng, n_hit = Store(tmp_path / "cache", whole.space), np.random.default_rng(0), 0
    for _ in range(12):
        runs = [start(rank, *place) for rank in (FIRST, SECOND)]
        victim = runs[rng.integers(2)]  # the leader half of the time
        time.sleep(rng.uniform(0.5, 2.0))
        n_hit += victim.poll() is None
        victim.kill()
        for run in runs:
            _, err = run.communicate(timeout=60)
            assert run.returncode <= 0 or "no sign of life" in err or "has waited" in err, err
        if embed(tiles, request).matrix_ND.tobytes() != whole.matrix_ND.tobytes():
            pytest.fail("other bytes")
        assert store.verify() == ()
        assert shards(store.folder) == shards(space_folder(tmp_path / "alone"))
        shutil.rmtree(tmp_path / "cache")
    assert n_hit >= 6


@pytest.mark.slow
def test_precision_is_checked_by_one_rank(tmp_path: Path) -> None:
    write_tiles(tmp_path / "tiles", 20)
    place = ("random/timm/resnet10t", 32, tmp_path / "tiles", tmp_path / "cache", 60)
    runs = [start(rank, *place, precision="auto") for rank in (FIRST, SECOND)]
    answers = [run.communicate(timeout=120) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], answers
    first, second = (json.loads(out) for out, _ in answers)
    assert len(first["loaded"] + second["loaded"]) == 4  # bf16 and fp32 for the check, then one each
    assert first["reason"] == second["reason"]
    assert first["space"] == second["space"]
    assert first["sha256"] == second["sha256"]
