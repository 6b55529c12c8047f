"""A prediction of 10,000 images, killed again and again: what was embedded is kept, and the table is the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from tests.conftest import CommandResult

N_IMAGES, N_KILLS = 10_000, 5
pytestmark = [pytest.mark.slow, pytest.mark.long]


def write_images(folder: Path) -> Path:
    """Write small PNG files, no two alike."""
    folder.mkdir()
    rng = np.random.default_rng(7)
    for number in range(N_IMAGES):
        pixels = rng.normal(140, 40, (24, 24, 3)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:05d}.png", compress_level=1)
    return folder


def start(head: Path, images: Path, out: Path, cache: Path) -> subprocess.Popen[bytes]:
    words = ("predict", head, images, "--out", out, "--cache", cache, "--set", "embedding.shard_tiles=256")
    command = [sys.executable, "-m", "histotune", *map(str, words)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)


def n_shards(cache: Path) -> int:
    return len(list(cache.glob("embeddings/*/shards/*.npy")))


def kill_after_a_shard(process: subprocess.Popen[bytes], cache: Path, rng: np.random.Generator) -> bool:
    """Kill a prediction some time after it has written another shard; return whether it was still running."""
    before, end_s = n_shards(cache), time.monotonic() + 300
    while process.poll() is None and n_shards(cache) == before and time.monotonic() < end_s:
        time.sleep(0.005)
    time.sleep(float(rng.uniform(0, 0.3)))
    if process.poll() is not None:
        return False
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    return True


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_killed_again_and_again_it_ends_with_the_same_table(
    histotune: Callable[..., CommandResult], cases_head: Path, tmp_path: Path
) -> None:
    rng, images = np.random.default_rng(0), write_images(tmp_path / "images")
    cache, out, n_killed, kept = tmp_path / "cache", tmp_path / "p.csv", 0, [0]
    for _ in range(N_KILLS):
        if not kill_after_a_shard(start(cases_head, images, out, cache), cache, rng):
            break
        n_killed += 1
        kept.append(n_shards(cache))
        assert not out.exists(), "half a table"
    assert n_killed >= 3, "it was too fast to be killed"
    assert kept == sorted(kept) and kept[-1] >= n_killed, "what was embedded was lost"
    last = start(cases_head, images, out, cache)
    _, told = last.communicate()
    assert last.returncode == 0, told.decode()
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".partial")], "left behind"
    whole = start(cases_head, images, tmp_path / "whole.csv", tmp_path / "other-cache")
    assert whole.communicate() is not None and whole.returncode == 0
    assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert pl.read_csv(out).height == N_IMAGES
