"""A local server, and a transfer that waits for nobody."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest

from histotune.datasets.fetch.source import Checksums, NetworkConfig, RemoteFile, Transfer

from .server import Server, serving

IMPATIENT = NetworkConfig(stall_s=0.3, slow_window_s=30, progress_bytes=1, margin_bytes=0, lock_wait_s=20)


@dataclass
class Heard:
    """What a transfer said and how long it would have waited."""

    said: list[str] = field(default_factory=list)
    waits_s: list[float] = field(default_factory=list)

    def transfer(self, config: NetworkConfig = IMPATIENT) -> Transfer:
        return Transfer(config, np.random.default_rng(0), self.said.append, self.waits_s.append)


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as plan:
        yield plan


def content(n_bytes: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).integers(0, 256, n_bytes, dtype=np.uint8).tobytes()


def sums(data: bytes) -> Checksums:
    return Checksums(hashlib.md5(data).hexdigest(), hashlib.sha256(data).hexdigest())


def remote(
    server: Server,
    data: bytes,
    *,
    name: str = "file.bin",
    exact: bool = True,
    known: bool = True,
    served: bytes | None = None,
) -> RemoteFile:
    """Publish ``data`` and serve it, or something else, under a name."""
    server.files[name] = data if served is None else served
    return RemoteFile(name, (server.url(name),), len(data), exact, sums(data) if known else Checksums())
