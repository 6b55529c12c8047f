"""What only separate processes show: a killed run, two at once, and what a warm run imports."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from histotune.backbones.catalog import find_backbone
from histotune.backbones.entries import BackboneConfig
from histotune.embeddings.embed import embed
from histotune.embeddings.space import EmbedRequest
from histotune.embeddings.store import Store
from histotune.tools.files import is_locked, lock
from tests.embeddings.conftest import tile_set, write_tiles

SCRIPT = """
import json, sys
from pathlib import Path
from histotune.backbones.catalog import find_backbone
from histotune.backbones.entries import BackboneConfig
from histotune.datasets.tileset import TileSet, tile_table
from histotune.embeddings.space import EmbeddingConfig
from histotune.embeddings.embed import embed
from histotune.embeddings.space import EmbedRequest
from histotune.tools.files import hash_bytes
from histotune.images.config import LoaderConfig, ViewConfig

name, size_px, folder, cache = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4])
batch_size, shard_tiles = int(sys.argv[5]), int(sys.argv[6])
paths = sorted(folder.glob("*.png"))
table = tile_table({"tile_id": [path.name for path in paths], "path": [str(path) for path in paths]})
config = EmbeddingConfig(device="cpu", precision="fp32", batch_size=batch_size, shard_tiles=shard_tiles, threads=1)
spec = find_backbone(BackboneConfig(name=name), cache)
request = EmbedRequest(spec, ViewConfig(size_px=size_px), config, LoaderConfig(workers=1), cache)
result = embed(TileSet("noise", table, ("a", "b"), "", ""), request)
heavy = ("torch", "timm", "transformers", "peft", "torchvision", "sklearn", "pandas", "scipy")
print(json.dumps({
    "n_computed": result.n_computed,
    "sha256": hash_bytes(result.matrix_ND.tobytes()),
    "heavy": [module for module in heavy if module in sys.modules],
}))
"""


def start(
    name: str, size_px: int, folder: Path, cache: Path, batch_size: int = 2, shard_tiles: int = 4
) -> subprocess.Popen[str]:
    """Embed a folder of tiles in another process."""
    settings = [name, size_px, folder, cache, batch_size, shard_tiles]
    command = [sys.executable, "-c", SCRIPT, *map(str, settings)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(run: subprocess.Popen[str]) -> dict[str, object]:
    out, err = run.communicate(timeout=120)
    assert run.returncode == 0, err
    return dict(json.loads(out))


def space_folder(cache: Path) -> Path | None:
    return next(iter((cache / "embeddings").glob("*")), None)


def wait_for_plan(process: subprocess.Popen[str], cache: Path) -> None:
    """Return when a run holds its space and has planned its shards, or is done."""
    deadline = time.monotonic() + 100
    while process.poll() is None and time.monotonic() < deadline:
        plans = list((cache / "embeddings").glob("*/pending.json"))
        if plans and is_locked(plans[0].with_name("lock")):
            return
        time.sleep(0.002)


def kill_and_resume(run: Callable[[Path], subprocess.Popen[str]], cache: Path, n_kills: int, seed: int) -> int:
    """Kill runs at random moments between their plan and their end, resume, and compare with a run left in peace.

    A run that was done before its moment counts as a kill too, and the next one starts on an empty cache.

    Returns:
        How many kills hit a running one.
    """
    rng = np.random.default_rng(seed)
    process = run(cache)
    wait_for_plan(process, cache)
    began = time.monotonic()
    whole = finish(process)
    usual_s = time.monotonic() - began
    (folder,) = (cache / "embeddings").iterdir()
    shutil.rmtree(cache)
    n_hit = 0
    for _ in range(n_kills):
        process = run(cache)
        wait_for_plan(process, cache)
        time.sleep(rng.uniform(0, 0.9) * usual_s)
        n_hit += process.poll() is None
        process.kill()
        process.communicate()
        with lock(folder / "lock", timeout_s=5):  # the system freed it with the process
            done = not Store.at(folder).read_plan()
        if done:
            assert finish(run(cache))["sha256"] == whole["sha256"]
            shutil.rmtree(cache)
    assert finish(run(cache))["sha256"] == whole["sha256"]
    assert Store.at(folder).verify() == ()
    assert not (folder / "damaged").exists()
    return n_hit


@pytest.mark.slow
def test_three_kills_at_random_moments_change_no_bit(tmp_path: Path) -> None:
    write_tiles(tmp_path / "tiles", 61)  # 7 shards of 8 and one of 5: four tiles and a ragged last batch of one

    def run(cache: Path) -> subprocess.Popen[str]:
        return start("colour-histogram", 448, tmp_path / "tiles", cache, 4, 8)

    assert kill_and_resume(run, tmp_path / "cache", n_kills=3, seed=0) >= 1


@pytest.mark.slow
def test_twenty_kills_of_a_network_change_no_bit(tmp_path: Path) -> None:
    write_tiles(tmp_path / "tiles", 61)

    def run(cache: Path) -> subprocess.Popen[str]:
        return start("lite0", 224, tmp_path / "tiles", cache, 4, 8)

    assert kill_and_resume(run, tmp_path / "cache", n_kills=20, seed=1) >= 10


def test_a_reader_beside_a_writer_sees_whole_shards_only(tmp_path: Path) -> None:
    write_tiles(tmp_path / "tiles", 60)
    run = start("colour-histogram", 448, tmp_path / "tiles", tmp_path / "cache", 2, 2)
    seen: set[int] = set()
    while run.poll() is None:
        folder = space_folder(tmp_path / "cache")
        if folder is None:
            continue
        store = Store.at(folder)
        found = store.inspect()
        assert found.damaged == ()
        seen.add(len(found.sound))
        for name, manifest in list(found.sound.items())[-3:]:
            matrix_ND = store.read_shard(name, manifest)
            assert matrix_ND is not None and np.isclose(matrix_ND.sum(axis=1), 3, rtol=1e-5).all()
    finish(run)
    assert len(seen - {0, 30}) >= 3  # it was watched while it grew
    assert not (tmp_path / "cache" / "embeddings" / folder.name / "damaged").exists()  # type: ignore[union-attr]


def test_a_killed_run_goes_on_and_gives_the_same_bytes(
    tmp_path: Path, request_for: Callable[..., EmbedRequest]
) -> None:
    write_tiles(tmp_path / "tiles", 38)
    tiles = tile_set(sorted((tmp_path / "tiles").glob("*.png")))
    spec = find_backbone(BackboneConfig(name="random/timm/resnet10t"))
    whole = embed(tiles, request_for(spec, tmp_path / "whole", 96))
    store = Store(tmp_path / "cut", whole.space)
    run = start("random/timm/resnet10t", 96, tmp_path / "tiles", tmp_path / "cut")
    deadline = time.monotonic() + 100
    while not store.manifests() and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    run.kill()
    run.communicate()
    n_done = sum(len(manifest.content) for manifest in store.manifests().values())
    assert 0 < n_done < 38
    assert len(store.read_plan()) == 10
    resumed = embed(tiles, request_for(spec, tmp_path / "cut", 96, batch_size=7))  # the plan's batches win
    assert resumed.n_computed == 38 - n_done
    assert resumed.matrix_ND.tobytes() == whole.matrix_ND.tobytes()
    assert store.read_plan() == ()


def test_of_two_processes_one_computes_and_the_other_reads(tmp_path: Path) -> None:
    write_tiles(tmp_path / "tiles", 9)
    first = finish(start("colour-histogram", 14, tmp_path / "tiles", tmp_path / "alone"))
    (folder,) = (tmp_path / "alone" / "embeddings").iterdir()
    cache = tmp_path / "shared"
    with lock(cache / "embeddings" / folder.name / "lock"):
        runs = [start("colour-histogram", 14, tmp_path / "tiles", cache) for _ in range(2)]
        time.sleep(2)  # both reach the lock
        assert [run.poll() for run in runs] == [None, None]
    answers = [finish(run) for run in runs]
    assert sorted(answer["n_computed"] for answer in answers) == [0, 9]
    assert {answer["sha256"] for answer in answers} == {first["sha256"]}


@pytest.mark.slow
def test_a_warm_run_imports_no_deep_learning_library(tmp_path: Path) -> None:
    write_tiles(tmp_path / "tiles", 3)
    cold = finish(start("lite0", 224, tmp_path / "tiles", tmp_path / "cache"))
    warm = finish(start("lite0", 224, tmp_path / "tiles", tmp_path / "cache"))
    assert (cold["n_computed"], warm["n_computed"]) == (3, 0)
    assert "torch" in cold["heavy"]
    assert warm["heavy"] == []
    assert warm["sha256"] == cold["sha256"]
