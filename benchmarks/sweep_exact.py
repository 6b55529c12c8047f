"""240 exact logistic regressions over one matrix: all at once, against scikit-learn one at a time.

16 penalties, five folds by slide and three poolings (each of two blocks of 1,536 columns, and both), 8,000 tiles,
float16. The peers fit the same rows, standardised on the same training tiles in float64 before their clock starts,
with C = 1 / (penalty * n_train), tolerance 1e-6 and warnings fatal; ours is timed from the float16 matrix to the
weights on raw columns of all 240 fits, standardisation, decomposition and float64 verification included.

scikit-learn's totals are extrapolated from a random sample, stratified by pooling and third of the penalties: every
round draws another fold and other penalties. Its fastest path is the fastest of four, all with both cores: lbfgs,
newton-cholesky, and both warm-started from the next stronger penalty along whole paths.
"""

from __future__ import annotations

import statistics
import time
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.harness import (
    Claim,
    Part,
    Result,
    cores,
    measured,
    missing_hardware,
    not_measured,
)
from benchmarks.sweep_data import N_FOLDS, Rows, draw_rows, make_matrix

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histotune.heads.solver.problems import FitProblems, FitSolution

    Float = NDArray[np.float64]

N_CORES, ROUNDS, N_TILES, BLOCK_DIM, N_SLIDES = 2, 5, 8000, 1536, 160
PENALTIES = np.logspace(-4, 3, 16)
COARSE = 0.01
"""Tolerance of the fit whose objectives need only lie within 1e-2 of the optimum."""
PEER_TOLERANCE, MAX_ITERATIONS, REFERENCE_TOLERANCE = 1e-6, 10_000, 1e-10
SHAPE = "240 logistic regressions (16 penalties x 5 folds x 3 poolings), 8,000 tiles x 3,072 columns, 2 cores"
METHOD = (
    "float16 synthetic embeddings with a power-law spectrum and slide effects; ours alternates with a random sample of"
    f" the peer's fits, median of {ROUNDS} after 1 warm-up; the peer's total is extrapolated from the sample (pooling x"
    " third of the penalties), its features standardised in float64 before its clock starts, tol 1e-6, max_iter"
    " 10,000, warnings fatal."
)
SPEEDUP = Claim("sweep_exact", f"{SHAPE}: over scikit-learn's lbfgs, one at a time", "x", 50.0, "at least", METHOD)
FASTEST = Claim("sweep_exact_fastest", f"{SHAPE}: over scikit-learn's fastest path on both cores", "x", 10.0,
                "at least", f"{METHOD} Fastest of lbfgs and newton-cholesky, each also along warm-started paths (one"
                " whole path of every width).")  # fmt: skip
GRADIENT = Claim("sweep_exact_gradient", f"{SHAPE}: largest gradient norm over max(1, |w|)", "", 1e-5, "at most",
                 "Gradient of every fit in float64 from the raw matrix and the returned weights, in standardised"
                 " columns.")  # fmt: skip
LOGITS = Claim("sweep_exact_logits", f"{SHAPE}: largest difference of a held-out logit", "", 1e-3, "at most",
               "Against scikit-learn's newton-cholesky in float64 with tol 1e-10: the weakest, a middle and the"
               " strongest penalty of one fold, three poolings.")  # fmt: skip
# N tiles, D columns, P problems, C columns of a pooling


@dataclass(frozen=True)
class Bench:
    """The data and the problems."""

    x_ND: NDArray[np.float16]
    rows: Rows
    problems: FitProblems

    def training(self, fold: int, pooling: int) -> tuple[Float, Float, Float]:
        """Return standardised training columns, and the means and divisors they were standardised with."""
        x_nC = self.x_ND[self.rows.mask_FN[fold]][:, self.problems.columns[pooling]].astype(np.float64)
        mean_C, std_C = x_nC.mean(axis=0), x_nC.std(axis=0)
        std_C = np.maximum(std_C, 0.3 * np.median(std_C))  # the floor under the divisors; no column is constant
        x_nC -= mean_C
        x_nC /= std_C
        return x_nC, mean_C, std_C


@dataclass
class Peer:
    """Seconds of the peer's sampled fits, by (pooling, third of the penalties), and of whole warm paths by width."""

    seconds: dict[tuple[int, int], list[float]] = field(default_factory=dict)
    paths: dict[int, list[float]] = field(default_factory=dict)

    def total(self) -> float:
        """Return the seconds of all 240 fits one at a time, from the mean of each stratum."""
        thirds = [len(part) for part in np.array_split(PENALTIES, 3)]
        return sum(N_FOLDS * thirds[third] * statistics.mean(values) for (_, third), values in self.seconds.items())

    def path_total(self) -> float:
        """Return the seconds of all 15 warm-started paths: ten over one block, five over both."""
        return 2 * N_FOLDS * statistics.mean(self.paths[1]) + N_FOLDS * statistics.mean(self.paths[2])


def make_bench(n_tiles: int = N_TILES, block_dim: int = BLOCK_DIM, n_slides: int = N_SLIDES) -> Bench:
    """Return data and problems.

    Args:
        n_tiles: Tiles.
        block_dim: Columns of each of the two blocks.
        n_slides: Slides.

    Returns:
        The bench.
    """
    from histotune.heads.solver.problems import FitProblems

    rows = draw_rows(n_tiles, n_slides)
    sets = (np.arange(block_dim), np.arange(block_dim, 2 * block_dim), np.arange(2 * block_dim))
    n_set = N_FOLDS * len(PENALTIES)
    problems = FitProblems(
        rows.mask_FN, np.tile(np.repeat(np.arange(N_FOLDS), len(PENALTIES)), 3), np.tile(PENALTIES, 3 * N_FOLDS), 2,
        sets, np.repeat(np.arange(3), n_set),
    )  # fmt: skip
    return Bench(make_matrix(rows, 2 * block_dim), rows, problems)


def measure() -> tuple[Result, ...]:
    """Time all arms in turns, then verify every fit."""
    lacking = missing_hardware(n_cpus=N_CORES)
    if lacking:
        return tuple(not_measured(claim, lacking) for claim in (SPEEDUP, FASTEST, GRADIENT, LOGITS))
    with cores(N_CORES), warnings.catch_warnings():
        warnings.simplefilter("error")
        bench = make_bench()
        solution, ours, coarse, peers = _alternate(bench)
        gradient, gap = _largest_gradient(bench, solution), _coarse_gap(bench, solution)
        difference = _largest_difference(bench, solution)
    return _results(ours, coarse, peers, (gradient, gap, difference, solution.passes))


def _alternate(bench: Bench) -> tuple[FitSolution, list[float], float, dict[str, Peer]]:
    """Run ours and the sampled peers in turns; the first round only warms up."""
    rng = np.random.default_rng(0)
    peers = {name: Peer() for name in ("lbfgs", "newton-cholesky", "warm lbfgs", "warm newton-cholesky")}
    solution = _ours(bench)
    ours = []
    for number in range(ROUNDS):
        start = time.perf_counter()
        solution = _ours(bench)
        ours.append(time.perf_counter() - start)
        for third in range(3):
            _sample(bench, peers["lbfgs"], "lbfgs", (number, number % 3, third), rng)
            if number < 3:  # its time hardly depends on the penalty and not on the block
                _sample(bench, peers["newton-cholesky"], "newton-cholesky", (number, number, third), rng)
    for pooling in (1, 2):
        for solver in ("lbfgs", "newton-cholesky"):
            _path(bench, peers[f"warm {solver}"], solver, pooling)
    start = time.perf_counter()
    _ours(bench, COARSE)
    return solution, ours, time.perf_counter() - start, peers


def _ours(bench: Bench, tolerance: float = 1e-6) -> FitSolution:
    from histotune.heads.solver.logistic import fit_batch
    from histotune.heads.solver.problems import FitSettings

    return fit_batch(bench.x_ND, bench.rows.y_N, bench.problems, FitSettings(tolerance=tolerance))


def _sample(bench: Bench, peer: Peer, solver: str, where: tuple[int, int, int], rng: np.random.Generator) -> None:
    """Time one fit of the peer with a random penalty of a third."""
    fold, pooling, third = where
    z_nC, _, _ = bench.training(fold, pooling)
    penalty = float(rng.choice(np.array_split(PENALTIES, 3)[third]))
    seconds = _timed_path(z_nC, bench.rows.y_N[bench.rows.mask_FN[fold]], solver, [penalty])
    peer.seconds.setdefault((pooling, third), []).append(seconds)


def _path(bench: Bench, peer: Peer, solver: str, pooling: int) -> None:
    z_nC, _, _ = bench.training(0, pooling)
    seconds = _timed_path(z_nC, bench.rows.y_N[bench.rows.mask_FN[0]], solver, sorted(PENALTIES, reverse=True))
    peer.paths.setdefault(pooling, []).append(seconds)


def _timed_path(z_nC: Float, y_n: NDArray[np.int64], solver: str, penalties: list[float]) -> float:
    """Fit penalties one after the other, each from the solution of the one before."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(solver=solver, tol=PEER_TOLERANCE, max_iter=MAX_ITERATIONS, warm_start=True)
    start = time.perf_counter()
    for penalty in penalties:
        model.set_params(C=1.0 / (penalty * len(z_nC))).fit(z_nC, y_n)
    return time.perf_counter() - start


def _largest_gradient(bench: Bench, solution: FitSolution) -> float:
    """Compute every fit's gradient anew, in float64 from the raw matrix."""
    worst = 0.0
    for pooling, columns in enumerate(bench.problems.columns):
        for fold in range(N_FOLDS):
            z_nC, mean_C, std_C = bench.training(fold, pooling)
            which = (bench.problems.columns_index_P == pooling) & (bench.problems.mask_index_P == fold)
            raw_PC = solution.weight_PKD[which][:, 0][:, columns]
            w_PC = raw_PC * std_C
            logit_nP = z_nC @ w_PC.T + (solution.bias_PK[which, 0] + raw_PC @ mean_C)
            residual_nP = (1.0 / (1.0 + np.exp(-logit_nP)) - bench.rows.y_N[bench.rows.mask_FN[fold]][:, None]) / len(
                z_nC
            )
            gradient_PC = residual_nP.T @ z_nC + bench.problems.penalty_P[which][:, None] * w_PC
            norm_P = np.sqrt((gradient_PC**2).sum(axis=1) + residual_nP.sum(axis=0) ** 2)
            worst = max(worst, float((norm_P / np.maximum(1.0, np.linalg.norm(w_PC, axis=1))).max()))
    return worst


def _coarse_gap(bench: Bench, solution: FitSolution) -> float:
    """Return the largest relative excess of the coarse fit's objectives."""
    return float((_ours(bench, COARSE).objective_P / solution.objective_P - 1.0).max())


def _largest_difference(bench: Bench, solution: FitSolution) -> float:
    """Compare held-out logits with tight float64 fits of the peer."""
    from sklearn.linear_model import LogisticRegression

    worst, fold = 0.0, 0
    train_N = bench.rows.mask_FN[fold]
    for pooling, columns in enumerate(bench.problems.columns):
        z_nC, mean_C, std_C = bench.training(fold, pooling)
        held_mC = bench.x_ND[~train_N][:, columns].astype(np.float64)
        for number in (0, len(PENALTIES) // 2, len(PENALTIES) - 1):
            model = LogisticRegression(solver="newton-cholesky", tol=REFERENCE_TOLERANCE, max_iter=MAX_ITERATIONS,
                                       C=1.0 / (PENALTIES[number] * len(z_nC)))  # fmt: skip
            theirs_m = model.fit(z_nC, bench.rows.y_N[train_N]).decision_function((held_mC - mean_C) / std_C)
            row = (pooling * N_FOLDS + fold) * len(PENALTIES) + number
            ours_m = held_mC @ solution.weight_PKD[row, 0, columns] + solution.bias_PK[row, 0]
            worst = max(worst, float(np.abs(ours_m - theirs_m).max()))
    return worst


def _results(
    ours: list[float], coarse: float, peers: dict[str, Peer], checks: tuple[float, float, float, int]
) -> tuple[Result, ...]:
    gradient, gap, difference, passes = checks
    totals = {name: peer.path_total() if peer.paths else peer.total() for name, peer in peers.items()}
    parts = [Part("ours, s", statistics.median(ours)), *(Part(f"{name}, s", total) for name, total in totals.items())]
    n_sampled = sum(len(values) for values in peers["lbfgs"].seconds.values())
    notes = [Part("sampled lbfgs fits", n_sampled), Part("passes", passes), Part("ours to a 1e-2 gap, s", coarse),
             Part("largest relative gap there", gap)]  # fmt: skip
    fastest = min(totals.values())
    return (
        measured(SPEEDUP, [totals["lbfgs"] / one for one in ours], parts + notes, N_CORES),
        measured(FASTEST, [fastest / one for one in ours], parts, N_CORES),
        measured(GRADIENT, [gradient], (), N_CORES),
        measured(LOGITS, [difference], (), N_CORES),
    )
