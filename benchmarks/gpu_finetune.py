"""Fine-tuning in the shape of Midnight on one GPU under a cap of 15 GB: micro-batch, images/s, memory.

One command measures all of it and prints JSON::

    PYTHONPATH=src python -m benchmarks.gpu_finetune --out gpu_finetune.json

LoRA of rank 16 on query and value of all 40 blocks, and the last 4 blocks, in fp16 and bf16; the last blocks with the
output of the other 36 kept and without. The bare arm runs the same batches forward and backward, without an optimiser.
"""

# B batch, S side of the input, T tokens, D columns

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.gpu_command import run_gpu_script
from benchmarks.gpu_midnight import MIDNIGHT, NO_GPU, TINY, Shape
from benchmarks.harness import Claim, Part, Result, measured, not_measured

if TYPE_CHECKING:
    from histotune.backbones.spec import BackboneSpec
    from histotune.finetune.config import TrainPrecision
    from histotune.finetune.loop import TrainingTask

CAP_GB = 15.0
SIZES = (1, 2, 4, 8, 16, 32)
TIMED_STEPS = 5
METHOD = (
    f"Dinov2 of transformers with Midnight's shape and random weights, 224 px, the process capped at {CAP_GB:g} GB; "
    "micro-batches double while memory lasts; the largest one is timed, 5 steps after 1; parts name every arm."
)
OVERHEAD = Claim("finetune_midnight", "fine-tuning Midnight's shape, times its bare forward and backward passes", "x",
                 1.05, "at most", METHOD + " The worst arm.")  # fmt: skip
MEMORY = Claim("finetune_midnight_memory", "LoRA on Midnight's shape in fp16: peak GPU memory", "GB", CAP_GB,
               "at most", METHOD)  # fmt: skip


@dataclass(frozen=True)
class TunedCase:
    """One way to fine-tune.

    Attributes:
        method: ``lora`` or ``last-blocks``.
        precision: Of the matrix products.
        kept: Whether the output of the frozen blocks is kept.
    """

    method: str
    precision: TrainPrecision
    kept: bool = False

    @property
    def name(self) -> str:
        """How its figures are called."""
        return f"{self.method}, {self.precision}{', frozen output kept' if self.kept else ''}"


@dataclass(frozen=True)
class CaseFigures:
    """What one way to fine-tune came to.

    Attributes:
        name: Which.
        micro_batch: Largest micro-batch under the cap.
        images_per_s: Tiles trained per second.
        bare_images_per_s: The same for the bare passes.
        peak_gb: Memory that torch reserved.
    """

    name: str
    micro_batch: int
    images_per_s: float
    bare_images_per_s: float
    peak_gb: float


CASES = tuple(
    TunedCase(method, precision, kept)
    for precision in ("fp16", "bf16")
    for method, kept in (("lora", False), ("last-blocks", False), ("last-blocks", True))
)


def measure() -> tuple[Result, ...]:
    """Measure on the GPU that is there; without one every claim reads ``not measured``."""
    import torch

    if not torch.cuda.is_available():
        return (not_measured(OVERHEAD, NO_GPU), not_measured(MEMORY, NO_GPU))
    share = min(CAP_GB * 1e9 / torch.cuda.get_device_properties(0).total_memory, 1.0)
    torch.cuda.set_per_process_memory_fraction(share)
    figures = [figures_of(MIDNIGHT, case, "cuda", SIZES) for case in CASES]
    worst = max(one.bare_images_per_s / one.images_per_s for one in figures)
    parts = [
        Part(f"{one.name}: {what}", float(value))
        for one in figures
        for what, value in (
            ("micro-batch", one.micro_batch), ("images/s", one.images_per_s),
            ("bare images/s", one.bare_images_per_s), ("peak GB", one.peak_gb),
        )
    ]  # fmt: skip
    lora = next(one for one in figures if one.name == "lora, fp16")
    return measured(OVERHEAD, (worst,), parts, 1), measured(MEMORY, (lora.peak_gb,), parts, 1)


def figures_of(shape: Shape, case: TunedCase, device: str, sizes: tuple[int, ...]) -> CaseFigures:
    """Return the figures of one case at its largest micro-batch."""
    import torch

    found = None
    for size in sizes:
        try:
            found = (size, *timed(shape, case, device, size))
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            break
    if found is None:
        raise MemoryError(f"{case.name}: not one tile fits")
    return CaseFigures(case.name, *found)


def timed(shape: Shape, case: TunedCase, device: str, size: int) -> tuple[float, float, float]:
    """Return images/s of the loop and of the bare passes, and the peak memory in GB."""
    import torch

    from histotune.finetune.config import LoopConfig
    from histotune.finetune.loop import train

    n_tiles = size * (TIMED_STEPS + 1)
    task = task_of(shape, case, device, n_tiles)
    loop = LoopConfig(epochs=1, batch_size=size, sampling="tiles", precision=case.precision)
    one = replace(task, train_rows=task.train_rows[:size])
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    train(one, loop)
    loop_s = _seconds(device, lambda: train(replace(task, train_rows=task.train_rows[size:]), loop))
    bare_s = _seconds(device, lambda: bare(task, case, size))
    peak_gb = torch.cuda.max_memory_reserved() / 1e9 if device == "cuda" else float("nan")
    return size * TIMED_STEPS / loop_s, size * TIMED_STEPS / bare_s, peak_gb


def bare(task: TrainingTask, case: TunedCase, size: int) -> None:
    """Run forward and backward passes of the timed batches, and nothing else."""
    import torch

    device = next(task.model.parameters()).device
    half = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(case.precision)
    labels_N = torch.from_numpy(task.labels_N).to(device)
    for start in range(size, size * (TIMED_STEPS + 1), size):
        rows = task.train_rows[start : start + size]
        with torch.autocast(device.type, half, enabled=half is not None):
            logit_BK = task.model(task.inputs.tensor(rows, 0))
        torch.nn.functional.cross_entropy(logit_BK, labels_N[torch.from_numpy(rows).to(device)]).backward()  # type: ignore[no-untyped-call]
        task.model.zero_grad(set_to_none=True)


def task_of(shape: Shape, case: TunedCase, device: str, n_tiles: int) -> TrainingTask:
    """Return the training of one case on noise that lies on the device."""
    import torch

    from histotune.backbones.network import build_network
    from histotune.finetune.cut import Prefix, cut_network
    from histotune.finetune.loop import TrainingTask
    from histotune.finetune.methods import MethodChoice, make_trainable
    from histotune.finetune.tuned_model import LinearHead, TunedModel

    spec = spec_of(shape)
    torch.manual_seed(0)
    n_blocks = None if case.method == "lora" else min(4, shape.n_blocks - 1)
    trainable = make_trainable(build_network(spec), spec, MethodChoice(case.method, n_blocks))  # type: ignore[arg-type]
    network, names = trainable.network, trainable.sections.names
    inputs = torch.randn(n_tiles, 3, shape.size_px, shape.size_px)
    if case.kept:
        base = build_network(spec)
        base.module.to(device)
        prefix = Prefix(base, names[trainable.first])
        inputs = torch.cat([prefix(part.to(device)).cpu() for part in inputs.split(4)])  # type: ignore[no-untyped-call]
        del base
        network = cut_network(network, names, trainable.first, shape.size_px)
    width = 2 * shape.width
    zeros_KD = np.zeros((2, width))
    head = LinearHead(zeros_KD, np.zeros(2), np.zeros(width), np.ones(width), ("cls", "patch_mean"))
    model = TunedModel(network, head, torch.float32).to(device)
    labels_N, rows = np.arange(n_tiles) % 2, np.arange(n_tiles)
    return TrainingTask(model, {}, OnDevice(inputs, device), labels_N, [str(row) for row in rows], rows, rows[:0])


class OnDevice:
    """Inputs in main memory that go to the device batch by batch.

    Args:
        x: The inputs of all tiles.
        device: Where the model lies.
    """

    def __init__(self, x: Any, device: str) -> None:  # noqa: ANN401  (torch is imported late)
        self._x, self._device = x, device

    def tensor(self, rows: np.ndarray, view: int) -> Any:  # noqa: ANN401
        """Return the inputs of a batch."""
        return self._x[rows].to(self._device)


def spec_of(shape: Shape) -> BackboneSpec:
    """Return a Dinov2 of a shape, with random weights."""
    from histotune.backbones.spec import BackboneSpec

    settings = {
        "model_type": "dinov2", "hidden_size": shape.width, "num_hidden_layers": shape.n_blocks,
        "num_attention_heads": shape.n_heads, "image_size": shape.size_px, "patch_size": shape.patch_px,
        "use_swiglu_ffn": True,
    }  # fmt: skip
    arguments = tuple(settings.items())
    return BackboneSpec("midnight-shape", "transformers", "dinov2", weights="random", size_px=shape.size_px,
                        model_args=arguments, default_pooling=("cls", "patch_mean"))  # type: ignore[arg-type]  # fmt: skip


def smoke() -> list[dict[str, object]]:
    """Go through every case in a tiny shape on the CPU."""
    return [vars(figures_of(TINY, replace(case, precision="fp32"), "cpu", (2,))) for case in CASES[:3]]


def _seconds(device: str, work: Any) -> float:  # noqa: ANN401  (any callable)
    import torch

    start = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    """Measure, or run every step on the CPU; write or print JSON."""
    run_gpu_script("gpu_finetune", measure, smoke, "run every case in a tiny shape on the CPU")


if __name__ == "__main__":
    main()
