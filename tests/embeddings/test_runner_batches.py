"""The batch size is a number, remembered, or found by timing; what an interrupted run had planned keeps its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from histotune.backbones import engine
from histotune.backbones.catalog import colour_histogram, find_backbone
from histotune.backbones.entries import BackboneConfig
from histotune.backbones.network import load_histogram
from histotune.backbones.spec import Backbone
from histotune.embeddings.runner import BatchRate, find_batch_size, remembered_batch_size, with_batch_size
from histotune.embeddings.space import EmbedRequest, embedding_space
from histotune.tools.devices import ComputeDevice

Requests = Callable[..., EmbedRequest]
CPU = ComputeDevice("cpu", "", "", float("nan"), fast_bf16=False)
T4 = ComputeDevice("cuda", "Tesla T4", "7.5", 15.0, fast_bf16=False)


class Gpu:
    """A clock that moves with the images embedded: a fixed cost per batch and one per image."""

    def __init__(self, batch_s: float = 0.0, image_s: float = 0.001, fits: int = 10**6) -> None:
        self.now, self.batch_s, self.image_s, self.fits, self.tried = 0.0, batch_s, image_s, fits, [0]

    def embed(self, pixels_BSSC: np.ndarray) -> np.ndarray:
        if len(pixels_BSSC) > self.fits:
            raise torch.OutOfMemoryError("full")
        self.tried.append(len(pixels_BSSC))
        self.now += self.batch_s + self.image_s * len(pixels_BSSC)
        return np.zeros((len(pixels_BSSC), 96), np.float32)

    def find(self, most: int = 512) -> list[int]:
        rates = find_batch_size(self.embed, 8, most, lambda: self.now)
        assert all(rate.images_per_s >= 0 for rate in rates)
        return [rate.batch_size for rate in rates]


def test_a_batch_doubles_while_it_gains() -> None:
    assert Gpu().find() == [32]  # nothing to gain
    assert Gpu(batch_s=0.05).find() == [32, 64, 128, 256, 512]
    assert Gpu(batch_s=0.05).find(most=128) == [32, 64, 128]
    # 32 images in 37 ms, 64 in 69 ms (+7 %), 128 in 133 ms (+4 %)
    assert Gpu(batch_s=0.005).find() == [32, 64]


def test_memory_ends_the_search() -> None:
    gpu = Gpu(batch_s=1.0, fits=100)
    assert gpu.find() == [32, 64]
    assert max(gpu.tried) == 64
    assert Gpu(fits=8).find() == [32]  # to be halved when it runs


def test_other_errors_end_it_too() -> None:
    def broken(pixels_BSSC: np.ndarray) -> np.ndarray:
        raise RuntimeError("illegal memory access")

    with pytest.raises(RuntimeError, match="illegal"):
        find_batch_size(broken, 8, 64)


@pytest.fixture
def gpu_request(request_for: Requests) -> EmbedRequest:
    return request_for(find_backbone(BackboneConfig(name="random/timm/resnet10t")), size_px=14, batch_size="auto",
                       shard_tiles=512)  # fmt: skip


def size_for(request: EmbedRequest, device: ComputeDevice, n_missing: int) -> int | str:
    space = embedding_space(request.spec, request.view, device, "fp32")
    return with_batch_size(request, device, "fp32", space, n_missing).embedding.batch_size


def test_processors_few_tiles_and_numbers_need_no_search(gpu_request: EmbedRequest) -> None:
    assert size_for(gpu_request, CPU, 10**6) == 32
    assert size_for(gpu_request, T4, 100) == 32
    assert size_for(replace(gpu_request, spec=colour_histogram()), T4, 10**6) == 32
    seven = gpu_request.embedding.model_copy(update={"batch_size": 7})
    assert size_for(replace(gpu_request, embedding=seven), T4, 10**6) == 7
    assert not gpu_request.cache.exists()


def test_a_search_is_made_once_per_space(gpu_request: EmbedRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[object] = []

    def fake(spec: object, device: ComputeDevice, precision: str, *more: object) -> Backbone:
        loaded.append((device.kind, precision))
        backbone = load_histogram(colour_histogram())
        return replace(backbone, embed=Gpu(fits=64).embed)

    monkeypatch.setattr(engine, "load_backbone", fake)
    monkeypatch.setattr("histotune.embeddings.runner.WORTH_GAIN", 0.0)  # the real clock decides nothing
    assert size_for(gpu_request, T4, 5_000) == 64
    assert size_for(gpu_request, T4, 5_000) == 64
    assert size_for(gpu_request, T4, 10) == 64  # remembered, for short runs too
    assert loaded == [("cuda", "fp32")]
    space = embedding_space(gpu_request.spec, gpu_request.view, T4, "fp32")
    assert remembered_batch_size(gpu_request, space) == 64
    (record,) = (gpu_request.cache / "batches").glob("*.json")
    for damaged in ("{", '{"batch_size": "many"}', '{"batch_size": 100000}', "[]"):
        record.write_text(damaged, encoding="utf-8")
        assert remembered_batch_size(gpu_request, space) is None
    assert size_for(gpu_request, T4, 5_000) == 64 and len(loaded) == 2
    assert BatchRate(64, 1.0).batch_size == 64
