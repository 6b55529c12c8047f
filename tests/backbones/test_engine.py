"""The engine gives what plain torch gives, one batch behind; compiled networks are held against plain ones."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from histotune.backbones import engine as engine_module
from histotune.backbones.catalog import find_backbone
from histotune.backbones.engine import CompilationError, CudaStreams, Engine, EngineConfig, parallel_ranges
from histotune.backbones.entries import BackboneConfig
from histotune.backbones.network import Network, build_network
from histotune.backbones.spec import BackboneSpec

Pixels = NDArray[np.uint8]
LIBRARIES = ("timm", "polars", "pydantic", "peft", "PIL", "huggingface_hub", "transformers")


def spec_of(name: object) -> BackboneSpec:
    return replace(find_backbone(BackboneConfig(name=str(name))), size_px=56)


def engine_of(spec: BackboneSpec, precision: str = "fp32") -> Engine:
    config = EngineConfig("cpu", precision, spec.size_px, spec.mean, spec.std)  # type: ignore[arg-type]
    return Engine(partial(build_network, spec), config)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("dinov2", torch.bfloat16),
        ("dinov2", torch.float16),
        ("registers", torch.bfloat16),
        ("timm_folder", torch.bfloat16),
    ],
)
def test_weights_cast_once_give_the_bits_of_autocast(
    name: str, dtype: torch.dtype, request: pytest.FixtureRequest
) -> None:
    spec = find_backbone(BackboneConfig(name=str(request.getfixturevalue(name))))
    pixels = np.random.default_rng(0).integers(0, 256, (2, spec.size_px, spec.size_px, 3), dtype=np.uint8)
    engine = engine_of(spec, {torch.bfloat16: "bf16", torch.float16: "fp16"}[dtype])
    network = build_network(spec)
    for part in engine.module.modules():
        dtypes = {value.dtype for value in part.parameters(recurse=False)}
        assert dtypes <= {dtype if type(part) is torch.nn.Linear else torch.float32}, part
    with torch.inference_mode(), torch.autocast("cpu", dtype):
        outputs = network.outputs(engine._normalised(torch.from_numpy(pixels)))
    expected_BD = torch.cat([outputs["cls"].float(), outputs["patch_mean"].float()], dim=1).numpy()
    assert np.array_equal(engine(pixels), expected_BD)


def test_torch_s_fused_attention_is_used_whatever_a_config_says(dinov2: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(dinov2, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    config["_attn_implementation"] = "eager"
    (copy / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for folder in (dinov2, copy):
        assert build_network(spec_of(folder)).module.config._attn_implementation == "sdpa"


def test_timm_uses_fused_attention() -> None:
    import timm.layers

    assert timm.layers.use_fused_attn()
    module = build_network(spec_of("random/timm/vit_tiny_patch16_224.augreg_in21k")).module
    assert {part.fused_attn for part in module.modules() if hasattr(part, "fused_attn")} == {True}


def test_the_engine_imports_without_the_rest_of_the_package() -> None:
    code = "import sys, histotune.backbones.engine, histotune.backbones.network, histotune.embeddings.precision\n"
    code += f"print([name for name in {LIBRARIES} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# streams


class FakeCuda:
    """Stands in for torch.cuda on a machine without a GPU and writes down what is asked of it."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.on = "main"

    def patch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        fake, empty, move = self, torch.empty, torch.Tensor.to

        class Stream:
            def __init__(self, device: object, name: str = "copies") -> None:
                self.name = name

            def wait_stream(self, other: Stream) -> None:
                fake.log.append(f"{self.name} waits for {other.name}")

        class Event:
            def record(self, stream: Stream) -> None:
                self.number = sum("recorded" in line for line in fake.log)
                fake.log.append(f"event {self.number} recorded on {stream.name}")

            def synchronize(self) -> None:
                fake.log.append(f"host waits for event {self.number}")

        @contextmanager
        def stream(entered: Stream) -> Iterator[None]:
            fake.on = entered.name
            yield
            fake.on = "main"

        def pinned(tensor: torch.Tensor) -> torch.Tensor:
            fake.log.append(f"pinned on {fake.on}")
            return tensor.clone()

        def to(tensor: torch.Tensor, *given: object, **options: object) -> torch.Tensor:
            if options.get("non_blocking"):
                fake.log.append(f"copied on {fake.on}")
            return move(tensor, *given, **options)  # type: ignore[no-any-return,call-overload]

        def pageable(*size: object, pin_memory: bool = False, **options: object) -> torch.Tensor:
            fake.log.append("result pinned" if pin_memory else "result pageable")
            return empty(*size, **options)

        monkeypatch.setattr(torch.cuda, "Stream", Stream)
        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "stream", stream)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream(device, "main"))
        monkeypatch.setattr(torch.Tensor, "pin_memory", pinned)
        monkeypatch.setattr(torch.Tensor, "to", to)
        monkeypatch.setattr(torch, "empty", pageable)


def test_copies_run_on_a_stream_of_their_own_and_the_host_waits_for_one_batch_alone(
    dinov2: Path, pixels: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, fake = engine_of(spec_of(dinov2)), FakeCuda()
    expected_BD = engine(pixels)
    fake.patch(monkeypatch)
    engine._streams = CudaStreams(torch.device("cpu"))
    assert engine.ahead == 1
    first, second = engine.submit(pixels), engine.submit(pixels[::-1].copy())
    one = ["pinned on main", "copied on copies", "main waits for copies", "result pinned"]
    assert fake.log == [*one, "event 0 recorded on main", *one, "event 1 recorded on main"]
    assert np.array_equal(engine.collect(first), expected_BD)
    assert fake.log[10:] == ["host waits for event 0"]
    np.testing.assert_allclose(engine.collect(second), expected_BD[::-1], rtol=1e-5, atol=1e-5)


def test_a_batch_that_overflows_is_noticed_when_it_is_collected(
    dinov2: Path, pixels: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(dinov2)
    expected_BD, engine, original = engine_of(spec)(pixels), engine_of(spec, "bf16"), Engine._run

    def overflowing(runner: Engine, network: object, x_BCSS: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        result_BD = original(runner, network, x_BCSS, dtype)  # type: ignore[arg-type]
        return result_BD if dtype == torch.float32 else result_BD * float("inf")

    monkeypatch.setattr(Engine, "_run", overflowing)
    pending = engine.submit(pixels)
    assert engine.reruns.n_batches == 0
    assert np.array_equal(engine.collect(pending), expected_BD)
    assert engine.reruns.n_batches == 1
    dtypes = {value.dtype for value in engine.module.parameters()}
    assert dtypes == {torch.bfloat16, torch.float32}  # the fp32 copy is another network


# lanes of a processor


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", ["dinov2", "random/timm/resnet10t"])
def test_lanes_compute_what_one_go_computes(name: str, request: pytest.FixtureRequest, threads: None) -> None:
    spec = spec_of(request.getfixturevalue(name) if name == "dinov2" else name)
    images = np.random.default_rng(1).integers(0, 256, (150, spec.size_px, spec.size_px, 3), dtype=np.uint8)
    assert len(parallel_ranges(len(images), 2, spec.size_px)) == 3
    engine = engine_of(spec)
    assert engine.ahead == 1
    first, second = engine.submit(images), engine.submit(images)  # both under way at once
    found_BD = engine.collect(first)
    assert np.array_equal(engine.collect(second), found_BD)
    torch.set_num_threads(1)
    assert engine.ahead == 0
    np.testing.assert_allclose(found_BD, engine(images), rtol=1e-5, atol=1e-5)


def test_lanes_leave_the_number_of_threads_as_it_was(dinov2: Path, pixels: Pixels, threads: None) -> None:
    engine_of(spec_of(dinov2))(pixels)
    with ThreadPoolExecutor(1) as pool:
        assert (torch.get_num_threads(), pool.submit(torch.get_num_threads).result()) == (2, 2)


def test_what_a_lane_raises_is_raised_when_the_batch_is_collected(
    dinov2: Path, pixels: Pixels, threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(spec_of(dinov2))

    def full(*given: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(engine, "_run", full)
    pending = engine.submit(pixels)
    with pytest.raises(torch.OutOfMemoryError, match="full"):
        engine.collect(pending)


def test_the_network_for_fp32_is_built_while_no_lane_runs(threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_of("random/timm/resnet10t")
    images = np.random.default_rng(1).integers(0, 256, (64, 56, 56, 3), dtype=np.uint8)
    expected_BD, engine, original = engine_of(spec)(images), engine_of(spec, "bf16"), Engine._run
    running: list[int] = []

    def overflowing(runner: Engine, network: Network, x_BCSS: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        running.append(1)
        time.sleep(0.05)
        result_BD = original(runner, network, x_BCSS, dtype)
        running.pop()
        return result_BD if dtype == torch.float32 else result_BD * float("inf")

    def build() -> Network:
        assert not running
        return build_network(spec)

    monkeypatch.setattr(Engine, "_run", overflowing)
    monkeypatch.setattr(engine, "_build", build)
    first, second = engine.submit(images), engine.submit(images)
    assert np.array_equal(engine.collect(first), expected_BD)
    assert np.array_equal(engine.collect(second), expected_BD)
    assert engine.reruns.n_batches == 2


@given(st.integers(1, 300), st.integers(1, 8), st.sampled_from([14, 96, 224, 518, 2048]))
def test_the_parts_cover_a_batch_once_and_occupy_every_lane(n_images: int, n_parallel: int, size_px: int) -> None:
    ranges = parallel_ranges(n_images, n_parallel, size_px)
    assert [row for start, stop in ranges for row in range(start, stop)] == list(range(n_images))
    assert max(stop - start for start, stop in ranges) <= max(4 * 224**2 / size_px**2, 1)
    assert len(ranges) * 2 >= min(n_images, n_parallel)


# torch.compile


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Replace the compiler by one that runs the captured graph as it is; return its calls."""
    calls: list[int] = []

    def as_it_is(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., object]:
        calls.append(len(inputs))
        return graph.forward

    torch.compiler.reset()
    monkeypatch.setattr(engine_module, "COMPILER", as_it_is)
    return calls


def test_a_compiled_network_sees_one_batch_size(dinov2: Path, pixels: Pixels, compiler: list[int]) -> None:
    engine = engine_of(spec_of(dinov2))
    expected_BD = engine(pixels)
    engine.compile(3)
    n_graphs = len(compiler)
    assert n_graphs >= 1
    for n_images in (3, 2, 1):
        result_BD = engine.collect(engine.submit(pixels[:n_images], full=3))
        np.testing.assert_allclose(result_BD, expected_BD[:n_images], rtol=1e-5, atol=1e-5)
    assert len(compiler) == n_graphs


@pytest.mark.parametrize("failure", ["raises", "lies"])
def test_where_compilation_fails_the_plain_network_stays(
    dinov2: Path, pixels: Pixels, monkeypatch: pytest.MonkeyPatch, failure: str
) -> None:
    def broken(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., object]:
        if failure == "raises":
            raise OSError("no C++ compiler")
        return lambda *given: tuple(value * 1.1 for value in graph.forward(*given))

    torch.compiler.reset()
    monkeypatch.setattr(engine_module, "COMPILER", broken)
    engine = engine_of(spec_of(dinov2))
    expected_BD = engine(pixels)
    with pytest.raises(
        CompilationError, match={"raises": r"no C\+\+ compiler", "lies": "away from the plain"}[failure]
    ):
        engine.compile(3)
    assert np.array_equal(engine(pixels), expected_BD)


def test_running_out_of_memory_is_no_failure_to_compile(dinov2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., object]:
        def run(*given: torch.Tensor) -> object:
            raise torch.OutOfMemoryError("full")

        return run

    torch.compiler.reset()
    monkeypatch.setattr(engine_module, "COMPILER", full)
    with pytest.raises(torch.OutOfMemoryError):
        engine_of(spec_of(dinov2)).compile(2)
