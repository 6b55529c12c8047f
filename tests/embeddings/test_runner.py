"""Batches overlap without changing what comes out, in which order, or what is counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from histotune.backbones.catalog import colour_histogram, find_backbone
from histotune.backbones.engine import Engine, Pending, load_backbone
from histotune.backbones.entries import BackboneConfig
from histotune.backbones.network import colour_fractions
from histotune.backbones.spec import Backbone, Reruns
from histotune.embeddings import embed as embed_module
from histotune.embeddings.embed import embed
from histotune.embeddings.runner import BatchRunner, resizing_device
from histotune.embeddings.space import EmbedRequest
from histotune.embeddings.store import Store
from histotune.images.decode import UnreadableTilesError
from histotune.images.loader import Views
from histotune.tools.devices import ComputeDevice
from histotune.tools.errors import UserError
from tests.embeddings.conftest import write_tiles

Requests = Callable[..., EmbedRequest]
CPU = ComputeDevice("cpu", "", "", float("nan"), fast_bf16=False)


class FakeEngine(Engine):
    """Gives colour histograms one batch behind, within a memory of so many images."""

    def __init__(self, fits: int = 1000, fits_in_fp32: int = 1000, overflows: bool = False) -> None:
        self.fits, self.fits_in_fp32, self.overflows = fits, fits_in_fp32, overflows
        self.log: list[str] = []
        self.reruns = Reruns()

    @property
    def ahead(self) -> int:
        return 1

    def submit(self, pixels_BSSC: np.ndarray, full: int = 0, plan: object = None) -> Pending:
        self.log.append(f"submit {len(pixels_BSSC)}")
        if len(pixels_BSSC) > self.fits:
            raise torch.OutOfMemoryError("full")
        result_BD = torch.from_numpy(colour_fractions(pixels_BSSC))
        return Pending(torch.from_numpy(pixels_BSSC), result_BD, None, len(pixels_BSSC))

    def collect(self, pending: Pending) -> np.ndarray:
        self.log.append(f"collect {pending.n_images}")
        if self.overflows:
            if pending.n_images > self.fits_in_fp32:
                raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)")
            self.reruns.n_batches += 1
        return pending.result_BD.numpy()


def backbone_of(engine: FakeEngine) -> Backbone:
    return replace(
        load_backbone(colour_histogram(), CPU, "fp32"), embed=engine, module=torch.nn.Identity(), reruns=engine.reruns
    )


def views(sizes: list[int], fails: bool = False) -> Iterator[Views]:
    rng = np.random.default_rng(0)
    for size in sizes:
        yield Views(rng.integers(0, 256, (size, 8, 8, 3), dtype=np.uint8), ("",) * size, ())
    if fails:
        raise UserError("no more")


def test_a_batch_is_on_its_way_before_the_last_one_is_read_back() -> None:
    engine = FakeEngine()
    rows = list(BatchRunner(backbone_of(engine), 4).run_all(views([4, 3, 2])))
    assert engine.log == ["submit 4", "submit 3", "collect 4", "submit 2", "collect 3", "collect 2"]
    for row, one in zip(rows, views([4, 3, 2]), strict=True):
        assert np.array_equal(row, colour_fractions(one.pixels_BSSC))


def test_batches_before_an_error_are_given_first() -> None:
    rows = BatchRunner(backbone_of(FakeEngine()), 4).run_all(views([4, 3], fails=True))
    assert [len(next(rows)), len(next(rows))] == [4, 3]
    with pytest.raises(UserError, match="no more"):
        next(rows)


def test_a_batch_that_does_not_fit_is_submitted_in_halves(caplog: pytest.LogCaptureFixture) -> None:
    engine = FakeEngine(fits=4)
    runner = BatchRunner(backbone_of(engine), 8)
    rows = list(runner.run_all(views([3, 8, 8])))
    assert engine.log == [
        "submit 3", "submit 8", "submit 4", "submit 4", "collect 3", "submit 4", "submit 4", "collect 4", "collect 4",
        "collect 4", "collect 4",
    ]  # fmt: skip
    for row, one in zip(rows, views([3, 8, 8]), strict=True):
        assert np.array_equal(row, colour_fractions(one.pixels_BSSC))
    assert runner.facts(1).batch_sizes == (3, 4, 4, 4, 4)
    assert caplog.text.count("memory ran out") == 1


def test_where_a_second_pass_does_not_fit_exactly_this_batch_is_repeated() -> None:
    engine = FakeEngine(overflows=True, fits_in_fp32=4)
    runner = BatchRunner(backbone_of(engine), 8)
    rows = list(runner.run_all(views([8, 8])))
    assert engine.log == [
        "submit 8", "submit 8", "collect 8", "submit 4", "collect 4", "submit 4", "collect 4",
        "collect 8", "submit 4", "collect 4", "submit 4", "collect 4",
    ]  # fmt: skip
    for row, one in zip(rows, views([8, 8]), strict=True):
        assert np.array_equal(row, colour_fractions(one.pixels_BSSC))
    facts = runner.facts(1)
    assert (facts.batch_sizes, facts.fp32_batches) == ((4, 4, 4, 4), 4)


def test_errors_that_are_not_about_memory_pass() -> None:
    class Broken(FakeEngine):
        def collect(self, pending: Pending) -> np.ndarray:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal memory access"):
        BatchRunner(backbone_of(Broken()), 8).run(next(views([2])).pixels_BSSC)


def test_overlapping_batches_are_stored_as_those_one_by_one(
    tmp_path: Path, request_for: Requests, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = find_backbone(BackboneConfig(name="random/timm/resnet10t"))
    tiles = write_tiles(tmp_path / "tiles", 11)
    plain = embed(tiles, request_for(spec, tmp_path / "plain", 32))
    monkeypatch.setattr(Engine, "ahead", 1)
    request = request_for(spec, tmp_path / "ahead", 32)
    ahead = embed(tiles, request)
    assert ahead.matrix_ND.tobytes() == plain.matrix_ND.tobytes()
    found = [Store(tmp_path / name, plain.space).manifests() for name in ("plain", "ahead")]
    assert found[0] == found[1]
    (tmp_path / "tiles" / "0-010.png").write_bytes(b"broken")
    again = replace(request, cache=tmp_path / "again")
    with pytest.raises(UnreadableTilesError):
        embed(tiles, again)
    assert len(Store(again.cache, plain.space).manifests()) == 2  # both whole shards were written


def test_a_device_that_resizes_gives_the_same_bytes(
    tmp_path: Path, request_for: Requests, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = find_backbone(BackboneConfig(name="random/timm/resnet10t"))
    tiles = write_tiles(tmp_path / "tiles", 7)  # 40 x 32 px, enlarged to 64
    expected = embed(tiles, request_for(spec, tmp_path / "plain", 64))
    plans = []
    original = Engine.submit

    def seen(self: Engine, pixels_BSSC: object, full: int = 0, plan: object = None) -> Pending:
        plans.append(plan)
        return original(self, pixels_BSSC, full, plan)  # type: ignore[arg-type]

    monkeypatch.setattr(Engine, "submit", seen)
    monkeypatch.setattr(embed_module, "resizing_device", lambda *_: "cpu")
    found = embed(tiles, request_for(spec, tmp_path / "device", 64))
    assert len(plans) == 4 and all(plan is not None for plan in plans)
    assert found.matrix_ND.tobytes() == expected.matrix_ND.tobytes()
    assert found.space == expected.space


def test_only_a_gpu_resizes() -> None:
    spec = find_backbone(BackboneConfig(name="random/timm/resnet10t"))
    gpu = ComputeDevice("cuda", "Tesla T4", "7.5", 15.0, fast_bf16=False)
    assert [resizing_device(device, spec) for device in (CPU, gpu)] == ["", "cuda"]
    assert resizing_device(gpu, colour_histogram()) == ""
