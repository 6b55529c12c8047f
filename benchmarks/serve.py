"""A served head under 20 clients against the batch engine: the same images, the same process's threads, one machine.

``python -m benchmarks run serve`` measures it; two idle cores are needed, since clients, server and engine share them.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.harness import (
    BOUND_REPEATS,
    Arm,
    Claim,
    Part,
    Result,
    alternate,
    child_environment,
    cores,
    measured,
    missing_hardware,
    not_measured,
    ratios,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

N_CORES, N_CLIENTS, N_IMAGES, SIDE_PX, N_CASES = 2, 20, 400, 224, 8
BACKBONE = "lite0"
BUSY_LOAD = 0.5
CLAIM = Claim(
    "serve",
    f"{N_CLIENTS} clients at once of `histotune serve` against the batch engine, EfficientNet-Lite0, {N_CORES} cores",
    "x",
    0.8,
    "at least",
    f"{N_IMAGES} PNG of {SIDE_PX} px. Engine: ht.embed with an empty cache and the network loaded, decoding included."
    f" Server: each image a POST /predict of its own on loopback, {N_CLIENTS} clients with a kept connection each, in a"
    f" process of their own. Both on the same {N_CORES} cores; in turns, median of {BOUND_REPEATS} rounds, by the 95 %"
    " bound.",
    by_bound=True,
)


@dataclass(frozen=True)
class Answerer:
    """A running server and the clients that ask it."""

    port: int
    images: tuple[bytes, ...]

    def ask_all(self) -> None:
        """Send every image, as many at once as there are clients."""
        rest, lock, failures = list(self.images), threading.Lock(), []

        def client() -> None:
            """Send one image after the other on one connection."""
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
            while True:
                with lock:
                    if not rest:
                        break
                    data = rest.pop()
                mark = uuid.uuid4().hex
                start = f'--{mark}\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'.encode()
                body = start + data + f"\r\n--{mark}--\r\n".encode()
                kind = {"Content-Type": f"multipart/form-data; boundary={mark}"}
                connection.request("POST", "/predict", body, kind)
                response = connection.getresponse()
                answer = json.loads(response.read())
                if response.status != 200:
                    failures.append(answer)
            connection.close()

        threads = [threading.Thread(target=client) for _ in range(N_CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise RuntimeError(f"{len(failures)} requests failed: {failures[0]}")


def measure() -> tuple[Result, ...]:
    """Time the engine and the server in turns."""
    reason = missing_hardware(N_CORES) or _busy()
    if reason:
        return (not_measured(CLAIM, f"{reason}; python -m benchmarks run serve"),)
    with tempfile.TemporaryDirectory(prefix="histotune-serve-") as name, cores(N_CORES):
        folder = Path(name)
        paths = write_images(folder / "images")
        head = train_head(folder, paths)
        images = tuple(path.read_bytes() for path in paths)
        with serving(head, folder) as port:
            engine, server = engine_of(folder), Answerer(port, images)
            arms = [Arm("engine", engine.embed_all, engine.empty), Arm("server", server.ask_all)]
            seconds = alternate(arms, BOUND_REPEATS)
    parts = [Part(f"{arm}: images/s", N_IMAGES / float(np.median(times))) for arm, times in seconds.items()]
    return (measured(CLAIM, ratios(seconds, "engine", "server"), parts, N_CORES),)


def _busy() -> str:
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return f"other processes load this machine ({load:.1f})" if load > BUSY_LOAD else ""


class Engine:
    """The batch engine with its network loaded, over a folder of images.

    Args:
        folder: Holds ``images``; takes caches.
    """

    def __init__(self, folder: Path) -> None:
        from histotune.backbones.catalog import documented_view, find_backbone
        from histotune.backbones.entries import BackboneConfig
        from histotune.datasets.unlabelled import read_unlabelled_images
        from histotune.embeddings.space import EmbeddingConfig, LoadedBackbone

        self._folder, self._number = folder, 0
        self._spec = find_backbone(BackboneConfig(name=BACKBONE))
        self._view = documented_view(self._spec)
        self._tiles = read_unlabelled_images([folder / "images"], ("a", "b"))
        self._embedding = EmbeddingConfig(device="cpu", precision="fp32", threads=N_CORES)
        self._loaded = LoadedBackbone()

    def empty(self) -> None:
        """Take a new cache."""
        self._number += 1

    def embed_all(self) -> None:
        """Embed every image."""
        from histotune.embeddings.embed import embed
        from histotune.embeddings.space import EmbedRequest
        from histotune.images.config import LoaderConfig

        cache = self._folder / f"engine-{self._number}"
        request = EmbedRequest(self._spec, self._view, self._embedding, LoaderConfig(), cache, loaded=self._loaded)
        done = embed(self._tiles, request)
        if done.n_computed != N_IMAGES:
            raise RuntimeError(f"{done.n_computed} images were computed")


def engine_of(folder: Path) -> Engine:
    """Return the engine over a folder of images."""
    return Engine(folder)


@contextmanager
def serving(head: Path, folder: Path) -> Iterator[int]:
    """Run the server in a process of its own and yield its port.

    Args:
        head: The head's folder.
        folder: Takes its caches.
    """
    options = ("--port", "0", "--cache", str(folder / "serve"), "--set", "embedding.device=cpu")
    fields = ("--set", "embedding.precision=fp32", "--set", f"embedding.threads={N_CORES}")
    command = [sys.executable, "-m", "histotune", "serve", str(head), *options, *fields]
    environment = child_environment(folder, N_CORES)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r":(\d+) ", line)
        if found is None:
            raise RuntimeError(f"the server did not start: {line}")
        try:
            yield int(found[1])
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)


def write_images(folder: Path) -> tuple[Path, ...]:
    """Write images of noise, no two alike.

    Args:
        folder: Made.

    Returns:
        Their paths.
    """
    from PIL import Image

    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(N_IMAGES):
        small = rng.integers(0, 256, (SIDE_PX // 8, SIDE_PX // 8, 3), dtype=np.uint8)
        Image.fromarray(small).resize((SIDE_PX, SIDE_PX)).save(folder / f"{number:04d}.png")
    return tuple(sorted(folder.glob("*.png")))


def train_head(folder: Path, paths: Sequence[Path]) -> Path:
    """Train a head on some of the images; what it says does not matter here.

    Args:
        folder: Takes the head.
        paths: The images.

    Returns:
        The head's folder.
    """
    import histotune as ht

    table = folder / "tiles.csv"
    lines = [f"{path},{'ab'[n % 2]},case{n % N_CASES}" for n, path in enumerate(paths[: 4 * N_CASES])]
    table.write_text("\n".join(["path,label,group", *lines]) + "\n", encoding="utf-8")
    fields = {"sweep.folds": 2, "sweep.penalties": [0.1], "embedding.device": "cpu", "embedding.precision": "fp32"}
    x = ht.embed("tiles", BACKBONE, data=table, cache=folder / "train", set=fields)
    ht.sweep(x, out=folder / "head", cache=folder / "train", set=fields)
    return folder / "head"


if __name__ == "__main__":
    start = time.perf_counter()
    print(measure()[0].as_dict())
    print(f"{time.perf_counter() - start:.0f} s")
