"""Sweeps on one GPU: 240 exact fits over 8,000 tiles, and 64 penalties over a matrix of PatchCamelyon's size.

One command measures both and prints JSON, with torch and NumPy alone beside the modules measured::

    PYTHONPATH=src python -m benchmarks.gpu_sweep --out gpu_sweep.json

The work is that of ``sweep_exact`` and ``sweep_pcam``: the same problems, tolerance and float64 verification. Both are
timed from a float16 matrix in main memory to weights in main memory. A float32 product takes 2 A N D operations for A
problems; TF32 is never used, because half of float32's digits would be missing from gradients near the solution.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.gpu_command import run_gpu_script
from benchmarks.harness import Claim, Part, Result, measured, not_measured

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histotune.heads.solver.problems import FitProblems, FitSolution

NO_GPU = "needs an NVIDIA GPU"
ROUNDS = 5
METHOD = f"Tolerance 1e-6 of the gradient, verified by float64 products; median of {ROUNDS} after 1 warm-up."
EXACT = Claim("gpu_sweep_exact", "240 logistic regressions, 8,000 tiles x 3,072 columns, on a GPU: over the same solver"
              " on this machine's processor", "x", 5.0, "at least", METHOD)  # fmt: skip
PCAM = Claim("gpu_sweep_pcam", "64 penalties over 262,144 x 3,072 float16 on a GPU: time over (evaluations x one pass +"
             " one Gram matrix)", "x", 1.5, "at most", METHOD)  # fmt: skip
GRADIENT = Claim("gpu_sweep_gradient", "sweeps on a GPU: largest gradient norm over max(1, |w|)", "", 1e-5, "at most",
                 METHOD)  # fmt: skip
# N tiles, D columns, P problems


@dataclass(frozen=True)
class Shape:
    """How large the two sweeps are."""

    n_tiles: int
    block_dim: int
    n_slides: int
    n_large: int
    large_dim: int
    n_penalties: int


FULL, TINY = Shape(8000, 1536, 160, 262_144, 3072, 64), Shape(600, 24, 40, 2000, 48, 4)


@dataclass(frozen=True)
class Study:
    """What was measured.

    Attributes:
        exact_s: 240 fits, per round, on the device.
        exact_cpu_s: The same on the processor, once.
        pcam_s: 64 penalties, per round.
        pass_s: One evaluation of all 64.
        gram_s: The Gram matrix.
        pcam_passes: Evaluations.
        exact_norm: Largest gradient norm over max(1, |w|) of the 240 fits.
        pcam_norms: That of each penalty.
        peak_gb: Device memory that torch reserved; None without a GPU.
    """

    exact_s: tuple[float, ...]
    exact_cpu_s: float
    pcam_s: tuple[float, ...]
    pass_s: float
    gram_s: float
    pcam_passes: int
    exact_norm: float
    pcam_norms: tuple[float, ...]
    peak_gb: float | None


def measure() -> tuple[Result, ...]:
    """Measure on the GPU that is there; without one every claim reads ``not measured``."""
    import torch

    if not torch.cuda.is_available():
        return tuple(not_measured(claim, NO_GPU) for claim in (EXACT, PCAM, GRADIENT))
    return results(study(FULL, "cuda"))


def study(shape: Shape, device: str) -> Study:
    """Measure both sweeps.

    Args:
        shape: How large they are.
        device: A device of :class:`histotune.heads.solver.stream.ArrayKit`.

    Returns:
        The figures.
    """
    from benchmarks.sweep_exact import make_bench

    bench = make_bench(shape.n_tiles, shape.block_dim, shape.n_slides)
    exact_s, exact = _timed(bench.x_ND, bench.rows.y_N, bench.problems, device, 1 + ROUNDS)
    cpu_s, _ = _timed(bench.x_ND, bench.rows.y_N, bench.problems, "cpu", 1)
    x_ND, y_N, problems = _large(shape)
    pcam_s, pcam = _timed(x_ND, y_N, problems, device, 1 + ROUNDS)
    pass_s, gram_s = _pass_and_gram(x_ND, y_N, problems, device)
    return Study(exact_s[1:], cpu_s[0], pcam_s[1:], pass_s, gram_s, pcam.passes, float(_relative(exact).max()),
                 tuple(_relative(pcam).tolist()), _peak_gb(device))  # fmt: skip


def results(found: Study) -> tuple[Result, ...]:
    """Return the claims' results.

    Args:
        found: The figures; from a GPU.

    Returns:
        Three results.
    """
    bound_s = found.pcam_passes * found.pass_s + found.gram_s
    exact = [Part("GPU, s", statistics.median(found.exact_s)), Part("processor, s", found.exact_cpu_s)]
    pcam = [Part("total, s", statistics.median(found.pcam_s)), Part("one pass, s", found.pass_s),
            Part("Gram matrix, s", found.gram_s), Part("passes", found.pcam_passes),
            Part("GPU memory, GB", found.peak_gb or 0.0)]  # fmt: skip
    norms = [Part(f"penalty {number}", norm) for number, norm in enumerate(found.pcam_norms)]
    return (
        measured(EXACT, [found.exact_cpu_s / one for one in found.exact_s], exact),
        measured(PCAM, [one / bound_s for one in found.pcam_s], pcam),
        measured(GRADIENT, [max(found.exact_norm, *found.pcam_norms)], norms),
    )


def _large(shape: Shape) -> tuple[NDArray[np.float16], NDArray[np.int64], FitProblems]:
    from benchmarks.sweep_data import draw_rows, fill
    from histotune.heads.solver.problems import FitProblems

    rows = draw_rows(shape.n_large, shape.n_slides)
    x_ND = np.empty((shape.n_large, shape.large_dim), np.float16)
    fill(x_ND, rows, shape.large_dim)
    penalties = np.logspace(-4, 3, shape.n_penalties)
    return x_ND, rows.y_N, FitProblems(np.ones((1, shape.n_large), bool), np.zeros(len(penalties), int), penalties, 2)


def _timed(
    x_ND: NDArray[np.float16], y_N: NDArray[np.int64], problems: FitProblems, device: str, repeats: int
) -> tuple[tuple[float, ...], FitSolution]:
    from histotune.heads.solver.logistic import fit_batch
    from histotune.heads.solver.problems import FitSettings

    seconds = []
    for _ in range(repeats):  # the weights are in main memory at the end: nothing is left to wait for
        start = time.perf_counter()
        solution = fit_batch(x_ND, y_N, problems, FitSettings(device=device))
        seconds.append(time.perf_counter() - start)
    return tuple(seconds), solution


def _pass_and_gram(
    x_ND: NDArray[np.float16], y_N: NDArray[np.int64], problems: FitProblems, device: str
) -> tuple[float, float]:
    """Time one evaluation of all problems, and the Gram matrix; reading a result back waits for the device."""
    from histotune.heads.solver.shared_pass import Points, evaluate
    from histotune.heads.solver.stream import ArrayKit, RowStream

    kit = ArrayKit(device)
    stream = RowStream(x_ND, y_N, np.asarray(problems.mask_FN, np.float64), kit)
    theta_AKV = kit.zeros((len(problems.penalty_P), 1, x_ND.shape[1] + 1), "float64")
    points = Points(theta_AKV, problems.mask_index_P, problems.penalty_P, (slice(0, x_ND.shape[1]),))
    seconds = []
    for _ in range(1 + ROUNDS):
        start = time.perf_counter()
        kit.host(evaluate(stream, [points], 1, "float32")[0].gradient_AKV)
        seconds.append(time.perf_counter() - start)
    kit.host(stream.covariance()[0])
    start = time.perf_counter()
    kit.host(stream.covariance()[0])
    return statistics.median(seconds[1:]), time.perf_counter() - start


def _relative(solution: FitSolution) -> NDArray[np.float64]:
    return np.asarray(solution.gradient_norm_P / np.maximum(1.0, solution.weight_norm_P))


def _peak_gb(device: str) -> float | None:
    import torch

    return float(torch.cuda.max_memory_reserved()) / 1e9 if device == "cuda" else None


def main() -> None:
    """Measure everything and write one JSON file."""
    run_gpu_script("gpu_sweep", measure, lambda: asdict(study(TINY, "torch:cpu")),
                   "tiny sweeps with torch on the CPU: every step, no claim")  # fmt: skip


if __name__ == "__main__":
    main()
