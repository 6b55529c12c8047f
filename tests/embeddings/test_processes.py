"""What only separate processes show: a killed run, two at once, and what a warm run imports."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from histotune.backbones.catalog import find_backbone
from histotune.backbones.config import BackboneConfig
from histotune.embeddings.extract import EmbedRequest, embed
from histotune.embeddings.store import Store
from histotune.files import lock
from tests.embeddings.conftest import tile_set, write_tiles

SCRIPT = """
import json, sys
from pathlib import Path
from histotune.backbones.catalog import find_backbone
from histotune.backbones.config import BackboneConfig
from histotune.datasets.records import TileSet, tile_table
from histotune.embeddings.config import EmbeddingConfig
from histotune.embeddings.extract import EmbedRequest, embed
from histotune.files import hash_bytes
from histotune.images.config import LoaderConfig, ViewConfig

name, size_px, folder, cache = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4])
paths = sorted(folder.glob("*.png"))
table = tile_table({"tile_id": [path.name for path in paths], "path": [str(path) for path in paths]})
config = EmbeddingConfig(device="cpu", precision="fp32", batch_size=2, shard_tiles=4, threads=1)
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


def start(name: str, size_px: int, folder: Path, cache: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SCRIPT, name, str(size_px), str(folder), str(cache)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(run: subprocess.Popen[str]) -> dict[str, object]:
    out, err = run.communicate(timeout=120)
    assert run.returncode == 0, err
    return dict(json.loads(out))


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


def test_a_warm_run_imports_no_deep_learning_library(tmp_path: Path) -> None:
    write_tiles(tmp_path / "tiles", 3)
    cold = finish(start("lite0", 224, tmp_path / "tiles", tmp_path / "cache"))
    warm = finish(start("lite0", 224, tmp_path / "tiles", tmp_path / "cache"))
    assert (cold["n_computed"], warm["n_computed"]) == (3, 0)
    assert "torch" in cold["heavy"]
    assert warm["heavy"] == []
    assert warm["sha256"] == cold["sha256"]
