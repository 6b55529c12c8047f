"""A sweep over a matrix of PatchCamelyon's size, read from a memory-mapped file: time, memory, and what bounds it.

262,144 tiles x 3,072 columns in float16 are 1.6 GB on disk; 64 penalties, binary, on all tiles, and the same with five
folds by slide (320 fits). A process of its own does the work, so that its peak memory is that of the sweep alone,
pages of the file included. The file is written just before, so it lies in the system's file cache, as the file of an
embedding pass does. Its bound is what the data demand: the evaluations that L-BFGS needs times one measured pass with
all problems (float32, a product forth and one back) and one Gram matrix, the sampled one that the solver itself uses.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from benchmarks.harness import Claim, Part, Result, cores, measured, missing_hardware, not_measured
from benchmarks.sweep_data import draw_rows, fill

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histotune.heads.solver.problems import FitProblems

Form = Literal["all", "folds"]
N_CORES, N_TILES, N_COLUMNS, N_SLIDES, N_PENALTIES = 2, 262_144, 3072, 400, 64
PENALTIES = np.logspace(-4, 3, N_PENALTIES)
SHAPE = "64 penalties over 262,144 x 3,072 float16, memory-mapped, binary, 2 cores"
METHOD = "Synthetic embeddings with a power-law spectrum and slide effects; a process of its own, one run; its file"
METHOD += " in the system's cache; from the file to verified weights. Parts: the same with five folds by slide."
MINUTES = Claim("sweep_pcam", f"{SHAPE}: time", "min", 5.0, "at most", METHOD)
MEMORY = Claim("sweep_pcam_memory", f"{SHAPE}: peak memory with mapped pages", "GB", 4.0, "at most", METHOD)
BOUND = Claim("sweep_pcam_bound", f"{SHAPE}: time over (evaluations x one pass + one Gram matrix)", "x", 1.5, "at most",
              f"{METHOD} The pass is measured right after, median of 3, with all 64 problems.")  # fmt: skip
GRADIENT = Claim("sweep_pcam_gradient", f"{SHAPE}: largest gradient norm over max(1, |w|)", "", 1e-5, "at most",
                 "Norms by float64 products over the stored matrix; parts: the norm of every penalty.")  # fmt: skip
# N tiles, D columns, P problems


@dataclass(frozen=True)
class Run:
    """What one process measured.

    Attributes:
        total_s: From the file to the weights.
        pass_s: One evaluation of all problems; median of 3.
        gram_s: The Gram matrix of the solver.
        passes: Evaluations.
        peak_gb: Peak resident memory, before pass and Gram matrix were measured on their own.
        norms: Gradient norm of every fit over max(1, |w|), the largest per penalty.
        converged: Fits that met the tolerance.
        fits: Fits.
    """

    total_s: float
    pass_s: float
    gram_s: float
    passes: int
    peak_gb: float
    norms: tuple[float, ...]
    converged: int
    fits: int

    @property
    def bound(self) -> float:
        """Time over what the data demand."""
        return self.total_s / (self.passes * self.pass_s + self.gram_s)


def measure() -> tuple[Result, ...]:
    """Write the file, and sweep it in both forms."""
    lacking = missing_hardware(n_cpus=N_CORES)
    if lacking:
        return tuple(not_measured(claim, lacking) for claim in (MINUTES, MEMORY, BOUND, GRADIENT))
    with tempfile.TemporaryDirectory(prefix="histotune-pcam-") as name, cores(N_CORES):
        path = Path(name) / "embeddings.npy"
        write_matrix(path)
        return results(run(path, "all"), run(path, "folds"))


def write_matrix(path: Path, n_tiles: int = N_TILES, n_columns: int = N_COLUMNS) -> None:
    """Write synthetic embeddings as a ``.npy`` file.

    Args:
        path: File to write.
        n_tiles: Rows.
        n_columns: Columns.
    """
    out_ND = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(n_tiles, n_columns))
    fill(out_ND, draw_rows(n_tiles, N_SLIDES), n_columns)
    out_ND.flush()


def run(path: Path, form: Form) -> Run:
    """Sweep in a process of its own.

    Args:
        path: The matrix.
        form: ``all`` tiles, or five ``folds``.

    Returns:
        Its figures.
    """
    command = [sys.executable, "-m", "benchmarks.sweep_pcam", "--matrix", str(path), "--form", form]
    found = subprocess.run(command, check=True, capture_output=True, text=True, env=dict(os.environ))
    return Run(**json.loads(found.stdout))


def results(one: Run, folds: Run) -> tuple[Result, ...]:
    """Return the claims' results.

    Args:
        one: The sweep on all tiles.
        folds: The sweep with five folds.

    Returns:
        Four results.
    """
    parts = [Part(f"{name}{label}", value) for name, found in (("", one), ("five folds: ", folds))
             for label, value in (("total, s", found.total_s), ("one pass, s", found.pass_s),
                                  ("Gram matrix, s", found.gram_s), ("passes", found.passes),
                                  ("peak, GB", found.peak_gb), ("over the bound", found.bound),
                                  ("fits", found.fits), ("converged", found.converged))]  # fmt: skip
    norms = [Part(f"penalty {penalty:.3g}", norm) for penalty, norm in zip(PENALTIES, one.norms, strict=True)]
    return (
        measured(MINUTES, [one.total_s / 60.0], parts, N_CORES),
        measured(MEMORY, [one.peak_gb], [Part("five folds, GB", folds.peak_gb)], N_CORES),
        measured(BOUND, [one.bound], [Part("five folds", folds.bound)], N_CORES),
        measured(GRADIENT, [max(one.norms)], [*norms, Part("five folds", max(folds.norms))], N_CORES),
    )


def sweep(path: Path, form: Form) -> Run:
    """Sweep in this process.

    Args:
        path: The matrix.
        form: ``all`` tiles, or five ``folds``.

    Returns:
        The figures.
    """
    import resource

    from histotune.heads.solver.logistic import fit_batch
    from histotune.heads.solver.problems import FitProblems, FitSettings

    x_ND = np.load(path, mmap_mode="r")
    rows = draw_rows(len(x_ND), N_SLIDES)
    mask_FN = np.ones((1, len(x_ND)), bool) if form == "all" else rows.mask_FN
    mask_P = np.repeat(np.arange(len(mask_FN)), N_PENALTIES)
    problems = FitProblems(mask_FN, mask_P, np.tile(PENALTIES, len(mask_FN)), 2)
    start = time.perf_counter()
    solution = fit_batch(x_ND, rows.y_N, problems, FitSettings())
    total_s = time.perf_counter() - start
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    pass_s, gram_s = _pass_and_gram(x_ND, rows.y_N, problems)
    norm_FP = (solution.gradient_norm_P / np.maximum(1.0, solution.weight_norm_P)).reshape(len(mask_FN), -1)
    return Run(total_s, pass_s, gram_s, solution.passes, peak_gb, tuple(norm_FP.max(axis=0).tolist()),
               int(solution.converged_P.sum()), len(mask_P))  # fmt: skip


def _pass_and_gram(x_ND: NDArray[np.float16], y_N: NDArray[np.int64], problems: FitProblems) -> tuple[float, float]:
    """Time one evaluation of all problems, and the Gram matrix."""
    from histotune.heads.solver.shared_pass import Points, evaluate
    from histotune.heads.solver.stream import ArrayKit, RowStream

    stream = RowStream(x_ND, y_N, np.asarray(problems.mask_FN, np.float64), ArrayKit())
    rng = np.random.default_rng(0)
    theta_AKV = 1e-2 * rng.standard_normal((len(problems.penalty_P), 1, x_ND.shape[1] + 1))
    points = Points(theta_AKV, problems.mask_index_P, problems.penalty_P, (slice(0, x_ND.shape[1]),))
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        evaluate(stream, [points], 1, "float32")
        seconds.append(time.perf_counter() - start)
    start = time.perf_counter()
    stream.covariance()
    return sorted(seconds)[1], time.perf_counter() - start


def main() -> None:
    """Sweep one matrix in one form and print the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sweep_pcam")
    parser.add_argument("--matrix", type=Path, required=True)
    parser.add_argument("--form", choices=("all", "folds"), default="all")
    options = parser.parse_args()
    print(json.dumps(asdict(sweep(options.matrix, options.form))))


if __name__ == "__main__":
    main()
