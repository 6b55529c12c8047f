"""The shape of Midnight on one GPU: our engine against plain transformers and against the card's matrix multiplier.

One command measures all of it and prints JSON, with torch, transformers and numpy alone beside the modules measured::

    PYTHONPATH=src python -m benchmarks.gpu_midnight --out gpu_midnight.json

A forward pass of one image takes ``2 T (4 D^2 + 3 D F) + 4 T^2 D`` floating-point operations per block, T tokens, D
columns, F hidden columns of the SwiGLU, and ``2 (T - 1) 3 P^2 D`` for the patches of P x P px; a multiplication and an
addition are two. For Midnight (T = 257, D = 1,536, F = 4,096, 40 blocks, P = 14) that is 0.60 TFLOP. A T4, whose
data sheet says 65 TFLOP/s in dense fp16, can therefore not pass about 100 images/s on it, whatever the program.

What a plain forward loses to that limit are passes over memory, not products: autocast casts every weight for every
batch and every norm's output once per linear layer behind it, and each element-wise step reads and writes the fp32
residual stream. The engine casts weights once and reads back one batch late; ``torch.compile`` fuses norms, casts,
LayerScale, residual sums and the SwiGLU's product between the matrix products.
"""

from __future__ import annotations

import copy
import statistics
from collections import deque
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from benchmarks.gpu_command import run_gpu_script
from benchmarks.harness import Arm, Claim, Part, Result, alternate, measured, not_measured, ratios

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from histotune.backbones.engine import Engine
    from histotune.backbones.network import Network
    from histotune.embeddings.precision import PrecisionCheck
    from histotune.tools.devices import Computed

Half = Literal["bf16", "fp16"]
HALVES: tuple[Half, ...] = ("bf16", "fp16")
NO_GPU = "needs an NVIDIA GPU"
ROUNDS, BATCHES_PER_ROUND = 9, 4
CAP_GB = 15.0
METHOD = (
    "Dinov2 of transformers with Midnight's shape and random weights, 224 px, in the half precision of the card; uint8"
    f" batches in main memory to float32 embeddings in main memory; arms in turns, {BATCHES_PER_ROUND} batches each,"
    f" median of {ROUNDS} after 1 warm-up; parts name every arm and the lower bound of the median (95 %)."
)
SHARE = Claim("midnight_share", "Midnight's shape on a GPU: share of the card's measured dense matmul rate", "", 0.7,
              "at least", f"{METHOD} The rate is that of square products, in turns with the arms.")  # fmt: skip
SPEEDUP = Claim("midnight_speedup", "Midnight's shape on a GPU: images/s over a plain transformers forward", "x", 1.3,
                "at least", f"{METHOD} The plain arm is given normalised float pixels on the GPU, in the same batches"
                " and autocast, and nothing is read back.")  # fmt: skip
MEMORY = Claim("midnight_memory", "Midnight's shape in fp16: peak GPU memory", "GB", CAP_GB, "at most",
               "Engine and two batches in flight, the process capped at the target; what torch reserved.")  # fmt: skip
PRECISION = Claim("midnight_precision", "Midnight's shape in fp16: error against fp32 over what is allowed", "x", 1.0,
                  "at most", "Largest of median / 0.01 and 99th percentile / 0.05 of each dimension's RMS error over"
                  " its spread between 64 smooth images, and the change of a probe's scores over their spread / 0.005;"
                  " parts: also bf16, and noise.")  # fmt: skip
# B batch, S side, C channels, N images, D columns


@dataclass(frozen=True)
class Shape:
    """The shape of a DINOv2 with SwiGLU."""

    size_px: int
    patch_px: int
    width: int
    n_blocks: int
    n_heads: int

    @property
    def hidden(self) -> int:
        """Columns inside the SwiGLU, as transformers' Dinov2SwiGLUFFN rounds them."""
        return (int(4 * self.width * 2 / 3) + 7) // 8 * 8

    @property
    def flop_per_image(self) -> float:
        """Floating-point operations of one image; the formula stands at the top of the file."""
        tokens, d = (self.size_px // self.patch_px) ** 2 + 1, self.width
        block = 2 * tokens * (4 * d**2 + 3 * d * self.hidden) + 4 * tokens**2 * d
        return float(self.n_blocks * block + 2 * (tokens - 1) * 3 * self.patch_px**2 * d)


MIDNIGHT, TINY = Shape(224, 14, 1536, 40, 24), Shape(56, 14, 48, 2, 2)


@dataclass(frozen=True)
class Plan:
    """What is measured, and how much of it.

    Attributes:
        shape: The network.
        device: A torch device.
        precision: Half precision of the timed arms.
        batch_size: Images per batch, in every arm.
        n_check: Images per precision check.
        matmul_side: Side of the square products.
    """

    shape: Shape
    device: str
    precision: Half
    batch_size: int
    n_check: int = 64
    matmul_side: int = 8192


@dataclass(frozen=True)
class Study:
    """What was measured.

    Attributes:
        seconds: Per round, by arm.
        matmul_flop_s: Measured rate of square products, per round.
        peak_gb: Memory that torch reserved in fp16 under the cap; None without a GPU.
        checks: Precision checks by precision and kind of image.
        compile_failure: Why there is no compiled arm; empty where there is one.
    """

    seconds: dict[str, tuple[float, ...]]
    matmul_flop_s: tuple[float, ...]
    peak_gb: float | None
    checks: dict[str, PrecisionCheck]
    compile_failure: str


def measure() -> tuple[Result, ...]:
    """Measure on the GPU that is there; without one every claim reads ``not measured``."""
    import torch

    if not torch.cuda.is_available():
        return tuple(not_measured(claim, NO_GPU) for claim in (SHARE, SPEEDUP, MEMORY, PRECISION))
    plan = plan_for(torch.cuda.get_device_capability(), torch.cuda.get_device_properties(0).total_memory / 2**30)
    return results(plan, study(plan))


def plan_for(capability: tuple[int, int], memory_gib: float) -> Plan:
    """Return what is measured on a card.

    Args:
        capability: CUDA compute capability; from 8.0 on bf16 is native.
        memory_gib: Memory of the card.

    Returns:
        Batches of 64, on large cards of 256.
    """
    return Plan(MIDNIGHT, "cuda", "bf16" if capability >= (8, 0) else "fp16", 256 if memory_gib > 30 else 64)


def study(plan: Plan) -> Study:
    """Measure memory, precision and speed, in this order: each frees what the next does not need.

    Args:
        plan: What to measure; on a CPU the speeds say nothing about the claims, but every step runs.

    Returns:
        The figures.
    """
    network = _random_network(plan.shape)
    peak_gb = _peak_gb(plan, network) if plan.device == "cuda" else None
    checks = _checks(plan, network)
    arms, failure = _engine_arms(plan, network)
    multiply, flop = _matmul(plan)
    arms += [Arm("plain", _plain(plan, network)), Arm("matmul", multiply)]
    seconds = alternate(arms, repeats=ROUNDS)
    rates = tuple(flop / one for one in seconds.pop("matmul"))
    return Study(seconds, rates, peak_gb, checks, failure)


def results(plan: Plan, found: Study) -> tuple[Result, ...]:
    """Return the claims' results.

    Args:
        plan: What was measured.
        found: The figures; complete, from a GPU.

    Returns:
        Four results.
    """
    from histotune.embeddings.precision import MEDIAN_LIMIT, P99_LIMIT, PROBE_LIMIT

    ours = "compiled engine" if "compiled engine" in found.seconds else "engine"
    n_images = plan.batch_size * BATCHES_PER_ROUND
    rates = {arm: [n_images / one for one in values] for arm, values in found.seconds.items()}
    shares = [rate * plan.shape.flop_per_image / peak
              for rate, peak in zip(rates[ours], found.matmul_flop_s, strict=True)]  # fmt: skip
    speedups = ratios(found.seconds, "plain", ours)
    parts = [Part(f"{arm}, images/s", statistics.median(values)) for arm, values in rates.items()]
    parts.append(Part(f"matmul {plan.precision}, TFLOP/s", statistics.median(found.matmul_flop_s) / 1e12))
    checks = [Part(f"{name}, {part}", value) for name, check in found.checks.items()
              for part, value in (("median", check.median_error), ("p99", check.p99_error),
                                  ("probe", check.probe_error))]  # fmt: skip
    fp16 = found.checks["fp16, smooth"]
    share = max(fp16.median_error / MEDIAN_LIMIT, fp16.p99_error / P99_LIMIT, fp16.probe_error / PROBE_LIMIT)
    memory = not_measured(MEMORY, NO_GPU) if found.peak_gb is None else measured(MEMORY, [found.peak_gb])
    return (
        measured(SHARE, shares, [*parts, Part("lower bound", lower_bound(shares))]),
        measured(SPEEDUP, speedups, [*parts, Part("lower bound", lower_bound(speedups))]),
        memory,
        measured(PRECISION, [share], checks),
    )


def lower_bound(samples: list[float] | tuple[float, ...]) -> float:
    """Return the 95 % lower bound of a median: the second smallest of nine samples (binomial, 98 %), as it happens.

    Args:
        samples: Nine, one per round.

    Returns:
        The bound.
    """
    return sorted(samples)[1]


def _random_network(shape: Shape) -> Network:
    """Build the network on the CPU in fp32."""
    import torch
    from transformers import Dinov2Config, Dinov2Model

    from histotune.backbones.network import transformers_network

    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=shape.width, num_hidden_layers=shape.n_blocks, num_attention_heads=shape.n_heads,
        patch_size=shape.patch_px, image_size=shape.size_px, use_swiglu_ffn=True,
    )  # fmt: skip
    return transformers_network(Dinov2Model(config).eval())


def _engine(plan: Plan, network: Network, precision: Computed) -> Engine:
    """Return an engine over a copy of the network."""
    from histotune.backbones.engine import Engine, EngineConfig
    from histotune.backbones.network import transformers_network

    half = (0.5, 0.5, 0.5)
    config = EngineConfig(plan.device, precision, plan.shape.size_px, half, half)
    return Engine(lambda: transformers_network(copy.deepcopy(network.module)), config)


def _pixels(n_images: int, size_px: int, *, smooth: bool, seed: int = 0) -> NDArray[np.uint8]:
    """Return noise, or noise that was drawn coarse and enlarged, as tissue is smoother than its pixels."""
    import numpy as np
    import torch

    rng = np.random.default_rng(seed)
    side = 8 if smooth else size_px
    drawn_NSSC = rng.integers(0, 256, (n_images, side, side, 3), dtype=np.uint8)
    if not smooth:
        return drawn_NSSC
    coarse_NCSS = torch.from_numpy(drawn_NSSC).permute(0, 3, 1, 2).float()
    fine_NCSS = torch.nn.functional.interpolate(coarse_NCSS, size=(size_px, size_px), mode="bicubic")
    return np.ascontiguousarray(fine_NCSS.clamp(0, 255).round().byte().permute(0, 2, 3, 1).numpy())


def _run(engine: Engine, batches: list[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
    """Embed batches as a real run does: the next is on its way before the results of one are read back."""
    rows, waiting = [], deque[Any]()
    for pixels_BSSC in batches:
        waiting.append(engine.submit(pixels_BSSC, full=len(batches[0])))
        if len(waiting) > engine.ahead:
            rows.append(engine.collect(waiting.popleft()))
    return rows + [engine.collect(one) for one in waiting]


def _peak_gb(plan: Plan, network: Network) -> float:
    """Embed in fp16 with the process held to the cap; more memory would be an error."""
    import torch

    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(CAP_GB * 1e9 / total, 1.0))
    torch.cuda.reset_peak_memory_stats()
    engine = _engine(plan, network, "fp16")
    _run(engine, [_pixels(plan.batch_size, plan.shape.size_px, smooth=False)] * 3)
    peak_gb = float(torch.cuda.max_memory_reserved()) / 1e9
    del engine
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1.0)
    return peak_gb


def _checks(plan: Plan, network: Network) -> dict[str, PrecisionCheck]:
    """Hold bf16 and fp16 against fp32, on smooth images and on noise."""
    import numpy as np

    from histotune.embeddings.precision import compare_precision

    images = {name: _pixels(plan.n_check, plan.shape.size_px, smooth=name == "smooth") for name in ("smooth", "noise")}
    found: dict[str, dict[str, NDArray[np.float32]]] = {}
    precisions: tuple[Computed, ...] = ("fp32", *HALVES)
    for precision in precisions:
        engine = _engine(plan, network, precision)
        found[precision] = {name: np.concatenate(_run(engine, list(np.array_split(pixels_NSSC, 4))))
                            for name, pixels_NSSC in images.items()}  # fmt: skip
        del engine
        _empty_cache(plan)
    return {
        f"{precision}, {name}": compare_precision(precision, found["fp32"][name], found[precision][name])
        for precision in HALVES
        for name in images
    }


def _engine_arms(plan: Plan, network: Network) -> tuple[list[Arm], str]:
    """Return the engine as it is, and compiled; or why there is no compiled one."""
    from histotune.backbones.engine import CompilationError

    batches = [_pixels(plan.batch_size, plan.shape.size_px, smooth=True)] * BATCHES_PER_ROUND
    arms = [Arm("engine", partial(_run, _engine(plan, network, plan.precision), batches))]
    compiled = _engine(plan, network, plan.precision)
    try:
        compiled.compile(plan.batch_size)
    except CompilationError as error:
        return arms, str(error)
    return [*arms, Arm("compiled engine", partial(_run, compiled, batches))], ""


def _plain(plan: Plan, network: Network) -> Callable[[], object]:
    """Return the forward as a user of transformers writes it; the network is moved, so this comes last."""
    import torch

    module = network.module.to(plan.device)
    batch_BSSC = _pixels(plan.batch_size, plan.shape.size_px, smooth=True)
    x_BCSS = torch.from_numpy(batch_BSSC).to(plan.device).permute(0, 3, 1, 2).float().div(255).sub(0.5).div(0.5)
    x_BCSS = x_BCSS.contiguous()
    dtype = torch.bfloat16 if plan.precision == "bf16" else torch.float16

    def forward() -> None:
        with torch.inference_mode(), torch.autocast(plan.device, dtype=dtype):
            for _ in range(BATCHES_PER_ROUND):
                tokens_BTD = module(pixel_values=x_BCSS).last_hidden_state
                torch.cat([tokens_BTD[:, 0], tokens_BTD[:, 1:].mean(1)], dim=1)
        _synchronize(plan)

    return forward


def _matmul(plan: Plan) -> tuple[Callable[[], object], float]:
    """Return dense square products in the half precision of the card, and how many operations they are."""
    import torch

    dtype = torch.bfloat16 if plan.precision == "bf16" else torch.float16
    a, b = (torch.randn(plan.matmul_side, plan.matmul_side, device=plan.device).to(dtype) for _ in range(2))
    product, times = torch.empty_like(a), 20

    def multiply() -> None:
        for _ in range(times):
            torch.mm(a, b, out=product)
        _synchronize(plan)

    return multiply, 2.0 * plan.matmul_side**3 * times


def _synchronize(plan: Plan) -> None:
    import torch

    if plan.device == "cuda":
        torch.cuda.synchronize()


def _empty_cache(plan: Plan) -> None:
    import torch

    if plan.device == "cuda":
        torch.cuda.empty_cache()


def main() -> None:
    """Measure everything and write one JSON file."""
    plan = Plan(TINY, "cpu", "bf16", 2, n_check=8, matmul_side=128)
    run_gpu_script("gpu_midnight", measure, lambda: asdict(study(plan)),
                   "a tiny network on the CPU: every step, no claim")  # fmt: skip


if __name__ == "__main__":
    main()
