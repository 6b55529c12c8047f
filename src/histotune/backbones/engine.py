"""A network at its device's speed: copies run ahead of it, weights are cast once, results are read back behind it.

This module stands alone: with the network it is given it needs torch and numpy, imported inside the functions.
"""

from __future__ import annotations

import logging
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from threading import Barrier
from typing import TYPE_CHECKING, Literal

from histotune.backbones.spec import Backbone, BackboneSpec, ColumnBlock, Reruns
from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future
    from contextlib import AbstractContextManager

    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import fx, nn

    from histotune.backbones.network import Network
    from histotune.images.device_resize import DeviceResizer, ResizePlan
    from histotune.images.hashes import HashIndex
    from histotune.tools.devices import ComputeDevice

# B batch, S side, C channels, D columns


LOG = logging.getLogger(__name__)
COMPILER = "inductor"
COMPILED_LIMIT = 0.02  # relative distance to the plain network on noise; rounding in bf16 stays below 0.01


class CompilationError(RuntimeError):
    """``torch.compile`` failed here, or gave a network that computes something else."""


@dataclass(frozen=True)
class EngineConfig:
    """How a network is run.

    Attributes:
        device: A torch device, such as ``cpu`` or ``cuda``.
        precision: Of the matrix products; outputs are float32 in any case.
        size_px: Side of the input.
        mean: Normalisation mean per RGB channel, in [0, 1].
        std: Normalisation standard deviation per RGB channel.
    """

    device: str
    precision: Literal["fp32", "bf16", "fp16"]
    size_px: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True)
class Pending:
    """A forward pass on its way: a batch, or the part of one that fits into the device's memory.

    Attributes:
        pixels_BSSC: uint8 on the device, for a second pass in fp32; kept until the batch is collected, which also keeps
            the copy stream from writing into memory that the network still reads.
        result_BD: float32 in main memory, complete once ``done`` has happened.
        done: What to wait for: the CUDA event after the last copy, or a processor's lanes; None where the result is
            there already.
        n_images: Rows that count; those after them are padding.
    """

    pixels_BSSC: torch.Tensor
    result_BD: torch.Tensor
    done: torch.cuda.Event | ParallelDone | None
    n_images: int


class Direct:
    """Memory that the processor shares with the network: nothing to copy, nothing to wait for."""

    ahead = 0

    def upload(self, pixels_BSSC: NDArray[np.uint8]) -> torch.Tensor:
        """Return the pixels as a tensor on the same memory."""
        import torch

        return torch.from_numpy(pixels_BSSC)

    def download(self, result_BD: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Return the result itself."""
        return result_BD, None


class CudaStreams:
    """Copies through pinned memory beside the computation, none of which waits for the host.

    Args:
        device: The CUDA device.
    """

    ahead = 1
    """Batches worth submitting before the oldest is read back: one computes while another is copied."""

    def __init__(self, device: torch.device) -> None:
        import torch

        self._device = device
        self._copies = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch leaves it untyped

    def upload(self, pixels_BSSC: NDArray[np.uint8]) -> torch.Tensor:
        """Start copying pixels to the device; what is computed from here on waits for them, the host does not.

        The pinned copy may be dropped at once: torch's host allocator reuses it after the copy only.
        """
        import torch

        pinned_BSSC = torch.from_numpy(pixels_BSSC).pin_memory()
        with torch.cuda.stream(self._copies):
            x_BSSC = pinned_BSSC.to(self._device, non_blocking=True)
        torch.cuda.current_stream(self._device).wait_stream(self._copies)
        return x_BSSC

    def download(self, result_BD: torch.Tensor) -> tuple[torch.Tensor, torch.cuda.Event]:
        """Start copying a result to pinned memory; return it with the event that says when it is complete."""
        import torch

        pinned_BD = torch.empty(result_BD.shape, dtype=result_BD.dtype, pin_memory=True)
        pinned_BD.copy_(result_BD, non_blocking=True)
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        done.record(torch.cuda.current_stream(self._device))
        return pinned_BD, done


class Engine:
    """Runs a network on batches of uint8 pixels.

    Convolutional networks take half-precision weights in channels-last memory, batch norms folded. Networks with
    tokens run under autocast, which keeps the residual stream and the norms in fp32 (half the error of bf16 weights at
    the same speed); the weights of their linear layers, which autocast would cast again for every batch, are cast once:
    the same values in half the memory.

    Args:
        build: Makes the network, on the CPU in fp32; called again where a batch must be run in fp32.
        config: Device, precision, input.
    """

    def __init__(self, build: Callable[[], Network], config: EngineConfig) -> None:
        import torch

        self._build, self._config = build, config
        self._device = torch.device(config.device)
        self._dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[config.precision]
        self._mean = torch.tensor(config.mean, device=self._device).view(1, 3, 1, 1)
        self._std = torch.tensor(config.std, device=self._device).view(1, 3, 1, 1)
        self._streams = CudaStreams(self._device) if self._device.type == "cuda" else Direct()
        self._full: Network | None = None
        self._compiled = False
        self._parallel: CpuParallel | None = None
        self._resizers: dict[ResizePlan, DeviceResizer] = {}
        self.reruns = Reruns()
        self._network = self._build()
        self.blocks = self._probe()
        self._place(self._network, self._dtype)

    @property
    def module(self) -> torch.nn.Module:
        """The network; in half precision to be called under autocast."""
        return self._network.module

    @property
    def ahead(self) -> int:
        """Batches worth submitting before the oldest is collected."""
        return 1 if self._n_parallel() else self._streams.ahead

    def __call__(self, pixels_BSSC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed a batch."""
        return self.collect(self.submit(pixels_BSSC))

    def submit(self, pixels_BSSC: NDArray[np.uint8], full: int = 0, plan: ResizePlan | None = None) -> Pending:
        """Start embedding a batch; on a GPU, and in the lanes of a CPU, this returns before anything is computed."""
        import numpy as np
        import torch

        n_images = len(pixels_BSSC)
        if self._compiled and n_images < full:
            blank = np.zeros((full - n_images, *pixels_BSSC.shape[1:]), np.uint8)
            pixels_BSSC = np.concatenate([pixels_BSSC, blank])
        with torch.inference_mode():
            x_BSSC = self._streams.upload(pixels_BSSC)
            if plan is not None:
                x_BSSC = self._resizer(plan)(x_BSSC)
            return Pending(x_BSSC, *self._start(self._network, x_BSSC, self._dtype), n_images)

    def collect(self, pending: Pending) -> NDArray[np.float32]:
        """Return the embeddings of a batch, waiting for it alone; where half precision overflowed, in fp32."""
        import numpy as np
        import torch

        if pending.done is not None:
            pending.done.synchronize()
        result_BD = pending.result_BD[: pending.n_images]
        if not bool(torch.isfinite(result_BD).all()):
            with torch.inference_mode():
                result_BD = self._rerun(pending.pixels_BSSC[: pending.n_images])
        return np.array(result_BD.numpy())  # a copy: pinned memory goes back to torch

    def _n_parallel(self) -> int:
        """Return how many lanes share a batch; 0 where it is computed in one go."""
        import torch

        n_threads = torch.get_num_threads()
        alone = self._compiled or not isinstance(self._streams, Direct)
        return n_threads if not alone and 1 < n_threads <= MAX_PARALLEL else 0

    def _start(
        self, network: Network, x_BSSC: torch.Tensor, dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.cuda.Event | ParallelDone | None]:
        """Start a forward pass; return its result in main memory and what to wait for."""

        def forward(part_BSSC: torch.Tensor) -> torch.Tensor:
            """Run the network on some of the images."""
            return self._run(network, self._normalised(part_BSSC), dtype)

        n_parallel = self._n_parallel()
        if n_parallel == 0:
            return self._streams.download(forward(x_BSSC))
        if self._parallel is None or self._parallel.n_parallel != n_parallel:
            self._parallel = CpuParallel(n_parallel)
        return self._parallel.run(forward, x_BSSC, self.blocks[-1].stop)

    def compile(self, batch_size: int) -> None:
        """Compile the network with ``torch.compile`` for one batch size, and hold it against the plain one on noise."""
        import numpy as np
        import torch

        side = self._config.size_px
        noise_BSSC = np.random.default_rng(0).integers(0, 256, (batch_size, side, side, 3), dtype=np.uint8)
        plain_BD = self(noise_BSSC)
        network = self._network
        self._compiled = True  # lanes would compile it for their parts
        try:
            # One shape only: a network for any batch size is slower, and the last batch is padded anyway.
            outputs = torch.compile(network.outputs, backend=COMPILER, dynamic=False)
            self._network = replace(network, outputs=outputs)
            distance = float(np.linalg.norm(self(noise_BSSC) - plain_BD) / np.linalg.norm(plain_BD))
            if not distance <= COMPILED_LIMIT:
                raise CompilationError(f"the compiled network is {distance:.2g} away from the plain one")
        except Exception as error:  # the compiler, its back end and the C++ compiler have no common error
            self._network, self._compiled = network, False
            if isinstance(error, torch.OutOfMemoryError | CompilationError):
                raise
            words = " ".join(str(error).split("\n")[:2])  # dynamo's first line names the back end, its second the cause
            raise CompilationError(f"{type(error).__name__}: {words[:300]}") from error

    def _resizer(self, plan: ResizePlan) -> DeviceResizer:
        from histotune.images.device_resize import DeviceResizer

        if plan not in self._resizers:
            self._resizers[plan] = DeviceResizer(plan, self._device)
        return self._resizers[plan]

    def _normalised(self, x_BSSC: torch.Tensor) -> torch.Tensor:
        """Return pixels as torchvision's ToTensor and Normalize would, operation by operation."""
        x_BCSS = x_BSSC.permute(0, 3, 1, 2)  # of contiguous NHWC: this is channels-last memory
        if not self._network.convolutional:
            x_BCSS = x_BCSS.contiguous()
        return x_BCSS.float().div_(255).sub_(self._mean).div_(self._std)

    def _run(self, network: Network, x_BCSS: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        import torch

        half = dtype != torch.float32
        if network.convolutional:
            with _ieee_convolutions(self._device, dtype):
                outputs = network.outputs(x_BCSS.to(dtype))
        else:
            autocast = torch.autocast(self._device.type, dtype=dtype if half else torch.bfloat16, enabled=half)
            with _ieee_convolutions(self._device, dtype), autocast:
                outputs = network.outputs(x_BCSS)
        return torch.cat([outputs[block.name].float() for block in self.blocks], dim=1)

    def _rerun(self, x_BSSC: torch.Tensor) -> torch.Tensor:
        """Embed a batch that overflowed once more in fp32, and count it."""
        import torch

        if self._full is None:
            self._full = self._network
            if self._dtype != torch.float32:
                if self._parallel is not None:
                    self._parallel.rest()  # folding traces the network, which disturbs whatever runs in other threads
                self._full = self._build()
                self._place(self._full, torch.float32)
        result_BD, done = self._start(self._full, x_BSSC, torch.float32)
        if done is not None:
            done.synchronize()
        if not bool(torch.isfinite(result_BD).all()):
            raise UserError(
                "the backbone gives values that are not finite, in fp32 too",
                fix="its weights are damaged or do not belong to this architecture",
            )
        self.reruns.n_batches += 1
        LOG.warning("a batch overflowed in %s and was embedded again in fp32", self._dtype)
        return result_BD

    def _probe(self) -> tuple[ColumnBlock, ...]:
        """Learn names and widths of the outputs from one blank image."""
        import torch

        side = self._config.size_px
        with torch.inference_mode():
            try:
                outputs = self._network.outputs(torch.zeros(1, 3, side, side))
            except (AssertionError, RuntimeError, ValueError) as error:
                raise UserError(
                    f"this backbone does not take such images ({error})",
                    value=f"{side} px",
                    fix="leave out --set view.size_px=... to take the documented size",
                ) from error
        blocks, start = [], 0
        for name, value_BD in outputs.items():
            blocks.append(ColumnBlock(name, start, start + value_BD.shape[1]))
            start += value_BD.shape[1]
        return tuple(blocks)

    def _place(self, network: Network, dtype: torch.dtype) -> None:
        """Put a network on the device; cast before it is moved, so that fp32 weights never lie there for nothing."""
        import torch

        module = network.module.requires_grad_(requires_grad=False)
        if network.convolutional:
            fuse_batch_norms(module)
            module.to(device=self._device, dtype=dtype).to(memory_format=torch.channels_last)
            return
        module.float()
        for part in module.modules():
            if type(part) is torch.nn.Linear:  # subclasses may read their weights in ways of their own
                part.to(dtype)
        module.to(self._device)


def _ieee_convolutions(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Keep cuDNN's convolutions in fp32 where fp32 is asked for: by default it takes TF32, with 10 bits of mantissa."""
    import torch

    if device.type != "cuda" or dtype != torch.float32:
        return nullcontext()
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)


# ---- A processor's cores, each on small parts of a batch ----
#
# Several threads within every operation meet at a barrier after each of a network's hundreds of operations; a core
# that decodes an image for a moment holds up all others. CpuParallel meet once per batch. Small parts also keep the
# activations in the cache, and small enough for the allocator to keep their memory instead of asking the system for
# fresh pages (on two cores EfficientNet-Lite0 took 12.4 ms per image with two threads on 32 images, 8.3 ms in lanes of
# 4).


# Of smaller images a part holds more, or starting its operations would take the time.
PIXELS_IN_PARALLEL = 4 * 224 * 224
MAX_PARALLEL = 8  # Python starts every operation of every lane, under one lock; beyond, torch's own threads do better


@dataclass(frozen=True)
class ParallelDone:
    """Becomes true when every part of a batch is computed.

    Attributes:
        parts: The parts under way.
    """

    parts: tuple[Future[None], ...]

    def synchronize(self) -> None:
        """Wait for all parts, so that none still writes, then raise what the first failed one raised."""
        failures = [part.exception() for part in self.parts]
        for failure in failures:
            if failure is not None:
                raise failure


class CpuParallel:
    """Threads that compute with one torch thread each.

    Args:
        n_parallel: How many.
    """

    def __init__(self, n_parallel: int) -> None:
        import torch

        self.n_parallel = n_parallel
        self._under_way: tuple[Future[None], ...] = ()
        self._pool = ThreadPoolExecutor(n_parallel, "lane", initializer=lambda: torch.set_num_threads(1))
        started = Barrier(n_parallel + 1)
        for _ in range(n_parallel):
            self._pool.submit(started.wait)
        before = torch.get_num_threads()
        started.wait()
        # What a thread sets holds for itself and for threads that torch has not met yet; those take ours again.
        torch.set_num_threads(before)

    def run(
        self, forward: Callable[[torch.Tensor], torch.Tensor], x_BSSC: torch.Tensor, n_columns: int
    ) -> tuple[torch.Tensor, ParallelDone]:
        """Start a batch; this returns before anything is computed."""
        import torch

        result_BD = torch.empty(len(x_BSSC), n_columns)

        def part(start: int, stop: int) -> None:
            """Fill the rows of one part of the batch."""
            with torch.inference_mode():
                result_BD[start:stop] = forward(x_BSSC[start:stop])

        ranges = parallel_ranges(len(x_BSSC), self.n_parallel, x_BSSC.shape[1])
        parts = tuple(self._pool.submit(part, start, stop) for start, stop in ranges)
        self._under_way = (*(one for one in self._under_way if not one.done()), *parts)
        return result_BD, ParallelDone(parts)

    def rest(self) -> None:
        """Wait until nothing is computed; what a part raised stays for whoever collects its batch."""
        wait(self._under_way)


def parallel_ranges(n_images: int, n_parallel: int, size_px: int) -> tuple[tuple[int, int], ...]:
    """Return the parts of a batch, a function of these numbers alone, so that a repeated batch gives equal bits.

    Example:
        >>> parallel_ranges(10, 2, 224)
        ((0, 4), (4, 8), (8, 10))
        >>> parallel_ranges(5, 4, 32)
        ((0, 2), (2, 4), (4, 5))
    """
    length = max(min(PIXELS_IN_PARALLEL // size_px**2, -(-n_images // n_parallel)), 1)
    return tuple((start, min(start + length, n_images)) for start in range(0, n_images, length))


# ---- Batch norms folded into convolutions ----


def fuse_batch_norms(module: nn.Module) -> int:
    """Fold each batch norm that directly follows a convolution into it, in place; for inference only.

    The function computed stays the same up to rounding. A network that can't be traced is left as it is.
    """
    from torch import fx, nn
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    class Tracer(fx.Tracer):
        """Keeps convolutions and norms whole, subclasses included."""

        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            """Return whether the tracer stops at a module."""
            return isinstance(m, nn.Conv2d | nn.BatchNorm2d) or super().is_leaf_module(m, module_qualified_name)

    try:
        graph = Tracer().trace(module)
    except Exception as error:  # tracing runs the model's own code on symbols, which may raise anything
        LOG.debug("batch norms stay as they are: %s", error)
        return 0
    parts = dict(module.named_modules())
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    pairs = [
        (str(node.args[0].target), str(node.target))
        for node in graph.nodes
        if _follows_convolution(node, parts) and calls[node.target] == calls[node.args[0].target] == 1
    ]
    for convolution, norm in pairs:
        module.set_submodule(convolution, fuse_conv_bn_eval(parts[convolution], parts[norm]))
        module.set_submodule(norm, _what_follows(parts[norm]))
    return len(pairs)


def _follows_convolution(node: fx.Node, parts: dict[str, nn.Module]) -> bool:
    from torch import fx, nn

    if node.op != "call_module" or not isinstance(parts[str(node.target)], nn.BatchNorm2d):
        return False
    before = node.args[0]
    return (
        isinstance(before, fx.Node)
        and before.op == "call_module"
        and isinstance(parts[str(before.target)], nn.Conv2d)
        and len(before.users) == 1
    )


def _what_follows(norm: nn.Module) -> nn.Module:
    """Return what is left of a norm: the activation that timm's norms carry, or nothing."""
    from torch import nn

    carried = [part for name in ("drop", "act") if isinstance(part := getattr(norm, name, None), nn.Module)]
    return nn.Sequential(*carried)


# ---- Loading ----


def load_backbone(
    spec: BackboneSpec,
    device: ComputeDevice,
    precision: Literal["fp32", "bf16", "fp16"],
    index: HashIndex | None = None,
) -> Backbone:
    """Load a backbone onto a device.

    Args:
        spec: The backbone.
        device: Where it runs.
        precision: Precision of its matrix products; outputs are float32 in any case.
        index: Remembered hashes of files; an adapter is held against the hash of its base.

    Returns:
        The backbone; its columns are the blocks ``cls`` and ``patch_mean`` for networks with a class token, ``pooled``
        for others.

    Raises:
        UserError: Missing or unfitting weights.
    """
    if spec.kind == "colour-histogram":
        from histotune.backbones.network import load_histogram

        return load_histogram(spec)
    if spec.kind == "external":
        raise UserError(
            "imported embeddings have no network that could embed new images",
            value=spec.name,
            fix="take a backbone that runs here, such as --backbone lite0",
        )
    from histotune.backbones.network import build_network

    config = EngineConfig(device.kind, precision, spec.size_px, spec.mean, spec.std)
    engine = Engine(partial(build_network, spec, index), config)
    return Backbone(spec, engine.blocks, engine, engine.module, engine.reruns)
